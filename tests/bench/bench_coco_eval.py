"""COCO AP compared with pycocotools: `python tests/bench/bench_coco_eval.py [--rounds 5] [--images 5000]`.

A synthetic data set of the size of COCO val: 5000 images, seven objects and a hundred detections in each, 80 classes,
one object in fifty is a crowd. Ours starts from the detections of a network, one tensor per image; pycocotools
starts, as documented, from a list of result dicts, whose construction is not timed. Both have loaded the ground truth
and end with the twelve COCO metrics. CPU time on one thread, alternating rounds in separate processes, medians of
ratios; memory is the growth of the peak resident size after detections and ground truth have been created.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.types import Detections

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


def peak() -> float:
    """Peak resident size of this process in MB; getrusage would include the parent's."""
    told = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(told.split()[1]) / 1024


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

        before, start = peak(), time.process_time()
        numbers = work()
        return {"seconds": time.process_time() - start, "extra": peak() - before, "whole": peak(), "numbers": numbers}


def child(whose: str, annotations: Path) -> dict[str, Any]:
    words = [sys.executable, "-W", "ignore", __file__, "--measure", whose, "--annotations", str(annotations)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def told(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--annotations", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        print(json.dumps(measure(options.measure, options.annotations)))
        return
    print(f"AP of {options.images} images, {FOUND * options.images} detections, {CLASSES} classes", flush=True)
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        annotations = Path(folder) / "instances.json"
        write_truth(annotations, options.images)
        for turn in range(options.rounds):
            order = ("ours", "pycocotools") if turn % 2 else ("pycocotools", "ours")
            rounds.append({whose: child(whose, annotations) for whose in order})
            spent = {whose: f"{result['seconds']:.2f} s" for whose, result in rounds[-1].items()}
            print(f"  round {turn + 1}: {spent}", flush=True)
    pairs = [(one["pycocotools"], one["ours"]) for one in rounds]
    ratio = statistics.median(theirs["seconds"] / mine["seconds"] for theirs, mine in pairs)
    theirs, mine = (statistics.median(side["seconds"] for side in column) for column in zip(*pairs, strict=True))
    print(f"  pycocotools {theirs:.2f} s, ours {mine:.2f} s: {ratio:.1f} x (goal 20) {told(ratio >= 20)}")
    worst = max(abs(a - b) for one, other in pairs for a, b in zip(one["numbers"], other["numbers"], strict=True))
    print(f"  AP {pairs[0][1]['numbers'][0]:.4f}; largest difference of the twelve numbers: {worst:.1e} ", end="")
    print(told(worst == 0))
    for name, what in (("extra", "memory of the evaluation"), ("whole", "peak of the process")):
        theirs, mine = (statistics.median(side[name] for side in column) for column in zip(*pairs, strict=True))
        goal = f" (goal 0.33) {told(mine <= theirs / 3)}" if name == "extra" else ", torch and all"
        print(f"  {what}: pycocotools {theirs:.0f} MB, ours {mine:.0f} MB: {mine / theirs:.2f} of it{goal}")


if __name__ == "__main__":
    main()
