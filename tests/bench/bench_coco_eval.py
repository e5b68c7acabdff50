"""COCO AP compared with pycocotools: `python tests/bench/bench_coco_eval.py [--rounds 5] [--images 5000]`.

A synthetic data set of the size of COCO val: 5000 images, seven objects and a hundred detections in each, 80 classes,
one object in fifty is a crowd. Ours starts from the detections of a network, one tensor per image; pycocotools
starts, as documented, from a list of result dicts, whose construction is not timed. Both have loaded the ground truth
and end with the twelve COCO metrics. CPU time on one thread, alternating rounds in separate processes, medians of
ratios; memory is the growth of the peak resident size after detections and ground truth have been created.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.types import Detections
from tests.bench.evaluations import Beside, main, timed

CLASSES, OBJECTS, FOUND = 80, 7, 100  # objects and detections per image
SIDE = 720


def write_truth(path: Path, images: int) -> None:
    """A COCO annotation file whose images all name the same empty file, which is never opened."""
    rng = np.random.default_rng(0)
    boxes = objects(images, rng)
    categories = rng.integers(1, CLASSES + 1, len(boxes)).tolist()
    (path.parent / "a.png").write_bytes(b"")
    content = {
        "images": [{"id": i + 1, "file_name": "a.png", "width": SIDE, "height": SIDE} for i in range(images)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": n // OBJECTS + 1,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(n % 50 == 0),
            }
            for n, (category, box) in enumerate(zip(categories, boxes.tolist(), strict=True))
        ],
    }
    path.write_text(json.dumps(content))


def objects(images: int, rng: np.random.Generator) -> np.ndarray:
    """(images * OBJECTS, 4) boxes as x, y, w, h; sides from a few pixels to a few hundred."""
    count = images * OBJECTS
    return np.hstack((rng.random((count, 2)) * 400, 5 + rng.random((count, 2)) ** 3 * 300)).round(2)


def detections(data: CocoDetection) -> list[Detections]:
    """Those of a poor detector: about fourteen boxes per object, 70 % with the right class, random scores."""
    rng = np.random.default_rng(1)
    found: list[Detections] = []
    for index in range(len(data)):
        target = data.target(index)
        source = rng.integers(0, len(target["labels"]), FOUND)
        boxes = target["boxes"].numpy()[source] + rng.normal(0, 8, (FOUND, 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.where(rng.random(FOUND) < 0.7, target["labels"].numpy()[source], rng.integers(0, CLASSES, FOUND))
        scores = np.sort(rng.random(FOUND).round(3))[::-1]
        columns = (torch.from_numpy(np.ascontiguousarray(column)) for column in (boxes, labels, scores))
        box, label, score = columns
        found.append(Detections(boxes=box.float(), labels=label, scores=score.float()))
    return found


def ours(data: CocoDetection, found: list[Detections]) -> list[float]:
    evaluator = CocoEvaluator(data, "hotcoco")
    for image_id, one in zip(data.image_ids, found, strict=True):
        evaluator.add(image_id, one, (1.0, 1.0))
    evaluator.summary()
    return [float(number) for number in evaluator.summary().values()]


def documented(truth: Any, results: list[dict[str, Any]]) -> list[float]:
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def measure(whose: str, annotations: Path) -> dict[str, Any]:
    """One evaluation in this process: CPU seconds, MB, and the twelve COCO metrics."""
    data = CocoDetection(annotations.parent, annotations)
    found = detections(data)
    with contextlib.redirect_stdout(io.StringIO()):
        if whose == "ours":
            import hotcoco  # noqa: F401 - importing is not timed, as for pycocotools

            def work() -> list[float]:
                return ours(data, found)
        else:
            from pycocotools.coco import COCO

            truth, evaluator = COCO(str(annotations)), CocoEvaluator(data, "pycocotools")
            for image_id, one in zip(data.image_ids, found, strict=True):
                evaluator.add(image_id, one, (1.0, 1.0))
            results = evaluator.results()

            def work() -> list[float]:
                return documented(truth, results)

        return timed(work)


if __name__ == "__main__":
    main(
        Beside(
            "pycocotools",
            f"AP of {{images}} images, {FOUND} detections in each, {CLASSES} classes",
            "the twelve numbers",
            "instances.json",
            0.0,
            1 / 3,
            5,
        ),
        write_truth,
        measure,
        __doc__ or "",
    )
