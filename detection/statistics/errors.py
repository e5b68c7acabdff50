"""Six kinds of errors, and how much AP each one costs.

Bolya, Foley, Hays, Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", 2020.

    a detection that is no true positive    its best overlap with an object of its class, of another class
      localization                          0.1 to 0.5 of its class
      classification                        at least 0.5 of another class
      duplicate                             0.5 of its class, which a better detection has found
      background                            at most 0.1 of any
      both                                  the rest: 0.1 to 0.5 of another class
    missed: an object that nothing finds, and that no localization or classification error is about

The first row that fits counts. The cost of a kind is the AP that its repair would add: of the localization and
classification errors about an object that nothing finds, the best becomes a true positive of the object's class; all
other errors of the kind vanish; missed objects are no longer counted. At IoU 0.5, over all areas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detection.statistics.accumulate import AT
from detection.statistics.matching import PLACES, Matches, Similarity

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND = range(5)
FOUND, NOTHING = 0.5, 0.1  # IoU


class Errors(NamedTuple):
    """Of one result set. Kinds in the order of KINDS."""

    counts: np.ndarray  # (6,) int64
    costs: np.ndarray  # (6,) float64: AP at IoU 0.5 that the repair adds, from -1 to 1; mean over classes
    ap: float  # at IoU 0.5, without repair
    kind: np.ndarray  # (M,) int8, of each detection of the matches; -1 for true positives and ignored ones
    missed: np.ndarray  # (G,) bool, of each object


def errors_of(matches: Matches, similarity: Similarity, crowd: np.ndarray) -> Errors:
    """The errors of a result set.

    Args:
        similarity: as in `match`, here of detections and objects of different categories too.
        crowd: (G,) bool, objects that are no other class's: crowds.
    """
    level = AT[0]
    detections, categories = len(matches.rows), np.repeat(np.arange(matches.num_categories), np.diff(matches.starts))
    some = matches.place >= 0
    hit, excused = np.zeros((2, detections), dtype=bool)
    hit[some] = matches.hit[matches.place[some], 0, level]
    excused[some] = matches.excused[matches.place[some], 0, level]
    wrong = ~hit & ~excused & matches.inside[:, 0]
    partners = matches.partner[matches.place[some], level]
    taken = np.zeros(len(crowd), dtype=bool)
    taken[partners[partners >= 0]] = True

    kind, target = _kinds(matches, similarity, crowd, categories, wrong, taken)
    repaired = np.zeros(len(crowd), dtype=bool)
    repaired[target[target >= 0]] = True
    missed = matches.counted[:, 0] & ~taken & ~repaired
    costs, ap = _costs(matches, categories, kind, target, taken, hit, wrong, missed)
    counts = np.array([*(np.count_nonzero(kind == number) for number in range(5)), np.count_nonzero(missed)])
    return Errors(counts, costs, ap, kind, missed)


def _kinds(
    matches: Matches,
    similarity: Similarity,
    crowd: np.ndarray,
    categories: np.ndarray,
    wrong: np.ndarray,
    taken: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(M,) the kind of each detection, (M,) the object that its repair would find; -1 for none."""
    objects = matches.objects
    kind, target = np.full((2, len(wrong)), -1)
    which = np.flatnonzero(wrong)
    which = which[np.argsort(matches.images[which], kind="stable")]
    order = np.argsort(objects.images, kind="stable")
    # where two overlap a detection alike, the first that is not ignored
    order = order[np.lexsort((~matches.counted[order, 0], objects.images[order]))]
    ours = np.searchsorted(matches.images[which], np.arange(matches.num_images + 1))
    theirs = np.searchsorted(objects.images[order], np.arange(matches.num_images + 1))
    kind[which] = BACKGROUND
    for image in np.flatnonzero((np.diff(ours) > 0) & (np.diff(theirs) > 0)).tolist():
        found, own = which[ours[image] : ours[image + 1]], order[theirs[image] : theirs[image + 1]]
        overlap = similarity(matches.rows[found], own)
        alike = categories[found][:, None] == objects.categories[own]
        same, other = np.where(alike, overlap, 0.0), np.where(alike | crowd[own], 0.0, overlap)
        best_same, best_other = same.max(1), other.max(1)
        twice = ((same >= FOUND) & taken[own]).any(1)
        near = (best_same >= NOTHING) & (best_same <= FOUND)
        kind[found] = np.select(
            [near, best_other >= FOUND, twice, best_other <= NOTHING],
            [LOCALIZATION, CLASSIFICATION, DUPLICATE, BACKGROUND],
            BOTH,
        )
        target[found] = np.select([near, best_other >= FOUND], [own[same.argmax(1)], own[other.argmax(1)]], -1)
    return kind.astype(np.int8), target


def _costs(
    matches: Matches,
    categories: np.ndarray,
    kind: np.ndarray,
    target: np.ndarray,
    taken: np.ndarray,
    hit: np.ndarray,
    wrong: np.ndarray,
    missed: np.ndarray,
) -> tuple[np.ndarray, float]:
    """(6,) and AP: means over the categories with objects."""
    own = matches.objects.categories
    objects = np.bincount(own[matches.counted[:, 0]], minlength=matches.num_categories)
    repairs = _repairs(matches.scores, target, taken)

    def ap(good: np.ndarray, bad: np.ndarray, where: np.ndarray, count: np.ndarray) -> np.ndarray:
        """(C,) of detections with these categories."""
        each = np.zeros(len(objects))
        order = np.lexsort((where != categories, -matches.scores, where))
        ends = np.searchsorted(where[order], np.arange(len(objects) + 1))
        for category in np.flatnonzero(objects).tolist():
            rows = order[ends[category] : ends[category + 1]]
            each[category] = average_precision(good[rows], bad[rows], int(count[category]))
        return each

    base = ap(hit, wrong, categories, objects)
    costs = np.zeros((len(KINDS), len(objects)))
    for number in range(5):
        mine = kind == number
        repaired = mine & repairs
        where = np.where(repaired, own[target], categories)
        costs[number] = ap(hit | repaired, wrong & ~mine, where, objects)
    fewer = objects - np.bincount(own[missed], minlength=len(objects))
    costs[-1] = ap(hit, wrong, categories, fewer)
    some = objects > 0
    if not some.any():
        return np.zeros(len(KINDS)), 0.0
    return (costs - base)[:, some].mean(1), float(base[some].mean())


def _repairs(scores: np.ndarray, target: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(M,) bool: the best detection about each object that nothing finds; others about it would be duplicates."""
    about = np.flatnonzero(target >= 0)
    about = about[~taken[target[about]]]
    order = about[np.lexsort((-scores[about], target[about]))]
    first = np.append(True, target[order][1:] != target[order][:-1])[: len(order)]
    repairs = np.zeros(len(scores), dtype=bool)
    repairs[order[first]] = True
    return repairs


def average_precision(good: np.ndarray, bad: np.ndarray, count: int) -> float:
    """AP over 101 places of recall of detections by falling score; those neither good nor bad are left out.

    Args:
        count: objects, at least 1.
    """
    keep = good | bad
    true = np.cumsum(good[keep], dtype=np.float64)
    precision = true / (np.arange(1, len(true) + 1) + np.spacing(1))
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(true / count, PLACES)].mean()) if count else 0.0
