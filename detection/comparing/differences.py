"""How two result sets of one validation set differ: metrics with intervals, classes, kinds of errors, photographs.

evaluator A, evaluator B -> matched once each -> the same draws of images for both -> B minus A of every metric
                                              -> kinds of errors
                                              -> objects that only one of them finds, by photograph
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detection.eval.coco import CocoEvaluator
from detection.eval.intervals import too_few
from detection.eval.lvis import LvisEvaluator
from detection.eval.matched import similarity_of
from detection.statistics.accumulate import AT
from detection.statistics.bootstrap import LEAST_IMAGES, false_discovery, intervals, sample_of
from detection.statistics.errors import KINDS, Errors, errors_of
from detection.statistics.matching import Matches


class Difference(NamedTuple):
    """A metric of both, from 0 to 1; B minus A, between bounds that are NaN where there are too few images.

    real: of classes, whether the difference stands among all of them (Benjamini-Hochberg, 5 %); else whether 0 lies
    outside the bounds.
    """

    name: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    real: bool


class Changed(NamedTuple):
    """A photograph, by its place in the data set: objects that only one of both finds, false detections of each.

    Counts, or means of counts over several runs.
    """

    place: int
    only_a: float
    only_b: float
    false_a: float
    false_b: float

    @property
    def size(self) -> float:
        return self.only_a + self.only_b + abs(self.false_a - self.false_b)


class Comparison(NamedTuple):
    """errors: by kind (count of A, of B, AP at IoU 0.5 that its repair adds to A, to B); empty by LVIS's rules, where
    not every object is annotated. scores: of the best F1 of A and B, from which photographs are compared."""

    metrics: list[Difference]
    classes: list[Difference]
    errors: dict[str, tuple[int, int, float, float]]
    changed: list[Changed]
    scores: tuple[float, float]
    images: int
    draws: int
    note: str


def compared(a: CocoEvaluator, b: CocoEvaluator, draws: int) -> Comparison:
    """Compare two evaluators of the same data set, by the kinds (boxes, masks, keypoints) that both have."""
    metrics: list[Difference] = []
    classes: list[Difference] = []
    matches = {kind: (a.matches(kind), b.matches(kind)) for kind in a.kinds if kind in b.kinds}
    for kind, (ours, theirs) in matches.items():
        statistics = a.statistics(kind)
        first, second = (sample_of(one, statistics, draws=draws) for one in (ours, theirs))
        bounds = intervals(second.minus(first), paired=True)
        by_class = np.array([" of " in name for name in statistics])
        real = np.where(by_class, False, (bounds.low > 0) | (bounds.high < 0))
        real[by_class] = false_discovery(bounds.p[by_class])
        columns = (first.values, second.values, second.values - first.values, bounds.low, bounds.high, real)
        rows = zip(statistics, *(column.tolist() for column in columns), strict=True)
        for row, one in zip(rows, by_class.tolist(), strict=True):
            if np.isfinite(row[1]):
                (classes if one else metrics).append(Difference(*row))
    boxes = matches["boxes"]
    scores = best_score(boxes[0]), best_score(boxes[1])
    images = len(a.dataset)
    return Comparison(
        metrics,
        sorted(classes, key=lambda one: (one.low != one.low, -abs(one.difference))),  # those without bounds last
        {} if isinstance(a, LvisEvaluator) else errors_of_both(a, b, boxes),
        changes(a, boxes[0].objects.images, *map(found_from, boxes, scores)),
        scores,
        images,
        draws,
        too_few(images) if images < LEAST_IMAGES else "",
    )


def errors_of_both(
    a: CocoEvaluator, b: CocoEvaluator, matches: tuple[Matches, Matches]
) -> dict[str, tuple[int, int, float, float]]:
    of_a, of_b = (errors_of_boxes(one, own) for one, own in zip((a, b), matches, strict=True))
    columns = (of_a.counts, of_b.counts, of_a.costs, of_b.costs)
    return dict(zip(KINDS, zip(*(column.tolist() for column in columns), strict=True), strict=True))


def errors_of_boxes(evaluator: CocoEvaluator, matches: Matches) -> Errors:
    """The kinds of errors of an evaluator's boxes, matched already."""
    data = evaluator.dataset
    return errors_of(matches, similarity_of("boxes", data, evaluator.rows("boxes")), data.table.crowd)


def flags(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """(M,), (M,) bool: true positives and false positives at IoU 0.5, over all areas."""
    some = matches.place >= 0
    hit, excused = np.zeros((2, len(some)), dtype=bool)
    hit[some] = matches.hit[matches.place[some], 0, AT[0]]
    excused[some] = matches.excused[matches.place[some], 0, AT[0]]
    return hit, matches.inside[:, 0] & ~hit & ~excused


def best_score(matches: Matches) -> float:
    """The score from which F1 of all classes together is largest; 1 where nothing is right."""
    hit, wrong = flags(matches)
    order = np.argsort(-matches.scores, kind="stable")
    order = order[(hit | wrong)[order]]
    if not hit.any():
        return 1.0
    scores = matches.scores[order]
    f1 = 2 * np.cumsum(hit[order]) / (np.arange(1, len(order) + 1) + matches.counted[:, 0].sum())
    f1[:-1][scores[1:] == scores[:-1]] = -1  # a score cuts behind all detections that have it
    return float(scores[f1.argmax()])


class Found(NamedTuple):
    """What is found from a score on: objects (O,), 1 for found, and false detections of each image (I,)."""

    objects: np.ndarray
    false: np.ndarray


def found_from(matches: Matches, score: float) -> Found:
    hit, wrong = flags(matches)
    shown = matches.scores >= score
    objects = np.zeros(len(matches.objects.images))
    objects[matches.partner[matches.place[hit & shown], AT[0]]] = 1
    return Found(objects, np.bincount(matches.images[wrong & shown], minlength=matches.num_images))


def changes(evaluator: CocoEvaluator, images: np.ndarray, a: Found, b: Found) -> list[Changed]:
    """The photographs whose matches differ, those that differ most first.

    Args:
        evaluator: of either; of the data set alone.
        images: (O,) the image of each object.
    """
    more = [np.clip(one.objects - other.objects, 0, None) for one, other in ((a, b), (b, a))]
    only = [np.bincount(images, weights=some, minlength=len(a.false)) for some in more]
    places = np.argsort(evaluator.dataset.table.image_ids, kind="stable")  # rows of matches are in the order of ids
    every = [Changed(*row) for row in zip(*(c.tolist() for c in (places, *only, a.false, b.false)), strict=True)]
    return sorted((one for one in every if one.size), key=lambda one: -one.size)


def as_json(told: Comparison, names: tuple[str, str], recipes: dict[str, Any]) -> dict[str, Any]:
    """The comparison for a file; null where a bound is not known."""

    def rows(differences: list[Difference]) -> dict[str, Any]:
        return {
            one.name: {key: value if value == value else None for key, value in one._asdict().items() if key != "name"}
            for one in differences
        }

    keys = ("count_a", "count_b", "cost_a", "cost_b")
    return {
        "a": names[0],
        "b": names[1],
        "images": told.images,
        "draws": told.draws,
        "note": told.note,
        "metrics": rows(told.metrics),
        "classes": rows(told.classes),
        "errors": {kind: dict(zip(keys, own, strict=True)) for kind, own in told.errors.items()},
        "recipes": {name: {"a": ours, "b": theirs} for name, (ours, theirs) in recipes.items()},
    }
