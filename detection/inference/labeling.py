"""Pseudo-labels: detections as a COCO annotation file, for `detect predict --save coco` and then `detect train`.

results -> annotations with at least min_score -> annotations.json
                                               -> labelled.json: counts by class, score and image
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from detection.data.annotations.classes import ClassMap
from detection.data.annotations.skeleton import Skeleton
from detection.data.masks.paste import codec
from detection.drawing.shapes import SURE
from shared.errors import plural
from shared.files import write_json

log = logging.getLogger(__name__)


def annotations_of(
    images: list[dict[str, Any]],
    results: list[dict[str, Any]],
    classes: ClassMap,
    min_score: float,
    skeleton: Skeleton | None = None,
) -> dict[str, Any]:
    """Convert COCO results to COCO annotations, with the scores, masks and keypoints of the results.

    Boxes are clipped to the image. Boxes narrower than a pixel and empty masks are dropped.

    Args:
        images: COCO images: id, file_name, height, width.
        results: COCO results of these images, with the category ids of `classes`.
        min_score: results with a lower score are dropped.
        skeleton: of the keypoints in `results`.

    Returns:
        The content of a COCO annotation file.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    annotations: list[dict[str, Any]] = []
    for found in results:
        x, y, width, height = inside(found["bbox"], sizes[found["image_id"]])
        area = float(codec.area(found["segmentation"])) if "segmentation" in found else width * height
        if found["score"] < min_score or min(width, height) < 1 or not area:
            continue
        own = {"id": len(annotations) + 1, "image_id": found["image_id"], "category_id": found["category_id"]}
        fields = {"area": area, "iscrowd": 0, "score": found["score"]}
        annotations.append({**own, "bbox": [x, y, width, height], **fields, **beyond_the_box(found)})
    return {"images": images, "annotations": annotations, "categories": categories(classes, skeleton)}


def beyond_the_box(found: dict[str, Any]) -> dict[str, Any]:
    """Segmentation and keypoints of an annotation; keypoints with a score (a logit) of 0 or less are not labeled."""
    fields = {"segmentation": found["segmentation"]} if "segmentation" in found else {}
    if "keypoints" in found:
        places = zip(found["keypoints"][0::3], found["keypoints"][1::3], found["keypoint_scores"], strict=True)
        points = [(x, y, 2) if score > SURE else (0, 0, 0) for x, y, score in places]
        fields["keypoints"] = [value for point in points for value in point]
        fields["num_keypoints"] = sum(point[2] > 0 for point in points)
    return fields


def categories(classes: ClassMap, skeleton: Skeleton | None) -> list[dict[str, Any]]:
    """The categories of a COCO file."""
    words = {} if skeleton is None else skeleton.to_words()
    return [{"id": i, "name": name, **words} for i, name in zip(classes.source_ids, classes.names, strict=True)]


def inside(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Clip a box x y w h to an image of (width, height)."""
    x0, y0 = (min(max(value, 0.0), float(limit)) for value, limit in zip(box[:2], size, strict=True))
    x1, y1 = (min(max(a + b, 0.0), float(limit)) for a, b, limit in zip(box[:2], box[2:], size, strict=True))
    return x0, y0, x1 - x0, y1 - y0


def report_of(dataset: dict[str, Any], min_score: float) -> dict[str, Any]:
    """Numbers of boxes by class, by score and by image, and the images without boxes."""
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    boxes = dataset["annotations"]
    by_class = Counter(names[box["category_id"]] for box in boxes)
    by_image = Counter(box["image_id"] for box in boxes)
    return {
        "min_score": min_score,
        "images": len(dataset["images"]),
        "boxes": len(boxes),
        "boxes_by_class": dict(by_class.most_common()),
        "boxes_by_score": {f"{low / 10:.1f}": sum(int(box["score"] * 10) == low for box in boxes) for low in range(10)},
        "most_boxes_in_an_image": max(by_image.values(), default=0),
        "without_boxes": [image["file_name"] for image in dataset["images"] if image["id"] not in by_image],
    }


def save(out: Path, dataset: dict[str, Any], min_score: float) -> str:
    """Write annotations.json and labelled.json; returns a summary line."""
    report = report_of(dataset, min_score)
    write_json(out / "annotations.json", dataset)
    write_json(out / "labelled.json", report)
    counts = ", ".join(f"{name} {count}" for name, count in report["boxes_by_class"].items()) or "none"
    empty = len(report["without_boxes"])
    return (
        f"annotations.json: {plural(report['boxes'], 'box')} with a score of at least {min_score:g} on "
        f"{report['images'] - empty} of {report['images']} images ({counts}); "
        f"labelled.json lists the {empty} without boxes"
    )
