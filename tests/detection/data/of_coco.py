"""What tests of COCO data share: a file of two photographs, class files, real data, random numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")
CLASSES = Path(__file__).parents[3] / "recipes/classes"
IMAGES = 11  # in the folder of the fixture `coco`


def coco_file() -> dict[str, Any]:
    """Two photographs of 40x30 and 20x20, a cat, a dog, a crowd of dogs; ids that are neither dense nor sorted."""
    return {
        "images": [
            {"id": 70, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 5, "file_name": "sub/b.png", "width": 20, "height": 20},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 9, "image_id": 5, "category_id": 3, "bbox": [2, 3, 10, 11], "area": 50.0, "iscrowd": 0},
            {"id": 1, "image_id": 70, "category_id": 18, "bbox": [1, 1, 8, 8.5], "area": 68, "iscrowd": 0},
            {"id": 2, "image_id": 70, "category_id": 18, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        ],
    }


def written(
    folder: Path, content: dict[str, Any] | str | None = None, *, photographs: bool = True
) -> tuple[Path, Path]:
    """Image folder and annotation file, as CocoDetection wants them."""
    content = coco_file() if content is None else content
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    if photographs:
        Image.new("RGB", (40, 30), (255, 0, 0)).save(folder / "a.png")
        Image.new("RGB", (20, 20), (0, 255, 0)).save(folder / "sub/b.png")
    (folder / "instances.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder, folder / "instances.json"


def rng() -> np.random.Generator:
    return np.random.default_rng(0)
