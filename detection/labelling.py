"""Detections become annotations: what `detect predict --save coco` writes, and `detect train` accepts.

The auto-labeler: a detector labels new photographs, a person looks at them, and the next detector trains on them.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from detection.data.classes import ClassMap
from shared.run import write_json

log = logging.getLogger(__name__)


def annotations_of(
    images: list[dict[str, Any]], results: list[dict[str, Any]], classes: ClassMap, min_score: float
) -> dict[str, Any]:
    """A COCO annotation file of what scores enough; every annotation keeps its score.

    Args:
        images: id, file_name, height, width of each.
        results: COCO results of these images, in the ids of `classes`.
        min_score: what scores less is no label.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    annotations: list[dict[str, Any]] = []
    for found in results:
        x, y, width, height = inside(found["bbox"], sizes[found["image_id"]])
        if found["score"] < min_score or min(width, height) < 1:
            continue
        own = {"id": len(annotations) + 1, "image_id": found["image_id"], "category_id": found["category_id"]}
        told = {"area": width * height, "iscrowd": 0, "score": found["score"]}
        annotations.append({**own, "bbox": [x, y, width, height], **told})
    named = zip(classes.source_ids, classes.names, strict=True)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in named],
    }


def inside(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x y w h, clipped to (width, height)."""
    x0, y0 = (min(max(value, 0.0), float(limit)) for value, limit in zip(box[:2], size, strict=True))
    x1, y1 = (min(max(a + b, 0.0), float(limit)) for a, b, limit in zip(box[:2], box[2:], size, strict=True))
    return x0, y0, x1 - x0, y1 - y0


def report_of(told: dict[str, Any], min_score: float) -> dict[str, Any]:
    """What was labelled: boxes by class, by score and by image, and the images that got none."""
    names = {category["id"]: category["name"] for category in told["categories"]}
    boxes = told["annotations"]
    by_class = Counter(names[box["category_id"]] for box in boxes)
    by_image = Counter(box["image_id"] for box in boxes)
    return {
        "min_score": min_score,
        "images": len(told["images"]),
        "boxes": len(boxes),
        "boxes_by_class": dict(by_class.most_common()),
        "boxes_by_score": {f"{low / 10:.1f}": sum(int(box["score"] * 10) == low for box in boxes) for low in range(10)},
        "most_boxes_in_an_image": max(by_image.values(), default=0),
        "without_boxes": [image["file_name"] for image in told["images"] if image["id"] not in by_image],
    }


def save(out: Path, told: dict[str, Any], min_score: float) -> str:
    """annotations.json and labelled.json; a sentence about them."""
    report = report_of(told, min_score)
    write_json(out / "annotations.json", told)
    write_json(out / "labelled.json", report)
    counts = ", ".join(f"{name} {count}" for name, count in report["boxes_by_class"].items()) or "none"
    empty = len(report["without_boxes"])
    return (
        f"annotations.json: {report['boxes']} boxes of score {min_score:g} and more on "
        f"{report['images'] - empty} of {report['images']} images ({counts}); labelled.json names the {empty} without"
    )
