"""A small COCO file with everything: polygons of one and of two rings, RLE in both spellings, keypoints, a crowd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.data.masks.rle import coco_mask as mask

POINTS = ["nose", "left_hand", "right_hand"]
HEIGHT, WIDTH = 40, 60


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def rle(x: int, y: int, side: int, *, as_list: bool = False) -> dict[str, Any]:
    """A square in an image of HEIGHT x WIDTH."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[y : y + side, x : x + side] = 1
    if not as_list:
        return {"size": [HEIGHT, WIDTH], "counts": mask.encode(pixels)["counts"].decode()}
    changes = np.flatnonzero(np.diff(np.concatenate(([0], pixels.flatten(order="F"), [1 - pixels[-1, -1]]))))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff(np.concatenate(([0], changes))).tolist()}


def people_file() -> dict[str, Any]:
    """Two images of 60x40. The first has three people and a crowd, the second, listed first, one of two parts."""
    told = [
        (7, [[*square(5, 5, 10)]], [10, 6, 2, 6, 10, 1, 14, 10, 2], [5, 5, 10, 10], 0),
        (7, rle(30, 8, 12), [0, 0, 0, 31, 12, 2, 0, 0, 0], [30, 8, 12, 12], 0),
        (7, rle(20, 25, 9, as_list=True), [0] * 9, [20, 25, 9, 9], 0),
        (7, rle(0, 0, 30, as_list=True), [0] * 9, [0, 0, 30, 30], 1),
        (3, [square(2, 2, 6), square(20.25, 10.5, 12.5)], [22, 12, 2, 21, 14, 2, 30, 14, 2], [2, 2, 30.75, 21], 0),
    ]
    return {
        "images": [
            {"id": 3, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
            {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": POINTS, "skeleton": [[1, 2], [1, 3]]}],
        "annotations": [
            {
                "id": 100 + number,
                "image_id": image,
                "category_id": 1,
                "segmentation": segmentation,
                "keypoints": keypoints,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": crowd,
            }
            for number, (image, segmentation, keypoints, bbox, crowd) in enumerate(told)
        ],
    }


def people(folder: Path, content: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """Image folder and annotation file, as CocoDetection wants them; objects are painted where their boxes are."""
    content = people_file() if content is None else content
    folder.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        pixels = np.random.default_rng(image["id"]).integers(0, 90, (image["height"], image["width"], 3), np.uint8)
        for entry in content["annotations"]:
            if entry["image_id"] == image["id"] and not entry.get("iscrowd"):
                x, y, width, height = (round(side) for side in entry["bbox"])
                pixels[y : y + height, x : x + width] += 150
        Image.fromarray(pixels).save(folder / image["file_name"])
    (folder / "people.json").write_text(json.dumps(content))
    return folder, folder / "people.json"
