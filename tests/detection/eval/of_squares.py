"""A made validation set of squares, and what a detector of known quality finds in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.data.coco import CocoDetection

SIDE = 128


def truth_and_results(folder: Path, images: int, noise: float = 2.0) -> tuple[CocoDetection, list[dict[str, Any]]]:
    """Squares of two classes, two in every image, a third class in three; a detector that finds them roughly.

    Args:
        noise: pixels of a side.
    """
    rng = np.random.default_rng(0)
    annotations, results = [], []
    for number in range(2 * images + 3):
        image, category = (number // 2, number % 2 + 1) if number < 2 * images else (number - 2 * images, 3)
        side = float(rng.integers(10, 50))
        box = [*rng.integers(0, SIDE - 50, 2).astype(float).tolist(), side, side]
        told = {"image_id": image, "category_id": category, "bbox": box}
        annotations.append({**told, "id": number + 1, "area": side**2, "iscrowd": 0})
        moved = (np.array(box) + rng.normal(0, noise, 4)).tolist()
        results.append({**told, "bbox": moved, "score": float(rng.random())})
    content = {
        "images": [{"id": n, "file_name": "a.png", "width": SIDE, "height": SIDE} for n in range(images)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(("disc", "square", "rare"), start=1)],
        "annotations": annotations,
    }
    Image.new("RGB", (SIDE, SIDE), (90, 90, 90)).save(folder / "a.png")
    (folder / "truth.json").write_text(json.dumps(content))
    return CocoDetection(folder, folder / "truth.json"), results
