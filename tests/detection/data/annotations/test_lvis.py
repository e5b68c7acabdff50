"""LVIS's files: where images are, which categories are absent or unfinished, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data.annotations.coco_json import CocoTable, read_coco, read_image_list
from detection.data.annotations.files import coco_layout
from detection.data.annotations.lvis import as_labels, check_training, frequencies, frequency_of, place_of
from shared.errors import DataError
from shared.feeding.columns import Ragged
from tests.detection.eval.of_lvis import REAL, made, needs_real_file, written


def read(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda content: None) -> CocoTable:
    content = made(0)
    change(content)
    return read_coco(written(folder, content))


def test_images_without_a_file_name_are_found_by_the_last_two_parts_of_their_url(tmp_path: Path) -> None:
    table = read(tmp_path)
    assert table.file_names[:3].tolist() == [
        b"train2017/000000000900.jpg",
        *(b"val2017/%012d.jpg" % n for n in (893, 886)),
    ]
    listed = read_image_list(written(tmp_path, made(0)))
    assert (listed.file_names == table.file_names).all() and listed.absent is None


def test_the_url_goes_before_the_name_of_coco_2014_only_in_a_file_of_lvis() -> None:
    url = {"coco_url": "http://images.cocodataset.org/val2017/000000266409.jpg"}
    named = {"file_name": "COCO_val2014_000000266409.jpg", **url}
    assert place_of({**named, "neg_category_ids": []}) == "val2017/000000266409.jpg"
    assert place_of(named) is None and place_of({"file_name": "a.jpg", "neg_category_ids": []}) is None
    assert place_of(url) == "val2017/000000266409.jpg"


def test_an_image_with_neither_name_nor_url_is_refused(tmp_path: Path) -> None:
    for wrong in ({}, {"coco_url": ""}, {"coco_url": 7}):
        with pytest.raises(DataError, match="image 900 has no file_name"):
            read(tmp_path, lambda content, wrong=wrong: content["images"].__setitem__(0, {"id": 900} | wrong))


def test_the_lists_are_columns_that_select_carries(tmp_path: Path) -> None:
    content = made(0)
    table = read(tmp_path)
    assert table.absent is not None and table.unfinished is not None
    for row, image in enumerate(content["images"]):
        assert table.absent[row].tolist() == image["neg_category_ids"]
        assert table.unfinished[row].tolist() == image["not_exhaustive_category_ids"]
    keep = np.arange(len(table.image_ids)) % 3 == 1
    some = table.select(keep)
    assert some.absent is not None and some.unfinished is not None and len(some.absent) == keep.sum()
    for row, before in enumerate(np.flatnonzero(keep).tolist()):
        assert some.absent[row].tolist() == table.absent[before].tolist()
        assert some.unfinished[row].tolist() == table.unfinished[before].tolist()
    assert table.frequency == {c["id"]: c["frequency"] for c in content["categories"]} == some.frequency
    assert table.image_count == {c["id"]: c["image_count"] for c in content["categories"]}


def test_a_file_of_coco_has_none_of_it(tmp_path: Path) -> None:
    def coco(content: dict[str, Any]) -> None:
        for image in content["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
            image["file_name"] = "a.jpg"
        for category in content["categories"]:
            del category["frequency"], category["image_count"]

    table = read(tmp_path, coco)
    assert table.absent is table.unfinished is table.frequency is table.image_count is None
    assert set(table.file_names.tolist()) == {b"a.jpg"}


def test_a_list_that_some_images_lack_and_one_of_other_things_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image 893 has no neg_category_ids, which other images have"):
        read(tmp_path, lambda content: content["images"][1].pop("neg_category_ids"))
    for wrong in ("acorn", [1.5], [None], {"3": 1}):
        with pytest.raises(DataError, match="image 886 has the not_exhaustive_category_ids .* list of category ids"):
            read(tmp_path, lambda content, wrong=wrong: content["images"][2].update(not_exhaustive_category_ids=wrong))


def test_letters_come_from_the_file_else_from_its_counts() -> None:
    assert [frequency_of(count) for count in (0, 10, 11, 100, 101)] == [*"rrccf"]
    assert frequencies({3: "f"}, {3: 1}) == {3: "f"} and frequencies(None, {3: 50}) == {3: "c"}
    assert frequencies(None, None) == {}


def test_ids_become_labels_and_unknown_ones_are_left_out() -> None:
    labels = as_labels(Ragged.of([[9, 4], [], [5, 9, 77]]), {4: 0, 9: 2})
    assert [labels[row].tolist() for row in range(3)] == [[2, 0], [], [2]]


def test_the_layout_is_the_coco_folder_with_version_1_first(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations/lvis_v1_val\.json; give the COCO folder"):
        coco_layout(tmp_path, "val", "lvis")
    (tmp_path / "annotations").mkdir()
    for name in ("lvis_v0.5_val.json", "annotations/lvis_v0.5_val.json", "annotations/lvis_v1_val.json.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"{}"))
        assert coco_layout(tmp_path, "val", "lvis") == (tmp_path, tmp_path / name)


def test_a_training_file_with_images_of_val2017_is_refused_unless_it_has_nothing_else(tmp_path: Path) -> None:
    check_training(Counter(train2017=90), tmp_path)
    check_training(Counter(val2017=90), tmp_path)
    with pytest.raises(DataError, match=r"10 of its 100 images are in val2017/.*--ignore-file"):
        check_training(Counter(train2017=90, val2017=10), tmp_path)


@needs_real_file
def test_the_real_file_is_read_as_its_spec_says() -> None:
    table, content = read_coco(REAL), json.loads(REAL.read_text())
    assert Counter((table.frequency or {}).values()) == {"r": 454, "c": 461, "f": 315}
    assert table.absent is not None and table.unfinished is not None
    assert len(table.absent.values) / 100 == pytest.approx(9.42) and len(table.unfinished.values) == 16
    assert table.file_names[0] == b"val2017/000000266409.jpg" and len(table.boxes) == len(content["annotations"])
    assert all(name.startswith(b"val2017/") for name in table.file_names.tolist())
