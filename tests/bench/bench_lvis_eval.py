"""LVIS AP compared with the package lvis: `python tests/bench/bench_lvis_eval.py [--rounds 1] [--images 5000]`.

A made data set of the size of LVIS's validation in COCO val: 1,203 categories, of which a few are frequent; in each
image one to seven of them with one to four objects, nine that are known to be absent, now and then one that is not
annotated exhaustively; 300 detections in each image, most near an object, a third of them of another category. Ours
starts from the detections of a network, one tensor per image; lvis starts from a list of result dicts, whose
construction is not timed. Both have loaded the ground truth and end with LVIS's 13 numbers. CPU time on one thread,
separate processes; memory is the growth of the peak resident size after detections and ground truth have been made.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.eval.lvis import LvisEvaluator
from detection.types import Detections
from tests.bench.evaluations import Beside, main, timed

CLASSES, FOUND, SIDE = 1203, 300, 720


def write_truth(path: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    share = 1 / (np.arange(CLASSES) + 5)
    share /= share.sum()
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        present = rng.choice(CLASSES, rng.integers(1, 8), replace=False, p=share) + 1
        absent = np.setdiff1d(rng.choice(CLASSES, 9, replace=False) + 1, present)
        unfinished = present[:1] if rng.random() < 0.15 else present[:0]
        entry = {"id": image, "file_name": "none.jpg", "width": SIDE, "height": SIDE}
        entry |= {"neg_category_ids": absent.tolist(), "not_exhaustive_category_ids": unfinished.tolist()}
        entries.append(entry)
        for category in np.repeat(present, rng.integers(1, 5, len(present))).tolist():
            x, y, w, h = np.append(rng.random(2) * 400, 5 + rng.random(2) ** 3 * 300).round(2).tolist()
            objects = {"id": len(annotations) + 1, "image_id": image, "category_id": category}
            annotations.append({**objects, "bbox": [x, y, w, h], "area": round(w * h * 0.7, 2)})
    letters = ["f"] * 405 + ["c"] * 461 + ["r"] * 337
    categories = [{"id": n, "name": f"class {n}", "frequency": f} for n, f in enumerate(letters, start=1)]
    path.write_text(json.dumps({"images": entries, "categories": categories, "annotations": annotations}))


def opened(annotations: Path) -> CocoDetection:
    return CocoDetection(annotations.parent, annotations, lvis=True, need_images=False)


def detections(data: CocoDetection) -> list[Detections]:
    """Those of a poor detector: many boxes per object, two thirds of them of the right class."""
    rng, found = np.random.default_rng(1), []
    for index in range(len(data)):
        target: Any = data.target(index)
        source = rng.integers(0, len(target["labels"]), FOUND)
        boxes = target["boxes"].numpy()[source] + rng.normal(0, 8, (FOUND, 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        known = np.concatenate((target["labels"].numpy(), target["absent"].numpy()))
        wrong = np.where(rng.random(FOUND) < 0.5, rng.choice(known, FOUND), rng.integers(0, CLASSES, FOUND))
        labels = np.where(rng.random(FOUND) < 0.67, target["labels"].numpy()[source], wrong)
        scores = np.sort(rng.random(FOUND).round(3))[::-1]
        box, label, score = (torch.from_numpy(np.ascontiguousarray(column)) for column in (boxes, labels, scores))
        found.append(Detections(boxes=box.float(), labels=label, scores=score.float()))
    return found


def ours(data: CocoDetection, found: list[Detections]) -> list[float]:
    evaluator = LvisEvaluator(data, "hotcoco")
    for image_id, one in zip(data.image_ids, found, strict=True):
        evaluator.add(image_id, one, (1.0, 1.0))
    return [*evaluator.summary().values()]


def documented(truth: Any, results: list[dict[str, Any]]) -> list[float]:
    from lvis import LVISEval, LVISResults

    evaluation = LVISEval(truth, LVISResults(truth, results), "bbox")
    evaluation.run()
    return [float(number) for number in evaluation.results.values()]


def measure(whose: str, annotations: Path) -> dict[str, Any]:
    """One evaluation in this process: CPU seconds, MB, and the 13 numbers."""
    data = opened(annotations)
    found = detections(data)
    with contextlib.redirect_stdout(io.StringIO()):
        if whose == "ours":
            import hotcoco  # noqa: F401 - importing is not timed, as for lvis

            def work() -> list[float]:
                return ours(data, found)
        else:
            sys.modules["cv2"] = types.ModuleType("cv2")  # it only draws
            np.float = float  # pyright: ignore[reportAttributeAccessIssue] - lvis 0.5.3 is older than its removal
            from lvis import LVIS

            truth, evaluator = LVIS(str(annotations)), CocoEvaluator(data, "pycocotools")
            for image_id, one in zip(data.image_ids, found, strict=True):
                evaluator.add(image_id, one, (1.0, 1.0))
            results = evaluator.results()
            del evaluator

            def work() -> list[float]:
                return documented(truth, results)

        return timed(work)


if __name__ == "__main__":
    main(
        Beside(
            "lvis",
            f"LVIS AP of {{images}} images, {FOUND} detections in each, {CLASSES} classes",
            "the 13 numbers",
            "lvis_v1_val.json",
            1e-9,
            1 / 2,
            1,  # lvis takes minutes for a round
        ),
        write_truth,
        measure,
        __doc__ or "",
    )
