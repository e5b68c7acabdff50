"""COCO's matching of detections with objects, done once: what a bootstrap over images accumulates again and again.

    Objects, Finds, similarity -> 1. the best detections of each image and category, by score
                               -> 2. pairs that overlap at the lowest threshold
                               -> 3. matched best first, for all thresholds, areas and images at once
                               -> Matches

As COCOeval.evaluateImg of pycocotools: a detection takes the object it overlaps most among those not yet taken, of
equal ones the last; ignored objects only where no other is left; crowds any number of times. A detection that is
matched with an ignored object, or with none and of another area, is ignored.

Shape letters: M detections, Q of them that overlap an object, G objects, A areas, T thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
PLACES = np.linspace(0.0, 1.0, 101)  # of recall
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # all, small, medium, large; inclusive

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Objects(NamedTuple):
    """The ground truth: G objects in the order of their file, images and categories by their rows."""

    images: np.ndarray  # (G,) int64
    categories: np.ndarray  # (G,) int64
    areas: np.ndarray  # (G,) float64, pixels
    crowd: np.ndarray  # (G,) bool: excuses any number of detections
    ignored: np.ndarray  # (G,) bool: crowds, and objects that need not be found


class Finds(NamedTuple):
    """M detections, each image's in the order of the detector."""

    images: np.ndarray  # (M,) int64
    categories: np.ndarray  # (M,) int64
    scores: np.ndarray  # (M,) float64
    areas: np.ndarray  # (M,) float64, pixels


class Matches(NamedTuple):
    """The matching of a result set; detections by category, then by falling score."""

    num_images: int
    num_categories: int
    rows: np.ndarray  # (M,) int64: which detection of `Finds` this is
    images: np.ndarray  # (M,) int32
    scores: np.ndarray  # (M,) float64
    starts: np.ndarray  # (C + 1,) the detections of category c are starts[c] to starts[c + 1]
    inside: np.ndarray  # (M, A) bool: counts as a false positive where it is not matched
    place: np.ndarray  # (M,) int32: its row in `hit`, -1 if it overlaps nothing
    hit: np.ndarray  # (Q, A, T) bool: a true positive
    excused: np.ndarray  # (Q, A, T) bool: matched with an ignored object
    partner: np.ndarray  # (Q, T) int32: the object it is matched with, whatever its area; -1 for none
    objects: Objects
    counted: np.ndarray  # (G, A) bool: objects that are to be found


def match(
    objects: Objects,
    finds: Finds,
    similarity: Similarity,
    *,
    num_images: int,
    num_categories: int,
    most: int,
    areas: Sequence[tuple[float, float]] = AREAS,
    unfinished: np.ndarray | None = None,
) -> Matches:
    """Match a result set with its ground truth.

    Args:
        similarity: (rows of detections, rows of objects) -> (D, G) IoU or OKS, all of one image and category.
        most: detections of an image and category that count.
        areas: least and largest area in pixels; the first is that of all.
        unfinished: (I, C) bool, pairs where unmatched detections are ignored, as in LVIS; None for none.
    """
    rows = _best(finds, most)
    finds = Finds(*(column[rows] for column in finds))
    low, high = np.array(areas).T
    beyond = (objects.areas[:, None] < low) | (objects.areas[:, None] > high)
    skip = beyond | objects.ignored[:, None]
    inside = (finds.areas[:, None] >= low) & (finds.areas[:, None] <= high)
    if unfinished is not None:
        inside &= ~unfinished[finds.images, finds.categories][:, None]
    seen, other, value = _pairs(objects, finds, rows, similarity)
    claims, place_of_pair = np.unique(seen, return_inverse=True)
    hit, excused, partner = _matched(_turns(finds, claims), place_of_pair, other, value, skip, objects.crowd)

    order = np.lexsort((np.arange(len(rows)), finds.images, -finds.scores, finds.categories))
    place = np.full(len(rows), -1, np.int32)
    place[claims] = np.arange(len(claims))
    return Matches(
        num_images,
        num_categories,
        rows[order],
        finds.images[order].astype(np.int32),
        finds.scores[order],
        np.searchsorted(finds.categories[order], np.arange(num_categories + 1)),
        inside[order],
        place[order],
        hit,
        excused,
        partner,
        objects,
        ~skip,
    )


def _best(finds: Finds, most: int) -> np.ndarray:
    """Rows of the best detections of each image and category, by image, category and falling score."""
    order = np.lexsort((-finds.scores, finds.categories, finds.images))  # stable: equal scores stay in order
    return order[_rank(finds.images[order], finds.categories[order]) < most]


def _rank(*keys: np.ndarray) -> np.ndarray:
    """(N,) sorted keys -> (N,) the number of each within its group."""
    count = len(keys[0])
    new = np.ones(count, dtype=bool)
    if count:
        new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    first = np.flatnonzero(new)
    return np.arange(count) - np.repeat(first, np.diff(np.append(first, count)))


def _turns(finds: Finds, claims: np.ndarray) -> np.ndarray:
    """(Q,) when each detection has its turn within its image and category."""
    return _rank(finds.images[claims], finds.categories[claims])


def _pairs(
    objects: Objects, finds: Finds, rows: np.ndarray, similarity: Similarity
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P,) detections in ascending order, (P,) objects, ascending for each, (P,) their similarity."""
    order = np.lexsort((objects.categories, objects.images))  # stable: objects stay in the order of the file
    width = int(max(objects.categories.max(initial=0), finds.categories.max(initial=0))) + 1
    ours = objects.images[order] * width + objects.categories[order]
    theirs = finds.images * width + finds.categories
    groups, starts = np.unique(ours, return_index=True)
    ends = np.append(starts[1:], len(ours))
    first, last = (np.searchsorted(theirs, groups, side) for side in ("left", "right"))
    seen, other, value = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for here in np.flatnonzero(last > first).tolist():
        own, found = order[starts[here] : ends[here]], slice(first[here], last[here])
        overlap = similarity(rows[found], own)
        down, across = np.nonzero(overlap >= THRESHOLDS[0])
        if len(down):
            seen.append(down + found.start)
            other.append(own[across])
            value.append(overlap[down, across])
    return np.concatenate(seen), np.concatenate(other), np.concatenate(value)


def _matched(
    turns: np.ndarray, claim: np.ndarray, other: np.ndarray, value: np.ndarray, skip: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """hit and excused (Q, A, T), partner (Q, T): the first detection of every image and category, then the second ...

    Args:
        turns: (Q,) of each detection.
        claim, other, value: (P,) of each pair the detection, the object, and how much they overlap.
        skip: (G, A) bool, ignored objects.
    """
    claims, areas, levels = len(turns), skip.shape[1], len(THRESHOLDS)
    hit, excused = (np.zeros((claims, areas, levels), dtype=bool) for _ in range(2))
    partner = np.full((claims, levels), -1, np.int32)
    taken = np.zeros((len(crowd), areas, levels), dtype=bool)
    order = np.argsort(turns[claim], kind="stable")
    bounds = np.searchsorted(turns[claim][order], np.arange(turns.max(initial=-1) + 2))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        pairs = order[begin:end]
        who, what = claim[pairs], other[pairs]
        first = np.flatnonzero(np.append(True, who[1:] != who[:-1]))
        each = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(who))))
        overlap = value[pairs][:, None, None]
        free = (overlap >= THRESHOLDS) & (~taken[what] | crowd[what][:, None, None])
        wanted = free & ~skip[what][:, :, None]
        found = np.logical_or.reduceat(wanted, first)
        free = np.where(found[each], wanted, free)
        best = np.maximum.reduceat(np.where(free, overlap, -1.0), first)
        chosen = free & (overlap == best[each])
        last = np.maximum.reduceat(np.where(chosen, np.arange(len(who))[:, None, None], -1), first)
        some = last >= 0
        mine, object_of = who[first], what[last]
        _, area, level = np.nonzero(some)
        taken[object_of[some], area, level] = True
        hit[mine], excused[mine] = found, some & ~found
        partner[mine] = np.where(some[:, 0], object_of[:, 0], -1)
    return hit, excused, partner
