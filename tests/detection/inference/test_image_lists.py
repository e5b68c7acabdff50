"""`detect predict` takes the images of a JSON, whatever its annotations are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from detection.data.coco import CocoDetection
from detection.inference.images import pictures_of
from shared.errors import DataError
from tests.detection.data.of_people import people, people_file

CONTENT = people_file()
SEGMENTS = [
    {"image_id": image["id"], "file_name": "gone.png", "segments_info": [{"id": 1}]} for image in CONTENT["images"]
]


@pytest.mark.parametrize(
    "top",
    [
        CONTENT,
        {"images": CONTENT["images"]},
        {"images": CONTENT["images"], "categories": CONTENT["categories"], "info": {"image_id": 1}},
        {**CONTENT, "annotations": []},
        {**CONTENT, "annotations": None},
        {**CONTENT, "annotations": [{"image_id": 99, "bbox": "none"}]},
        {**CONTENT, "annotations": SEGMENTS},
        {"images": [{**image, "image_id": image["id"]} for image in CONTENT["images"]]},
    ],
    ids=["instances", "images alone", "image_info", "empty list", "null", "wrong", "panoptic", "image_id in images"],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_images_are_listed_without_their_annotations(tmp_path: Path, top: dict[str, Any], packed: bool) -> None:
    images, _ = people(tmp_path)
    raw = json.dumps(top).encode()
    (tmp_path / "x.json").write_bytes(gzip.compress(raw) if packed else raw)
    found = list(pictures_of([str(images)], tmp_path / "x.json"))
    assert [(row[0], row[1].name, tuple(row[2].shape)) for row in found] == [
        (3, "b.png", (3, 40, 60)),
        (7, "a.png", (3, 40, 60)),
    ]


def test_training_on_images_alone_is_refused_with_what_the_file_is_for(tmp_path: Path) -> None:
    images, _ = people(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps({"images": CONTENT["images"], "categories": CONTENT["categories"]}))
    with pytest.raises(DataError, match="it has no list 'annotations'; it lists images alone, for `detect predict`"):
        CocoDetection(images, tmp_path / "x.json")
    for text in ('{"images": []}', "[]", '{"images": null}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match="it has no list 'images'"):
            list(pictures_of([str(images)], tmp_path / "x.json"))
