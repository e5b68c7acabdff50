"""What tests of masks and keypoints share: a made file, and what a detector might find in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask
import torch

from detection.data.coco import CocoDetection
from detection.types import Detections

codec: Any = pycocotools.mask
POINTS = ["nose", "left_eye", "right_eye", "tail", "paw"]
SIDES = [(150, 200), (90, 60), (240, 320)]


def content() -> dict[str, Any]:
    """Twelve images of three sizes: stars and rings of all sizes, crowds as run lengths, keypoints here and there."""
    rng = np.random.default_rng(0)
    images = [{"id": 100 + n, "file_name": f"{n}.png"} for n in range(12)]
    for n, image in enumerate(images):
        image["height"], image["width"] = SIDES[n % 3]
    annotations = []
    for number in range(72):
        image = images[number % 11]  # the last image is empty
        height, width = image["height"], image["width"]
        radius = rng.uniform(4, 0.45 * min(height, width))
        x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        turn = np.linspace(0, 2 * np.pi, 10)[:-1]
        reach = radius * rng.uniform(0.6, 1, 9)
        corners = np.stack((x + reach * np.cos(turn), y + reach * np.sin(turn)), -1).round(2)
        low, high = corners.min(0), corners.max(0)
        polygons = [corners.ravel().tolist()]
        area = float(codec.area(codec.merge(codec.frPyObjects(polygons, height, width))))
        points = np.column_stack((rng.uniform(low, high, (5, 2)).round(1), rng.integers(0, 3, 5)))
        points[points[:, 2] == 0] = 0
        if number % 6 == 1:
            points[:] = 0
        told: dict[str, Any] = {"id": number + 1, "image_id": image["id"], "category_id": [3, 18][number % 2]}
        told |= {"bbox": [*low.tolist(), *(high - low).tolist()], "area": area, "iscrowd": int(number % 13 == 5)}
        told |= {"segmentation": polygons, "keypoints": points.ravel().tolist()}
        told["num_keypoints"] = int((points[:, 2] > 0).sum())
        if told["iscrowd"]:
            runs = codec.merge(codec.frPyObjects(polygons, height, width))
            told["segmentation"] = {"size": [height, width], "counts": run_list(codec.decode(runs))}
        annotations.append(told)
    skeleton = {"keypoints": POINTS, "skeleton": [[1, 2], [1, 3], [4, 5]]}
    categories = [{"id": 3, "name": "cat", **skeleton}, {"id": 18, "name": "dog", **skeleton}]
    return {"images": images, "annotations": annotations, "categories": categories}


def run_list(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel()
    return np.diff(np.flatnonzero(np.diff(flat)) + 1, prepend=0, append=len(flat)).tolist()


def guesses(data: CocoDetection, seed: int = 0, noise: float = 3.0) -> list[tuple[int, Detections]]:
    """Every object found roughly, some twice, and false ones: soft discs for masks, shaken keypoints, tied scores."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:14, :14] / 6.5 - 1
    found = []
    for image_id in data.image_ids:
        own = [a for a in data.ground_truth()["annotations"] if a["image_id"] == image_id]
        own += own[::3]
        boxes = np.array([a["bbox"] for a in own] + [[5.0, 5, 30, 25]])
        boxes[:, 2:] += boxes[:, :2]
        boxes += rng.normal(0, noise, boxes.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        points = np.array([a["keypoints"] for a in own] + [[9, 9, 0] * 5], dtype=float).reshape(-1, 5, 3)
        points[:, :, :2] += rng.normal(0, noise, (len(points), 5, 2))
        radii = rng.uniform(0.7, 1.2, (len(boxes), 1, 1))
        masks = 1 / (1 + np.exp(8 * (np.hypot(down, across) - radii) + rng.normal(0, 0.5, (len(boxes), 14, 14))))
        labels = [[3, 18].index(a["category_id"]) for a in own] + [0]
        scores = np.sort(rng.integers(1, 20, len(boxes)) / 20)[::-1].copy()
        tensors = [torch.from_numpy(x).float() for x in (boxes, scores, masks, points)]
        detections = Detections(
            boxes=tensors[0], labels=torch.tensor(labels), scores=tensors[1], masks=tensors[2], keypoints=tensors[3]
        )
        found.append((image_id, detections))
    return found
