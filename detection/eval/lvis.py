"""LVIS AP of boxes and masks, overall, by size, and of rare, common and frequent categories; AP fixed on request.

    LvisEvaluator: detections are collected as by CocoEvaluator -> Truth, Rows -> federated.py -> the means of METRICS

A category without objects is left out of every mean, and a mean of none is -1. Rare categories are in at most 10 of
LVIS's training images, common ones in at most 100: as the file says, not counted anew.

AP fixed takes the 10,000 best detections of each category over all images instead of the 300 best of each image.
Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detection.data.annotations.lvis import FREQUENCIES, frequencies
from detection.data.coco import CocoDetection, beyond_boxes
from detection.eval.coco import CocoEvaluator
from detection.eval.federated import Curves, Truth, curves_of, matches_of
from detection.eval.official import Rows
from detection.statistics.bootstrap import Statistic
from detection.statistics.matching import THRESHOLDS, Matches
from shared.errors import UsageError
from shared.feeding.columns import Ragged

SIZES = ("small", "medium", "large")
GROUPS = dict(zip(FREQUENCIES, ("rare", "common", "frequent"), strict=True))
METRICS = (
    *("box_ap", "box_ap50", "box_ap75", *(f"box_ap_{size}" for size in SIZES)),
    *(f"box_ap_{group}" for group in GROUPS.values()),
    *("box_ar300", *(f"box_ar300_{size}" for size in SIZES)),
)
FIXED = "box_ap_fixed"


class LvisEvaluator(CocoEvaluator):
    """Collects the detections of a data set and computes AP by LVIS's rules, with the interface of `CocoEvaluator`.

    Args:
        fixed: also give AP fixed.
    """

    def __init__(
        self, dataset: CocoDetection, backend: str = "auto", finds: Sequence[str] = (), *, fixed: bool = False
    ) -> None:
        if "keypoints" in finds:
            raise UsageError("LVIS has no keypoints; evaluate a network with boxes or masks")
        if dataset.classes.everything:
            raise UsageError(
                "LVIS's rules are about categories, and with --binary-mode there is one; --class-agnostic gives recall"
            )
        assert dataset.lvis, "a data set that was opened with lvis=True"
        super().__init__(dataset, backend, finds)
        self.fixed = fixed
        self.curves: dict[str, Curves] = {}
        self.category_ids = np.sort(self.source_ids)

    def take(self, found: Any) -> None:
        super().take(found)
        self.curves = {}

    def summary(self) -> dict[str, float]:
        """METRICS of each kind, from 0 to 1, the headline first; -1 if the file has no such objects."""
        groups = self._groups()
        metrics: dict[str, float] = {}
        for kind in self.kinds:
            words = METRICS if kind == "boxes" else [name.replace("box", "mask", 1) for name in METRICS]
            metrics |= dict(zip(words, numbers_of(self._curves(kind), groups), strict=True))
            if self.fixed:
                curves = self._curves(kind, fixed=True)
                metrics[FIXED if kind == "boxes" else "mask_ap_fixed"] = mean_of(curves.precision[..., 0])
        return metrics

    def per_class(self, kind: str = "boxes") -> dict[str, float]:
        """AP by class name, for classes with objects."""
        precision = self._curves(kind).precision[..., 0]
        classes, rows = self.dataset.classes, np.searchsorted(self.category_ids, self.source_ids)
        ap = [mean_of(precision[..., row]) for row in rows.tolist()]
        return {name: value for name, value in zip(classes.names, ap, strict=True) if value > -1}

    def matches(self, kind: str = "boxes") -> Matches:
        """The detections matched with the objects by LVIS's rules."""
        return matches_of(kind, self._truth(kind), self._numbered(kind))

    def statistics(self, kind: str = "boxes") -> dict[str, Statistic]:
        """The metrics of `summary` and `per_class`, without AP fixed."""
        categories, groups = np.arange(len(self.category_ids)), self._groups()
        rows = dict(enumerate(["", *(f"_{size}" for size in SIZES), "50", "75"]))
        what = "box" if kind == "boxes" else "mask"
        found = {f"{what}_ap{name}": Statistic("precision", row, categories) for row, name in rows.items()}
        for letter, group in GROUPS.items():
            found[f"{what}_ap_{group}"] = Statistic("precision", 0, np.flatnonzero(groups == letter))
        for row, name in enumerate(["", *(f"_{size}" for size in SIZES)]):
            found[f"{what}_ar300{name}"] = Statistic("recall", row, categories)
        return found | self.statistics_by_class(kind)

    def _groups(self) -> np.ndarray:
        """(C,) r, c or f of each category."""
        frequency = frequencies(self.dataset.table.frequency, self.dataset.table.image_count)
        return np.array([frequency.get(i, "") for i in self.category_ids.tolist()])

    def _curves(self, kind: str, *, fixed: bool = False) -> Curves:
        """Precision and recall, cached; categories in the order of their ids."""
        key = f"{kind} fixed" if fixed else kind
        if key not in self.curves:
            self.curves[key] = curves_of(kind, self._truth(kind), self._numbered(kind), self.backend, fixed=fixed)
        return self.curves[key]

    def _truth(self, kind: str) -> Truth:
        """The objects of all images, by the order of image ids and of category ids."""
        table, dataset = self.dataset.table, self.dataset
        order = np.argsort(table.image_ids, kind="stable")
        place = np.argsort(order, kind="stable")
        absent, unfinished = (self._pairs(dataset.lists[name], order) for name in ("absent", "unfinished"))
        masks: list[Any] = []
        if kind == "masks":
            masks = [beyond_boxes(table, row)["segmentation"] for row in range(len(table.boxes))]
        categories = np.searchsorted(self.category_ids, self.source_ids[dataset.labels])
        columns = (place[table.image_of], categories, table.boxes, table.areas)
        return Truth(*columns, masks, table.sizes[order], absent, unfinished)

    def _pairs(self, labels: Ragged, order: np.ndarray) -> np.ndarray:
        """Labels of each image -> (I, C) bool, by the order of ids."""
        pairs = np.zeros((len(order), len(self.category_ids)), dtype=bool)
        pairs[labels.rows, np.searchsorted(self.category_ids, self.source_ids[labels.values])] = True
        return pairs[order]

    def _numbered(self, kind: str) -> Rows:
        """Detections with rows for ids; -1 for categories that the annotations do not list."""
        found = self.rows(kind)
        images = np.searchsorted(np.sort(self.dataset.table.image_ids), found.images)
        rows, ids = found.rows.copy(), found.rows[:, 5].astype(np.int64)
        place = np.searchsorted(self.category_ids, ids).clip(max=len(self.category_ids) - 1)
        rows[:, 5] = np.where(self.category_ids[place] == ids, place, -1)
        return Rows(images, rows, found.masks, found.keypoints)


def mean_of(values: np.ndarray) -> float:
    """The mean of those above -1; -1 if there are none."""
    counted = values[values > -1]
    return float(np.mean(counted)) if len(counted) else -1.0


def numbers_of(curves: Curves, groups: np.ndarray) -> list[float]:
    """The 13 numbers of METRICS.

    Args:
        groups: (C,) r, c or f of each category; others are in no group.
    """
    precision, recall = curves
    at = [int(np.abs(THRESHOLDS - threshold).argmin()) for threshold in (0.5, 0.75)]
    numbers = [mean_of(precision[..., 0]), *(mean_of(precision[place, ..., 0]) for place in at)]
    numbers += [mean_of(precision[..., size]) for size in (1, 2, 3)]
    numbers += [mean_of(precision[:, :, groups == letter, 0]) for letter in GROUPS]
    return numbers + [mean_of(recall[..., size]) for size in range(4)]
