"""Average precision and recall of images that count several times: the accumulation of COCO, for many draws at once.

    Matches, weights (I, D) -> Curves: AP and AR of every category, for D draws

A draw that takes an image twice is a data set with two copies of it, so weights are numbers of copies. Precision rises
at true positives only, and its envelope is the largest one from there on, so a category is walked once from its last
true positive to its first: false positives between two of them are one sum. With weights of 1 the numbers are those of
COCOeval.accumulate of pycocotools.

Shape letters: I images, D draws, E events of a category: detections that are true positives, or ignored, at some
threshold only, T thresholds, A areas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from detection.statistics.matching import PLACES, THRESHOLDS, Matches

AT = tuple(int(np.abs(THRESHOLDS - threshold).argmin()) for threshold in (0.5, 0.75))
CHUNK = 4096  # events whose false positives are summed together


class Curves(NamedTuple):
    """AP and AR of each category. S: A areas, at all thresholds; then, of all areas, at IoU 0.5 and at 0.75.

    NaN where a draw has no such objects.
    """

    precision: np.ndarray  # (S, C, D)
    recall: np.ndarray  # (S, C, D)


class Events(NamedTuple):
    """The detections of one category and area that matter, by falling score."""

    images: np.ndarray  # (E,) int32
    hit: np.ndarray  # (E, T) bool
    counted: np.ndarray  # (E, T) bool: true or false positive
    always: np.ndarray  # (E,) bool: counted at every threshold
    between: csr_array  # (E, I): detections counted at every threshold, up to and with each event


def accumulate(matches: Matches, weights: np.ndarray) -> Curves:
    """AP and AR for every draw.

    Args:
        weights: (I, D) whole numbers as floats, how often each draw takes each image. In float64 the result equals
            pycocotools' to the order of summation; float32 is for many draws.
    """
    areas, draws = matches.counted.shape[1], weights.shape[1]
    shape = (areas + len(AT), matches.num_categories, draws)
    precision, recall = (np.full(shape, np.nan, weights.dtype) for _ in range(2))
    for category, own in enumerate(_by_category(matches)):
        for area in range(areas):
            images = matches.objects.images[own[matches.counted[own, area]]]
            if not len(images):
                continue
            count = sums([images], weights)[0]
            count[count == 0] = np.nan
            ap, found = _walk(events_of(matches, category, area), weights, count)
            ap, ar = ap + (count - count), found / count
            precision[area, category], recall[area, category] = ap.mean(0), ar.mean(0)
            if area == 0:
                for row, level in enumerate(AT, start=areas):
                    precision[row, category], recall[row, category] = ap[level], ar[level]
    return Curves(precision, recall)


def _by_category(matches: Matches) -> list[np.ndarray]:
    """The objects of each category."""
    categories = matches.objects.categories
    order = np.argsort(categories, kind="stable")
    return np.split(order, np.searchsorted(categories[order], np.arange(1, matches.num_categories)))


def sums(groups: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Images of the things in R groups, weights (I, D) -> (R, D): how many of each group every draw has."""
    bounds = np.cumsum([0, *map(len, groups)])
    things = np.concatenate(groups)
    return csr_array((np.ones(len(things), weights.dtype), things, bounds), (len(groups), len(weights))) @ weights


def events_of(matches: Matches, category: int, area: int) -> Events:
    """The events of a category in an area."""
    own = slice(matches.starts[category], matches.starts[category + 1])
    images, place, inside = matches.images[own], matches.place[own], matches.inside[own, area]
    some = place >= 0
    hit, excused = np.zeros((2, len(images), len(THRESHOLDS)), dtype=bool)
    hit[some], excused[some] = matches.hit[place[some], area], matches.excused[place[some], area]
    counted = hit | (inside[:, None] & ~excused)
    always = np.asarray(counted.all(1))
    which = np.flatnonzero(hit.any(1) | (counted.any(1) & ~always))
    summed = np.flatnonzero(always)
    ends = np.searchsorted(summed, which, "right")
    summed = summed[: ends[-1]] if len(ends) else summed[:0]  # what comes after the last event changes nothing
    bounds = np.concatenate(([0], ends))
    between = csr_array((np.ones(len(summed), np.float32), images[summed], bounds), (len(which), matches.num_images))
    return Events(images[which], hit[which], counted[which], always[which], between)


def _walk(events: Events, weights: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP (T, D) and true positives (T, D), for all draws at once, from the last event to the first.

    Args:
        count: (D,) objects of each draw, NaN for none.
    """
    found = sums([events.images[row] for row in events.hit.T], weights)
    everything = sums([events.between.indices], weights)[0]
    some = np.asarray(~events.always)
    extra = sums([events.images[some][row] for row in events.counted[some].T], weights) if some.any() else None
    first, last = events.hit.argmax(1).tolist(), (len(THRESHOLDS) - events.hit[:, ::-1].argmax(1)).tolist()
    any_hit, solid = np.asarray(events.hit.any(1)).tolist(), events.hit.sum(1).tolist()
    in_all, places = found.copy(), _reached(found, count)
    best, area, work, part = (np.zeros_like(found) for _ in range(4))
    tiny = weights.dtype.type(np.spacing(1.0))  # as pycocotools adds it
    for end in range(len(events.images), 0, -CHUNK):
        begin = max(end - CHUNK, 0)
        counts = events.between[begin:end] @ weights
        for event in range(end - 1, begin - 1, -1):
            own = weights[events.images[event]]
            if any_hit[event]:
                span = slice(first[event], last[event])  # rows without a hit in between stay as they are
                seen = everything + tiny if extra is None else everything + extra[span] + tiny
                here, new = work[span], part[span]
                np.divide(found[span], seen, out=here)
                np.maximum(best[span], here, out=best[span])
                found[span] -= own if solid[event] == len(here) else own * events.hit[event, span, None]
                _reached(found[span], count, out=new)
                np.subtract(places[span], new, out=here)
                here *= best[span]
                area[span] += here
                places[span] = new
            if extra is not None and some[event]:
                extra[events.counted[event]] -= own
            everything -= counts[event - begin]
    return (area + best) / len(PLACES), in_all


def _reached(found: np.ndarray, count: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """True positives (T, D), objects (D,) -> (T, D) places of recall above 0 that are reached, from 0 to 100."""
    out = np.empty_like(found) if out is None else out
    np.divide(found, count, out=out)
    if found.dtype == np.float64:
        out[:] = np.searchsorted(PLACES, out, "right") - 1
    else:  # 0.3 may be 0.29999998
        np.floor(np.multiply(out, np.float32(100 * (1 + 5e-7)), out=out), out=out)
    return out
