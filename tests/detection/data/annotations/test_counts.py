"""`detect count`: images and objects of every category."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detection.cli import main
from detection.data.annotations.counts import count_categories, table_of
from shared.errors import DataError


@pytest.fixture
def counted_file(tmp_path: Path) -> Path:
    boxes = [(1, 2), (1, 2), (2, 2), (2, 7), (3, 2)]  # image, category
    what = {
        "images": [{"id": 1}, {"id": 2}, {"id": 3}],
        "annotations": [{"image_id": i, "category_id": c, "iscrowd": 1} for i, c in boxes],
        "categories": [
            {"id": 7, "name": "cat"},
            {"id": 2, "name": "dog"},
            {"id": 4, "name": "owl", "synset": "owl.n.01"},
        ],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(what))
    return path


def test_by_id_with_images_counted_once(counted_file: Path) -> None:
    counted = count_categories(counted_file)
    assert [(c["id"], c["image_count"], c["instance_count"]) for c in counted] == [(2, 3, 4), (4, 0, 0), (7, 1, 1)]
    assert counted[1]["synset"] == "owl.n.01"


def test_the_table_says_which_have_none(counted_file: Path) -> None:
    lines = table_of(count_categories(counted_file), counted_file)
    assert lines[1].split() == ["2", "3", "4", "rare", "dog"]
    assert lines[-2].startswith("5 objects of 3 categories") and "by the images of this file" in lines[-2]
    assert lines[-1] == "1 of 3 categories have no object here: owl"


def test_a_file_that_says_how_frequent_a_category_is_is_believed(counted_file: Path) -> None:
    what = json.loads(counted_file.read_text())
    for category in what["categories"]:
        category |= {"frequency": "f", "image_count": 5000}
    counted_file.write_text(json.dumps(what))
    counted = count_categories(counted_file)
    assert counted[0]["image_count"] == 3 and " frequent " in table_of(counted, counted_file)[1]


def test_json_is_a_list_of_categories(counted_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["count", str(counted_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == count_categories(counted_file)


def test_what_looks_like_an_annotation_elsewhere_does_not_count(counted_file: Path) -> None:
    what = json.loads(counted_file.read_text())
    expected = count_categories(counted_file)
    what["first"] = {"image_id": 1, "category_id": 99}
    counted_file.write_text(json.dumps(what))
    assert count_categories(counted_file) == expected


def test_annotations_of_unknown_or_no_category_are_refused(counted_file: Path) -> None:
    what = json.loads(counted_file.read_text())
    for category, sentence in ((3, "category 3, which it does not list"), (None, "no integer category_id")):
        what["annotations"][0]["category_id"] = category
        counted_file.write_text(json.dumps(what))
        with pytest.raises(DataError, match=sentence):
            count_categories(counted_file)
