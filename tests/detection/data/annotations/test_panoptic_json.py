"""A panoptic JSON with ids and truth values in other spellings, and gzipped."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from detection.data.annotations.panoptic_json import Panoptic, Segment, read_panoptic
from shared.errors import DataError


def content() -> dict[str, Any]:
    segments = [
        {"id": 5, "category_id": 3, "area": 40, "bbox": [0, 0, 5, 8], "iscrowd": 0},
        {"id": 6, "category_id": 9, "area": 60, "bbox": [5, 0, 6, 10], "iscrowd": 1},
    ]
    return {
        "images": [{"id": 2**60, "file_name": "a.jpg", "height": 30, "width": 40}],
        "annotations": [{"image_id": 2**60, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 3, "name": "sky", "isthing": 0}, {"id": 9, "name": "dog", "isthing": 1}],
    }


def read(folder: Path, top: dict[str, Any]) -> Panoptic:
    (folder / "p.json").write_text(json.dumps(top))
    return read_panoptic(folder / "p.json")


def test_ids_stay_exact_in_any_spelling_and_gzipped(tmp_path: Path) -> None:
    wanted = read(tmp_path, content())
    assert wanted.pngs == {2**60: "a.png"} and wanted.things == {3: False, 9: True}
    assert wanted.segments == {2**60: (Segment(5, 3, area=40.0), Segment(6, 9, crowd=True, area=60.0))}
    top = content()
    top["images"][0].update(id=str(2**60), height=30.0, width="40")
    top["annotations"][0]["image_id"] = f" {2**60}"
    for info in top["annotations"][0]["segments_info"]:
        info.update(id=float(info["id"]), category_id=str(info["category_id"]), iscrowd=str(info["iscrowd"]))
    for category in top["categories"]:
        category.update(id=float(category["id"]), isthing=str(bool(category["isthing"])))
    packed = tmp_path / "p.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(top).encode()))
    for found in (read(tmp_path, top), read_panoptic(packed)):
        assert found[1:] == wanted[1:]
        assert found.table.image_ids.tolist() == [2**60] and found.table.sizes.tolist() == [[30, 40]]
        assert found.table.crowd.tolist() == [False, True] and found.table.category_ids.tolist() == [3, 9]


@pytest.mark.parametrize("value", [None, 2, "", "maybe", float("nan"), []])
def test_isthing_and_iscrowd_that_say_neither_are_refused(tmp_path: Path, value: Any) -> None:
    top = content()
    top["categories"][0]["isthing"] = value
    with pytest.raises(DataError, match="category 'sky' has the isthing .* where 0 for stuff or 1 for a thing belongs"):
        read(tmp_path, top)
    top = content()
    top["annotations"][0]["segments_info"][0]["iscrowd"] = value
    if value is None:  # as if it was not there
        assert not read(tmp_path, top).table.crowd[0]
    else:
        with pytest.raises(DataError, match="segment 5 has the iscrowd .* where 0 or 1 belongs"):
            read(tmp_path, top)
