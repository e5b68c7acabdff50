"""Why an AP is what it is: precision against recall, confusions, object sizes, and the photographs with most mistakes.

    evaluator -> boxes of truth and of detections -> matched within classes, best score first -> PrecisionRecall
                                                          at the score of the best F1
                                                  -> the rest matched across classes           -> confusions, sizes,
                                                                                                  mistakes by image

A detection is right if it overlaps an object of its class by IoU 0.5 that no better one has taken. At the score where
F1 over all classes is best, a detection that is left over is a confusion if it overlaps an object of another class
that is left over too, otherwise it is of the background; one that lies at least half in a crowd of its class counts
nowhere, as in COCO.

Shape letters: T objects, D detections, P pairs of one image that overlap, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from detection.eval.coco import CocoEvaluator

RIGHT = 0.5  # IoU of a detection that is right
RECALLS = np.linspace(0, 1, 101)  # where COCO reads precision
SIZES = (0, 8, 16, 32, 64, 96, 128, 256, 512)  # square roots of areas, pixels; the last bin is open
MOST = 100  # detections of a class in an image, as in COCO
NOT = -1  # not matched


class Boxes(NamedTuple):
    """Boxes of all images."""

    image: np.ndarray  # (N,) int64, places in the data set
    label: np.ndarray  # (N,) int64
    corners: np.ndarray  # (N, 4) as x0 y0 x1 y1, pixels of the image

    def select(self, which: np.ndarray) -> Boxes:
        return Boxes(self.image[which], self.label[which], self.corners[which])


class Explanation(NamedTuple):
    """What an evaluation found, at the score of the best F1 where a score is needed."""

    classes: list[dict[str, Any]]  # name, objects, ap (None without objects); the most frequent first
    curves: dict[str, list[float]]  # precision at the 101 RECALLS, IoU 0.5, by class; "" is their mean
    score: float  # of the best F1, over all classes together
    f1: float
    precision: float
    recall: float
    confusions: list[tuple[str | None, str | None, int]]  # true and found name, count; None for background and missed
    sizes: list[tuple[int, int, int]]  # lower end of sqrt(area), objects, found ones
    images: list[tuple[int, int, int]]  # place in the data set, missed objects, false detections; those with mistakes


def explained(evaluator: CocoEvaluator) -> Explanation:
    """The explanation of the boxes that an evaluator has collected."""
    data = evaluator.dataset
    table = data.table
    whole = (table.boxes[:, 2] > 0) & (table.boxes[:, 3] > 0)
    truth, crowd = as_corners(table.image_of, data.labels, table.boxes), table.crowd.astype(bool)
    crowds, truth = truth.select(crowd & whole), truth.select(~crowd & whole)
    found, scores = detections_of(evaluator)
    by_class, areas = evaluator.per_class(), table.areas[~crowd & whole]

    pairs = overlapping(found, truth)
    same = pairs.select(found.label[pairs.one] == truth.label[pairs.other])
    right = matched(same, len(found.label), len(truth.label))
    unscored = (right == NOT) & in_crowds(found, crowds)
    curves = precision_curves(found, truth, scores, right, ~unscored, data.classes.names)

    least, f1 = best_f1(scores[~unscored], right[~unscored] != NOT, len(truth.label))
    shown = (scores >= least) & ~unscored
    own = np.where(shown, right, NOT)
    taken = np.zeros(len(truth.label), bool)
    taken[own[own != NOT]] = True
    other = pairs.select(shown[pairs.one] & (own[pairs.one] == NOT) & ~taken[pairs.other])
    confused = matched(other, len(found.label), len(truth.label))
    hits, total = int(taken.sum()), int(shown.sum())
    objects = np.bincount(truth.label, minlength=len(data.classes)).tolist()
    classes = [
        {"name": name, "objects": count, "ap": by_class.get(name)}
        for name, count in sorted(zip(data.classes.names, objects, strict=True), key=lambda pair: -pair[1])
    ]
    return Explanation(
        classes=classes,
        curves=curves,
        score=least,
        f1=f1,
        precision=hits / total if total else 0.0,
        recall=hits / len(taken) if len(taken) else 0.0,
        confusions=confusions(found.label, truth.label, own, confused, shown, taken, data.classes.names),
        sizes=by_size(areas, taken),
        images=mistakes(found.image[shown & (own == NOT)], truth.image[~taken]),
    )


# --- boxes --------------------------------------------------------------------------------------


def as_corners(image: np.ndarray, label: np.ndarray, boxes: np.ndarray) -> Boxes:
    """Boxes (N, 4) as x y w h."""
    corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1)
    return Boxes(image.astype(np.int64), label.astype(np.int64), corners)


def detections_of(evaluator: CocoEvaluator) -> tuple[Boxes, np.ndarray]:
    """The detections of listed classes, the best first, and their scores (D,)."""
    ids = np.array(evaluator.dataset.classes.source_ids, np.int64)
    every = sorted(evaluator.found.items())
    rows = np.concatenate([np.zeros((0, 6)), *(own.rows for _, own in every)])
    images = np.array([evaluator.known_images[image_id] for image_id, _ in every], np.int64)
    image = np.repeat(images, [len(own.rows) for _, own in every])
    order = np.argsort(ids)
    place = np.searchsorted(ids[order], rows[:, 5].astype(np.int64)).clip(max=len(ids) - 1)
    label = order[place]
    listed = np.flatnonzero(ids[label] == rows[:, 5])
    best = listed[np.argsort(-rows[listed, 4], kind="stable")]
    best = best[rank_in_group(image[best] * len(ids) + label[best]) < MOST]
    return as_corners(image[best], label[best], rows[best, :4]), rows[best, 4]


def rank_in_group(group: np.ndarray) -> np.ndarray:
    """(N,) group of each -> (N,) how many of its group come before it."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(group[order]) != 0)) if len(group) else order
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))
    return rank


class Pairs(NamedTuple):
    """P pairs of boxes that overlap, those of better detections first, of one detection the largest overlap first."""

    one: np.ndarray  # (P,) places among the detections
    other: np.ndarray  # (P,) places among the objects

    def select(self, which: np.ndarray) -> Pairs:
        return Pairs(self.one[which], self.other[which])


def overlapping(found: Boxes, truth: Boxes, block: int = 2_000_000) -> Pairs:
    """Pairs of an image with an IoU of at least RIGHT, over blocks of so many pairs."""
    ones, others, values = [], [], []
    for one, other in side_by_side(found, truth, block):
        both = intersections(found.corners[one], truth.corners[other])
        union = areas_of(found.corners[one]) + areas_of(truth.corners[other]) - both
        iou = both / union  # objects are not empty
        near = iou >= RIGHT
        ones.append(one[near])
        others.append(other[near])
        values.append(iou[near])
    one, other, iou = (np.concatenate(parts) if parts else np.zeros(0, np.int64) for parts in (ones, others, values))
    order = np.lexsort((-iou, one))
    return Pairs(one[order], other[order])


def side_by_side(found: Boxes, truth: Boxes, block: int) -> Any:
    """Yield all pairs of detections and objects of the same image, in blocks."""
    by_image = np.argsort(truth.image, kind="stable")
    starts = np.searchsorted(truth.image[by_image], found.image, "left")
    counts = np.searchsorted(truth.image[by_image], found.image, "right") - starts
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + block, "right")))
        own = counts[first:last]
        one = np.repeat(np.arange(first, last), own)
        within = np.arange(len(one)) - np.repeat(np.cumsum(own) - own, own)
        yield one, by_image[np.repeat(starts[first:last], own) + within]
        first = last


def intersections(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Corners (P, 4), (P, 4) -> (P,) areas."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return sides.clip(min=0).prod(1)


def areas_of(corners: np.ndarray) -> np.ndarray:
    return (corners[:, 2:] - corners[:, :2]).prod(1)


def in_crowds(found: Boxes, crowds: Boxes) -> np.ndarray:
    """(D,) bool: at least half of the detection lies in a crowd of its class."""
    inside = np.zeros(len(found.label), bool)
    for one, other in side_by_side(found, crowds, 2_000_000):
        both = intersections(found.corners[one], crowds.corners[other])
        half = (both >= RIGHT * areas_of(found.corners[one])) & (both > 0)
        inside[one[half & (found.label[one] == crowds.label[other])]] = True
    return inside


# --- matches ------------------------------------------------------------------------------------


def matched(pairs: Pairs, detections: int, objects: int) -> np.ndarray:
    """(D,) the object of each detection, or NOT: the best detection takes the object it overlaps most, and so on."""
    found, taken = [NOT] * detections, bytearray(objects)
    for one, other in zip(pairs.one.tolist(), pairs.other.tolist(), strict=True):
        if found[one] == NOT and not taken[other]:
            found[one], taken[other] = other, 1
    return np.array(found, np.int64)


def precision_curves(
    found: Boxes, truth: Boxes, scores: np.ndarray, right: np.ndarray, counted: np.ndarray, names: Sequence[str]
) -> dict[str, list[float]]:
    """Precision at RECALLS of each class with objects, and their mean under ""."""
    curves = {}
    for label, objects in enumerate(np.bincount(truth.label, minlength=len(names)).tolist()):
        if objects:
            hits = right[(found.label == label) & counted] != NOT
            curves[names[label]] = precision_at_recalls(hits, objects)
    mean = {"": np.mean([*curves.values()], 0)} if curves else {}
    return {name: curve.tolist() for name, curve in (mean | curves).items()}


def precision_at_recalls(hits: np.ndarray, objects: int) -> np.ndarray:
    """(D,) bool, the best first -> (101,): the best precision at this recall or beyond, 0 where not reached."""
    true = np.cumsum(hits)
    precision = true / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(true / objects, RECALLS, "left")
    return np.where(place < len(hits), np.append(envelope, 0)[np.minimum(place, len(hits))], 0)


def best_f1(scores: np.ndarray, hits: np.ndarray, objects: int) -> tuple[float, float]:
    """(D,) the best first -> the score from which F1 is largest, and that F1; (1, 0) where nothing is right."""
    if not hits.any():
        return 1.0, 0.0
    f1 = 2 * np.cumsum(hits) / (np.arange(1, len(hits) + 1) + objects)
    # a score cuts behind all detections that have it
    last = np.append(scores[1:] < scores[:-1], True)
    best = int(np.argmax(np.where(last, f1, -1)))
    return float(scores[best]), float(f1[best])


def confusions(
    found: np.ndarray,
    truth: np.ndarray,
    own: np.ndarray,
    confused: np.ndarray,
    shown: np.ndarray,
    taken: np.ndarray,
    names: Sequence[str],
) -> list[tuple[str | None, str | None, int]]:
    """Counts of (true name, found name), the most frequent first.

    Args:
        found, truth: labels (D,), (T,).
        own, confused: (D,) objects of the same, of another class.
        shown: (D,) bool, detections that count.
        taken: (T,) bool, objects that were found.
    """
    other = np.where(own != NOT, own, confused)
    mistaken = np.zeros(len(truth), bool)
    mistaken[confused[confused != NOT]] = True
    size = len(names)
    true = np.where(other[shown] != NOT, np.append(truth, size)[other[shown]], size)
    table = np.zeros((size + 1, size + 1), np.int64)
    np.add.at(table, (true, found[shown]), 1)
    table[:size, size] += np.bincount(truth[~taken & ~mistaken], minlength=size)
    named: list[str | None] = [*names, None]
    rows, columns = np.nonzero(table)
    order = np.argsort(-table[rows, columns], kind="stable")
    return [(named[rows[i]], named[columns[i]], int(table[rows[i], columns[i]])) for i in order.tolist()]


def by_size(areas: np.ndarray, taken: np.ndarray) -> list[tuple[int, int, int]]:
    """(T,) areas in pixels, (T,) bool -> lower end of each bin of SIZES, its objects, and how many were found."""
    place = np.searchsorted(SIZES, np.sqrt(areas), "right") - 1
    objects, found = (np.bincount(p, minlength=len(SIZES)).tolist() for p in (place, place[taken]))
    return [*zip(SIZES, objects, found, strict=True)]


def mistakes(false: np.ndarray, missed: np.ndarray) -> list[tuple[int, int, int]]:
    """Images of false detections and of missed objects -> (image, missed, false), those with most mistakes first."""
    count = 1 + max((int(each.max()) for each in (false, missed) if len(each)), default=-1)
    wrong, lost = (np.bincount(each, minlength=count) for each in (false, missed))
    order = np.argsort(-(wrong + lost), kind="stable")
    return [(int(i), int(lost[i]), int(wrong[i])) for i in order.tolist() if wrong[i] + lost[i]]
