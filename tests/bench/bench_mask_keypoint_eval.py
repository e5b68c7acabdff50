"""Mask and keypoint AP compared with pycocotools: `python tests/bench/bench_mask_keypoint_eval.py [--rounds 3]`.

masks      300 images of 640x480, seven polygons and a hundred detected masks in each, 80 classes
keypoints  600 images, five people and twenty detections in each
pasting    a hundred masks of 28x28 and their boxes -> RLE at image size, 20 images

Ours starts from the evaluator's stored detections; pycocotools starts, as documented, from a list of result dicts,
whose construction is not timed. Both have loaded the ground truth and end with the COCO metrics. Pasting is compared
with torchvision's paste_masks_in_image and pycocotools' encode, as in torchvision's reference evaluation. CPU time of
all threads, alternating rounds, medians of ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hotcoco  # noqa: F401 - importing is not timed
import numpy as np
import pycocotools.mask
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection.roi_heads import paste_masks_in_image

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.data.coco import CocoDetection
from detection.data.masks.paste import encode, paste
from detection.eval.coco import CocoEvaluator
from detection.eval.results import Found

codec: Any = pycocotools.mask
SIZE = (480, 640)
CLASSES, OBJECTS, FOUND = 80, 7, 100  # objects and detections per image
PEOPLE, FOUND_PEOPLE = 5, 20
POINTS = [f"point {i}" for i in range(17)]


def shaped(rng: np.random.Generator, center: np.ndarray, radius: float, corners: int = 24) -> np.ndarray:
    """(corners, 2) polygon of an irregular round shape, clipped to the image."""
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    reach = radius * rng.uniform(0.7, 1, corners)
    shape = center + reach[:, None] * np.stack((np.cos(turn), np.sin(turn)), -1)
    return np.clip(shape, 0, (SIZE[1] - 1, SIZE[0] - 1)).round(2)


def write_truth(path: Path, kind: str, images: int) -> None:
    """A COCO annotation file whose images all name the same empty file, which is never opened."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(images * (OBJECTS if kind == "masks" else PEOPLE)):
        shape = shaped(rng, rng.uniform((60, 60), (580, 420)), 5 + rng.random() ** 2 * 120)
        low, sides = shape.min(0), np.ptp(shape, axis=0)
        told: dict[str, Any] = {"id": number + 1, "bbox": [*low.tolist(), *sides.tolist()], "iscrowd": 0}
        told["area"] = float(sides.prod() * 0.7)
        if kind == "masks":
            told |= {"image_id": number // OBJECTS + 1, "category_id": int(rng.integers(1, CLASSES + 1))}
            told |= {"segmentation": [shape.ravel().tolist()], "iscrowd": int(number % 50 == 0)}
        else:
            points = np.column_stack((low + rng.random((17, 2)) * sides, rng.integers(0, 3, 17))).round(1)
            told |= {"image_id": number // PEOPLE + 1, "category_id": 1, "keypoints": points.ravel().tolist()}
            told["num_keypoints"] = int((points[:, 2] > 0).sum())
        annotations.append(told)
    (path.parent / "a.png").write_bytes(b"")
    listed = [{"id": i + 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]} for i in range(images)]
    categories: list[dict[str, Any]] = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    if kind == "keypoints":
        categories = [{"id": 1, "name": "person", "keypoints": POINTS, "skeleton": [[1, 2]]}]
    path.write_text(json.dumps({"images": listed, "categories": categories, "annotations": annotations}))


def found_masks(data: CocoDetection) -> dict[int, Found]:
    """About fourteen shapes per object, 70 % with the right class."""
    rng, found = np.random.default_rng(1), {}
    truth = data.ground_truth()["annotations"]
    for at in range(0, len(truth), OBJECTS):
        own, rows, masks = truth[at : at + OBJECTS], [], []
        for source in rng.integers(0, OBJECTS, FOUND).tolist():
            shape = np.array(own[source]["segmentation"][0]).reshape(-1, 2) + rng.normal(0, 5, 2)
            shape = np.clip(shape + rng.normal(0, 2, shape.shape), 0, (SIZE[1] - 1, SIZE[0] - 1))
            low, sides = shape.min(0), np.ptp(shape, axis=0)
            category = own[source]["category_id"] if rng.random() < 0.7 else int(rng.integers(1, CLASSES + 1))
            rows.append([*low, *sides, round(rng.random(), 3), category])
            masks.append(codec.merge(codec.frPyObjects([shape.ravel().tolist()], *SIZE))["counts"])
        order = np.argsort([-row[4] for row in rows], kind="stable")
        found[own[0]["image_id"]] = Found(np.array(rows)[order], [masks[i] for i in order.tolist()])
    return found


def found_people(data: CocoDetection) -> dict[int, Found]:
    """Four detections per person, with random keypoint noise."""
    rng, found = np.random.default_rng(1), {}
    truth = data.ground_truth()["annotations"]
    for at in range(0, len(truth), PEOPLE):
        own = truth[at : at + PEOPLE]
        source = np.arange(FOUND_PEOPLE) % PEOPLE
        boxes = np.array([own[i]["bbox"] for i in source])
        points = np.array([own[i]["keypoints"] for i in source]).reshape(-1, 17, 3)
        noise = (
            rng.normal(0, 1, (*points.shape[:2], 2)) * boxes[:, None, 2:] * rng.uniform(0.01, 0.2, (len(boxes), 1, 1))
        )
        points[:, :, :2] += noise
        scores = np.sort(rng.random(FOUND_PEOPLE).round(3))[::-1]
        rows = np.column_stack((boxes, scores, np.ones(FOUND_PEOPLE)))
        found[own[0]["image_id"]] = Found(rows, None, points)
    return found


def documented(truth: Any, results: list[dict[str, Any]], iou_type: str, sigmas: Any) -> list[float]:
    evaluation: Any = COCOeval(truth, truth.loadRes(results), iou_type)  # type: ignore[arg-type]
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def prepared(whose: str, kind: str, data: CocoDetection, found: dict[int, Found]) -> Callable[[], list[float]]:
    """The function to time: an evaluation of one kind, which may modify its inputs."""
    evaluator = CocoEvaluator(data, "hotcoco", (kind,))
    if whose == "ours":
        evaluator.kinds = (kind,)

        def work() -> list[float]:
            evaluator.take(found)
            return [float(number) for number in evaluator.summary().values()]

        return work
    field, iou_type = ("segmentation", "segm") if kind == "masks" else ("keypoints", "keypoints")
    evaluator.take(found)
    wanted = ("image_id", "category_id", "score", field)
    results = [{name: entry[name] for name in wanted} for entry in evaluator.results()]
    truth = COCO(str(data.table.path))
    return lambda: documented(truth, results, iou_type, evaluator.sigmas)


def prepared_pasting(whose: str) -> Callable[[], list[float]]:
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:28, :28] / 13.5 - 1
    soft = 1 / (1 + np.exp(8 * (np.hypot(down, across) - rng.uniform(0.5, 1.1, (FOUND, 1, 1)))))
    masks = torch.from_numpy(soft + rng.normal(0, 0.05, soft.shape)).float()
    low = rng.random((FOUND, 2)) * (400, 300)
    high = np.minimum(low + 8 + rng.random((FOUND, 2)) ** 2 * 300, (SIZE[1], SIZE[0]))
    boxes = torch.from_numpy(np.hstack((low, high))).float()

    def ours() -> list[bytes]:
        return [encode(patch, SIZE) for patch in paste(masks, boxes, SIZE)]

    def reference() -> list[bytes]:
        whole = paste_masks_in_image(masks[:, None], boxes, SIZE) > 0.5
        return [codec.encode(np.array(mask[0, :, :, np.newaxis], np.uint8, order="F"))[0]["counts"] for mask in whole]

    work = ours if whose == "ours" else reference
    return lambda: [float(sum(runs)) for _ in range(20) for runs in work()]


def rounds(prepare: Callable[[str], Callable[[], list[float]]], count: int) -> list[tuple[float, float, float]]:
    """(reference seconds, our seconds, largest difference of the metrics) per round; the order alternates."""
    told = []
    for turn in range(count):
        seconds, numbers = {}, {}
        for whose in ("ours", "reference") if turn % 2 else ("reference", "ours"):
            with contextlib.redirect_stdout(io.StringIO()):
                work = prepare(whose)
                start = time.process_time()
                numbers[whose] = work()
                seconds[whose] = time.process_time() - start
        pairs = zip(numbers["reference"], numbers["ours"], strict=True)
        told.append((seconds["reference"], seconds["ours"], max(abs(a - b) for a, b in pairs)))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for kind, images, goal in (("masks", 300, 10), ("keypoints", 600, 10), ("pasting", 20, 1)):
        with tempfile.TemporaryDirectory() as folder:
            prepare = prepared_pasting
            if kind != "pasting":
                annotations = Path(folder) / f"{kind}.json"
                write_truth(annotations, kind, images)
                data = CocoDetection(annotations.parent, annotations, finds=(kind,))
                found = found_masks(data) if kind == "masks" else found_people(data)
                prepare = partial(prepared, kind=kind, data=data, found=found)
            told = rounds(prepare, options.rounds)
        theirs, mine = (statistics.median(one[side] for one in told) for side in (0, 1))
        ratio, worst = statistics.median(one[0] / one[1] for one in told), max(one[2] for one in told)
        reached = "reached" if ratio >= goal and worst < 1e-9 else "MISSED"
        print(
            f"{kind}, {images} images: reference {theirs:.2f} s, ours {mine:.2f} s: {ratio:.1f} x (goal {goal}) "
            f"{reached}; largest difference {worst:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
