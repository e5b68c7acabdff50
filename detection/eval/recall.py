"""Average recall of boxes whatever their class, at 100, 300 and 1,000 detections per image: the quality of proposals.

    RecallEvaluator: detections are collected as by CocoEvaluator -> the best 1,000 of an image, by score
                     -> matched with its objects at IoU 0.5, 0.55, ..., 0.95 -> share of objects that are matched

As COCOeval with useCats=0, but equal scores stay in the detector's order: crowds are left out, and each detection,
best first, takes the object left that it overlaps most. The matches of the first 100 do not depend on the others, so
one pass gives all limits. Objects of LVIS count also where not every object of their category is annotated; those
without an area do not, as in its AP.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detection.data.coco import CocoDetection
from detection.data.masks.paste import codec
from detection.eval.coco import CocoEvaluator
from detection.eval.results import Found
from detection.statistics.bootstrap import Statistic
from detection.statistics.matching import AREAS, THRESHOLDS

LIMITS = (100, 300, 1000)  # detections per image
SIZES = ("small", "medium", "large")
METRICS = (*(f"box_ar{limit}" for limit in LIMITS), *(f"box_ar{LIMITS[-1]}_{size}" for size in SIZES))
NEVER = LIMITS[-1]  # rank of objects that nothing finds


class RecallEvaluator(CocoEvaluator):
    """Collects the detections of a data set and computes class-agnostic recall; the interface is `CocoEvaluator`'s."""

    def __init__(self, dataset: CocoDetection) -> None:
        super().__init__(dataset, "pycocotools")  # of which only the IoU is used
        self.ranks: list[np.ndarray] | None = None

    def take(self, found: Mapping[int, Found]) -> None:
        super().take(found)
        self.ranks = None

    def summary(self) -> dict[str, float]:
        """METRICS, from 0 to 1, the headline first; -1 if the file has no such objects."""
        every, *sizes = self._ranks()
        numbers = [recall(every, limit) for limit in LIMITS] + [recall(ranks, LIMITS[-1]) for ranks in sizes]
        return dict(zip(METRICS, numbers, strict=True))

    def per_class(self, kind: str = "boxes") -> dict[str, float]:
        """AR of the objects of each class at the first limit, by name, for classes with objects."""
        ranks, rows = self._ranks()[0], self._objects(AREAS[0])
        labels = self.dataset.labels[rows]
        names = self.dataset.classes.names
        return {names[n]: recall(ranks[:, labels == n], LIMITS[0]) for n in np.unique(labels).tolist()}

    def statistics(self, kind: str = "boxes") -> dict[str, Statistic]:
        """None: objects of all classes are matched together here."""
        return {}

    def _ranks(self) -> list[np.ndarray]:
        """For each of AREAS (T, G): the rank of the detection that finds each object, cached."""
        if self.ranks is None:
            self.ranks = [self._ranks_in(area) for area in AREAS]
        return self.ranks

    def _objects(self, area: tuple[float, float]) -> np.ndarray:
        """(G,) the annotations that count: objects of this area, by image."""
        table = self.dataset.table
        counted = (table.areas >= area[0]) & (table.areas <= area[1]) & (~table.crowd | self.dataset.lvis)
        return np.flatnonzero(counted & (table.areas > 0) if self.dataset.lvis else counted)

    def _ranks_in(self, area: tuple[float, float]) -> np.ndarray:
        table, rows = self.dataset.table, self._objects(area)
        ranks = np.full((len(THRESHOLDS), len(rows)), NEVER)
        ends = np.searchsorted(table.image_of[rows], np.arange(len(table.image_ids) + 1))
        for image, image_id in enumerate(self.dataset.image_ids):
            own, found = slice(ends[image], ends[image + 1]), self.found.get(image_id)
            if found is not None and own.start < own.stop:
                ranks[:, own] = ranks_of(table.boxes[rows[own]], found.rows)
        return ranks


def recall(ranks: np.ndarray, limit: int) -> float:
    """(T, G) ranks -> the share of objects found by the first `limit` detections, mean over thresholds; -1 for none."""
    return float((ranks < limit).mean()) if ranks.size else -1.0


def ranks_of(objects: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The rank of the detection that finds each object of an image, at each of T thresholds; NEVER if none does.

    Args:
        objects: (G, 4) x y w h.
        found: (M, 6) x y w h score category.
    """
    order = np.argsort(-found[:, 4], kind="stable")[: LIMITS[-1]]
    ranks = np.full((len(THRESHOLDS), len(objects)), NEVER)
    if not len(order):
        return ranks
    overlaps = np.asarray(codec.iou(found[order, :4], objects, [0] * len(objects))).reshape(len(order), len(objects))
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    for rank in np.flatnonzero((overlaps >= THRESHOLDS[0]).any(1)).tolist():
        free = np.where((ranks == NEVER) & (overlaps[rank] >= least), overlaps[rank], -1.0)
        best = free.shape[1] - 1 - free[:, ::-1].argmax(1)  # of equal ones the last, as in COCOeval
        rows = np.flatnonzero(free[np.arange(len(free)), best] >= 0)
        ranks[rows, best[rows]] = rank
    return ranks
