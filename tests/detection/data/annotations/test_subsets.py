"""`detect subset`: the same images every time, nothing of the file lost."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.cli import main
from detection.data.annotations.subsets import write_subset
from shared.errors import DataError, UsageError

GOLDEN = [3, 16, 6, 10, 2, 14, 4, 17, 7, 1, 13, 0, 19, 18, 9, 15, 8, 12, 11, 5]  # RandomState(1), 20 images


def coco(count: int, **more: Any) -> dict[str, Any]:
    """A file whose image k has k % 3 annotations, ids in falling order."""
    images = [{"id": 1000 - k, "file_name": f"{k}.jpg", "height": 8, "width": 9} for k in range(count)]
    boxes = [
        {"id": 10 * k + n, "image_id": 1000 - k, "category_id": 1 + n, "bbox": [0, 0, 4, 4]}
        for k in range(count)
        for n in range(k % 3)
    ]
    return {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": boxes} | more


def write(path: Path, what: Any) -> Path:
    path.write_text(json.dumps(what))
    return path


def test_which_images_stay_is_fixed_for_ever_and_they_stay_in_order(tmp_path: Path) -> None:
    shuffled = np.arange(20)
    np.random.RandomState(1).shuffle(shuffled)
    assert shuffled.tolist() == GOLDEN
    path = write(tmp_path / "a.json", coco(20, categories=[{"id": 1, "name": "x", "frequency": "r"}]))
    written = write_subset(path, 40, 1)
    assert written.path == tmp_path / "a.1@40.0.json" and written.images == (8, 20)
    top = json.loads(written.path.read_text())
    kept = [1000 - image["id"] for image in top["images"]]
    assert kept == sorted(GOLDEN[:8])
    whole = json.loads(path.read_text())
    ids = {image["id"] for image in top["images"]}
    assert top["annotations"] == [entry for entry in whole["annotations"] if entry["image_id"] in ids]
    assert {k: v for k, v in top.items() if k not in ("images", "annotations")} == {
        k: v for k, v in whole.items() if k not in ("images", "annotations")
    }
    assert written.line().startswith(f"8 of 20 images and {len(top['annotations'])} of 19 annotations in ")


@pytest.mark.parametrize(
    ("total", "percent", "count"), [(118_287, 5, 5914), (100_170, 5, 5008), (5000, 17, 850), (19_809, 4, 792)]
)
def test_the_counts_of_the_published_subsets(tmp_path: Path, total: int, percent: float, count: int) -> None:
    path = write(tmp_path / "a.json", {"images": [{"id": k} for k in range(total)]})
    assert write_subset(path, percent, 1).images == (count, total)


def test_the_same_bytes_every_time_also_from_a_gzipped_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", coco(30))
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    first = write_subset(path, 20, 7, tmp_path / "one.json").path.read_bytes()
    assert write_subset(packed, 20, 7).path.name == "a.7@20.0.json"
    assert (
        (tmp_path / "a.7@20.0.json").read_bytes()
        == first
        == write_subset(path, 20, 7, tmp_path / "b.json").path.read_bytes()
    )
    assert write_subset(path, 20, 8, tmp_path / "other.json").path.read_bytes() != first


def test_a_written_file_is_not_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", coco(30))
    before = write_subset(path, 20, 7).path.read_bytes()
    with pytest.raises(UsageError, match="not overwritten"):
        write_subset(path, 20, 7)
    with pytest.raises(UsageError, match="not overwritten"):
        write_subset(path, 20, 7, path)
    assert (tmp_path / "a.7@20.0.json").read_bytes() == before


def test_images_of_another_file_are_left_out_before_the_choice(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", coco(20))
    url = "http://images.cocodataset.org/train2017/{}.jpg"
    others = write(tmp_path / "b.json", {"images": [{"id": 1000 - k, "coco_url": url.format(k)} for k in range(10)]})
    written = write_subset(path, 50, 1, exclude=others)
    ids = {image["id"] for image in json.loads(written.path.read_text())["images"]}
    assert len(ids) == 5 and max(ids) <= 990 and written.excluded == 10
    strange = write(tmp_path / "c.json", {"images": [{"id": 1000, "file_name": "of/another/set.jpg"}]})
    with pytest.raises(DataError, match=r"image 1000 is 0.jpg in .* and set.jpg in .*same images"):
        write_subset(path, 50, 2, exclude=strange)


def test_names_in_the_style_of_2014_are_the_same_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"images": [{"id": 1, "file_name": "COCO_val2014_000000000001.jpg"}, {"id": 2}]})
    other = write(tmp_path / "b.json", {"images": [{"id": 1, "file_name": "000000000001.jpg"}]})
    assert write_subset(path, 100, 1, exclude=other).images == (1, 2)


def test_what_looks_like_an_annotation_elsewhere_is_kept(tmp_path: Path) -> None:
    top = coco(20, history=[{"image_id": 5, "by": "hand"}])
    top["annotations"][0]["seen"] = {"image_id": -1}
    written = write_subset(write(tmp_path / "a.json", top), 100, 1)
    assert json.loads(written.path.read_text()) == top


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "not readable JSON"),
        ('{"images": []}', "no list 'images'"),
        ('{"images": [{"id": "x"}]}', "no integer id"),
        ('{"images": [{"id": 1}, {"id": 1}]}', "appears twice"),
        ('{"images": [{"id": 1}], "annotations": [3]}', "annotation number 1 is not an object"),
    ],
)
def test_files_that_are_no_coco_files(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=sentence):
        write_subset(path, 100, 1)
    assert [*tmp_path.iterdir()] == [path]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.json", coco(30))
    assert main(["subset", str(path), "--percent", "5", "--seed", "1"]) == 0
    assert (tmp_path / "a.1@5.0.json").is_file()
    assert main(["subset", str(path), "--percent", "5", "--seed", "1"]) == 2
    assert main(["subset", str(path), "--percent", "3", "--seed", "1"]) == 2  # 0.9 images
    assert main(["subset", str(path), "--percent", "101"]) == 2
    assert main(["subset", str(tmp_path / "none.json"), "--percent", "5"]) == 3
    assert "less than one; give a larger --percent" in capsys.readouterr().err
