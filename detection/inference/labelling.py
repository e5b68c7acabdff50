"""Detections become annotations: what `detect predict --save coco` writes, and `detect train` accepts.

The auto-labeler: a detector labels new photographs, a person looks at them, and the next detector trains on them.
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
from shared.files import write_json

log = logging.getLogger(__name__)


def annotations_of(
    images: list[dict[str, Any]],
    results: list[dict[str, Any]],
    classes: ClassMap,
    min_score: float,
    skeleton: Skeleton | None = None,
) -> dict[str, Any]:
    """A COCO annotation file of what scores enough; every annotation keeps its score, its mask and its keypoints.

    Args:
        images: id, file_name, height, width of each.
        results: COCO results of these images, in the ids of `classes`.
        min_score: what scores less is no label, nor is a box of less than a pixel or a mask of none.
        skeleton: of the keypoints that results hold.
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
    """Mask and keypoints of a result as an annotation has them; a keypoint that scores no more than 0 is no label."""
    fields = {"segmentation": found["segmentation"]} if "segmentation" in found else {}
    if "keypoints" in found:
        places = zip(found["keypoints"][0::3], found["keypoints"][1::3], found["keypoint_scores"], strict=True)
        points = [(x, y, 2) if score > SURE else (0, 0, 0) for x, y, score in places]
        fields["keypoints"] = [value for point in points for value in point]
        fields["num_keypoints"] = sum(point[2] > 0 for point in points)
    return fields


def categories(classes: ClassMap, skeleton: Skeleton | None) -> list[dict[str, Any]]:
    """As a COCO file lists them."""
    words = {} if skeleton is None else skeleton.to_words()
    return [{"id": i, "name": name, **words} for i, name in zip(classes.source_ids, classes.names, strict=True)]


def inside(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x y w h, clipped to (width, height)."""
    x0, y0 = (min(max(value, 0.0), float(limit)) for value, limit in zip(box[:2], size, strict=True))
    x1, y1 = (min(max(a + b, 0.0), float(limit)) for a, b, limit in zip(box[:2], box[2:], size, strict=True))
    return x0, y0, x1 - x0, y1 - y0


def report_of(dataset: dict[str, Any], min_score: float) -> dict[str, Any]:
    """What was labelled: boxes by class, by score and by image, and the images that got none."""
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
    """annotations.json and labelled.json; a sentence about them."""
    report = report_of(dataset, min_score)
    write_json(out / "annotations.json", dataset)
    write_json(out / "labelled.json", report)
    counts = ", ".join(f"{name} {count}" for name, count in report["boxes_by_class"].items()) or "none"
    empty = len(report["without_boxes"])
    return (
        f"annotations.json: {report['boxes']} boxes of score {min_score:g} and more on "
        f"{report['images'] - empty} of {report['images']} images ({counts}); labelled.json names the {empty} without"
    )
