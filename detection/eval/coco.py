"""COCO box AP: detections -> the official numbers, in the file's own ids and the photographs' own pixels.

    add(image, detections, scale) -> rows in original pixels and source category ids -> results() -> COCO result JSON
                                                                                     -> summary(), per_class()

The ground truth is every annotation of the file: crowds, which excuse detections, and boxes of no size, which nothing
can match, so the number is the one pycocotools computes from the same files by hand. pycocotools is the reference;
hotcoco, where it is installed, gives the same numbers thirty times faster and more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from detection.data.coco import CocoDetection
from detection.types import Detections
from shared.errors import DataError, Refusal, UsageError

METRICS = (
    *("box_ap", "box_ap50", "box_ap75", "box_ap_small", "box_ap_medium", "box_ap_large"),
    *("box_ar1", "box_ar10", "box_ar100", "box_ar_small", "box_ar_medium", "box_ar_large"),
)


class CocoEvaluator:
    """Collects what a detector found in the images of a data set.

    An image that is added twice, as ranks with a padded share of the work do, counts once; one that is never added
    counts as one where nothing was found.

    Args:
        backend: pycocotools, hotcoco, or auto for the faster one that is installed.
    """

    def __init__(self, dataset: CocoDetection, backend: str = "auto") -> None:
        if backend not in ("auto", "pycocotools", "hotcoco"):
            raise UsageError(f"no evaluation backend '{backend}'; there is auto, pycocotools, hotcoco")
        installed = importlib.util.find_spec("hotcoco") is not None
        if backend == "hotcoco" and not installed:
            raise UsageError("hotcoco is not installed; pip install hotcoco, or say pycocotools")
        self.backend = ("hotcoco" if installed else "pycocotools") if backend == "auto" else backend
        self.dataset = dataset
        self.source_ids = np.array(dataset.classes.source_ids)
        self.known_images = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
        self.rows: dict[int, np.ndarray] = {}  # image id -> (M, 6): x y w h score category, best first
        self.scored: tuple[dict[str, float], dict[int, float]] | None = None

    def add(self, image_id: int, detections: Detections, scale: tuple[float, float]) -> None:
        """Take what was found in one image.

        Args:
            detections: boxes in pixels of the network's input, labels from 0.
            scale: (down, across), original size over the size the network saw, without padding.

        Raises:
            Refusal: a box or a score is nan or infinite, which pycocotools would count as a perfect find.
        """
        down, across = scale
        corners = detections["boxes"].detach().cpu().double().numpy().reshape(-1, 4) * (across, down, across, down)
        scores = detections["scores"].detach().cpu().double().numpy()
        labels = detections["labels"].detach().cpu().numpy()
        if not (np.isfinite(corners).all() and np.isfinite(scores).all()):
            raise Refusal(
                f"detections of image {image_id} hold nan or infinite boxes or scores; "
                "the weights have diverged, so go back to an earlier epoch or lower the learning rate"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.source_ids):
            raise Refusal(
                f"image {image_id} has labels up to {labels.max()}, but there are {len(self.source_ids)} classes; "
                "use the class map of the weights"
            )
        corners[:, 2:] -= corners[:, :2]
        self._take(image_id, np.column_stack((corners, scores, self.source_ids[labels])))

    def original_size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image as the file says it."""
        return self.dataset.height_width(self.known_images[image_id])

    def merge(self, parts: Iterable[list[dict[str, Any]]]) -> None:
        """Take the results of other ranks, or those of a result file. An image comes whole from the first that has it.

        Raises:
            DataError: an entry is not a COCO box result.
        """
        for results in parts:
            found: dict[int, list[list[float]]] = {}
            for number, entry in enumerate(results):
                try:
                    row = [*map(float, entry["bbox"]), float(entry["score"]), float(entry["category_id"])]
                    image_id = int(entry["image_id"])
                except (KeyError, TypeError, ValueError):
                    row, image_id = [], 0
                if len(row) != 6 or not all(map(math.isfinite, row)):
                    raise DataError(
                        f"result number {number + 1} is no image_id, category_id, bbox of four finite numbers and "
                        "score; write the results again with `detect predict` or `detect eval`"
                    )
                found.setdefault(image_id, []).append(row)
            for image_id, rows in found.items():
                self._take(image_id, np.array(rows))

    def _take(self, image_id: int, rows: np.ndarray) -> None:
        if image_id not in self.known_images:
            raise DataError(
                f"image {image_id} is not in {self.dataset.table.path}; evaluate against the file it is from"
            )
        self.rows.setdefault(image_id, rows)
        self.scored = None

    def results(self) -> list[dict[str, Any]]:
        """COCO result JSON, by image id, each image's detections in the order they were added."""
        return [
            {"image_id": image_id, "category_id": int(row[5]), "bbox": row[:4], "score": row[4]}
            for image_id in sorted(self.rows)
            for row in self.rows[image_id].tolist()
        ]

    def summary(self) -> dict[str, float]:
        """METRICS from 0 to 1, the headline first; -1, as in pycocotools, where the file has no such object."""
        return self._score()[0]

    def per_class(self) -> dict[str, float]:
        """AP by class name, for the classes that the file has objects of."""
        classes = self.dataset.classes
        return {
            name: self._score()[1][category]
            for name, category in zip(classes.names, classes.source_ids, strict=True)
            if self._score()[1][category] > -1
        }

    def _score(self) -> tuple[dict[str, float], dict[int, float]]:
        """(summary, {source id: AP}), computed once."""
        if self.scored is None:
            evaluate = _by_hotcoco if self.backend == "hotcoco" else _by_pycocotools
            rows = [np.column_stack((np.full(len(r), i), r)) for i, r in sorted(self.rows.items()) if len(r)]
            with contextlib.redirect_stdout(io.StringIO()):
                evaluation = evaluate(self.dataset.ground_truth(), np.concatenate(rows or [np.zeros((0, 7))]))
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
            self.scored = dict(zip(METRICS, map(float, evaluation.stats), strict=True)), _class_ap(evaluation)
        return self.scored


def ground_truth_as_results(dataset: CocoDetection) -> list[dict[str, Any]]:
    """A perfect detector's results: every object that is no crowd region and has an area, with score 1.

    Their AP is 1 unless the file has objects of no area: these count as missed, since nothing overlaps them.
    """
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in dataset.ground_truth()["annotations"]
        if not a["iscrowd"] and a["bbox"][2] > 0 and a["bbox"][3] > 0
    ]


def _by_pycocotools(truth: dict[str, Any], rows: np.ndarray) -> Any:
    """COCOeval over the file and rows (M, 7) of image, x, y, w, h, score, category."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # loadRes, the usual way, refuses an empty list and makes a polygon of every box
    found = [
        {
            "id": number,
            "image_id": int(image),
            "category_id": int(category),
            "bbox": box,
            "area": box[2] * box[3],
            "score": score,
            "iscrowd": 0,
        }
        for number, (image, *box, score, category) in enumerate(rows.tolist(), start=1)
    ]
    sides: list[Any] = [COCO(), COCO()]
    for side, entries in zip(sides, (truth["annotations"], found), strict=True):
        side.dataset = {**truth, "annotations": entries}
        side.createIndex()
    return COCOeval(sides[0], sides[1], "bbox")


def _by_hotcoco(truth: dict[str, Any], rows: np.ndarray) -> Any:
    """The same, with the same face."""
    from hotcoco import COCO, COCOeval

    whole = COCO(truth)
    return COCOeval(whole, whole.load_res(rows) if len(rows) else COCO({**truth, "annotations": []}), "bbox")


def _class_ap(evaluation: Any) -> dict[int, float]:
    """{source id: AP over all IoU thresholds}; -1 without ground truth."""
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # all areas, 100 detections: (T, R, K)
    valid = precision > -1
    mean = np.where(valid, precision, 0).sum((0, 1)) / np.maximum(valid.sum((0, 1)), 1)
    mean[~valid.any((0, 1))] = -1
    return dict(zip(map(int, evaluation.params.catIds), mean.tolist(), strict=True))
