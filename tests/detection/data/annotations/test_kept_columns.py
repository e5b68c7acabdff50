"""A COCO file that is kept in columns is the same table: with masks, keypoints, skeletons, notes and all."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data.annotations.coco_json import parsed_coco, read_coco, read_image_list
from shared.feeding import kept

PEOPLE = {"id": 1, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}


def annotation(number: int, image: int, category: int, **more: Any) -> dict[str, Any]:
    box = {"bbox": [1.25, 2, 10, 12.5], "area": 80.125, "iscrowd": 0}
    polygon = [[1.25, 2, 11.25, 2, 11.25, 14.5, 1.25, 14.5]]
    return {"id": number, "image_id": image, "category_id": category, **box, "segmentation": polygon, **more}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "SMALL", 0)
    images = [{"id": 9 - i, "file_name": f"{'x' * i}\u00e9.jpg", "width": 40, "height": 30 + i} for i in range(3)]
    rle = {"size": [31, 40], "counts": [100, 7, 31 * 40 - 107]}
    images = [{**image, "neg_category_ids": [2], "not_exhaustive_category_ids": [1]} for image in images]
    annotations = [
        annotation(1, 9, 1, keypoints=[3, 4, 2, 5, 6, 1, 0, 0, 0]),
        annotation(2, 8, 1, keypoints=[0] * 9, segmentation=rle, iscrowd=1),
        annotation(3, 9, 2, keypoints=[0] * 9, segmentation=[[1, 2], [1, 1, 5, 1, 5, 5]], area=None),
    ]
    path = tmp_path / "people.json"
    categories = [{**PEOPLE, "frequency": "r"}, {**PEOPLE, "id": 2, "name": "other", "frequency": "f"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return one == other and type(one) is type(other)


@pytest.mark.parametrize("finds", [(), ("masks",), ("keypoints",), ("masks", "keypoints"), None])
def test_columns_are_the_table(file: Path, finds: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    table = parsed_coco(file, finds)
    assert same(read_coco(file, finds), table)
    monkeypatch.setattr("detection.data.annotations.coco_json.parsed_coco", None)  # it is not parsed again
    assert same(read_coco(file, finds), table)


def test_a_list_of_images_is_kept_as_well(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_image_list(file)
    monkeypatch.setattr("detection.data.annotations.coco_json._parsed_images", None)
    assert same(read_image_list(file), table) and len(table.image_ids) == 3
