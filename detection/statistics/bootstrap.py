"""Intervals of AP: what very many images like those of the validation set would give; and of a difference of two.

    Matches -> sample_of: every metric, of the set, of D draws with replacement, of H halves -> Sample -> intervals
    Sample, another of the same images -> minus -> Sample -> intervals

A draw takes as many images as there are, some of them twice and others not at all. Copies are kept, as weights:
without them the spread would be three quarters of the right one. Two things are added to the spread of the draws. It is
a little too small, the more so the fewer images; and AP of few images is too high on average, since the envelope of a
rough curve lies above that of a smooth one. By how much is seen from halves of the set, which err more. In a paired
difference both sets err alike, so it is not moved. The spread itself is known from as many images as have such objects,
and a few of them carry most of it: Student's t, of half as many degrees of freedom.

Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979. The constants were fitted to boxes of simulated
sets of 50, 150 and 500 images, and tried on masks and keypoints; tests/bench/bench_interval_coverage.py measures how
often the intervals hold on others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from detection.statistics.accumulate import Curves, accumulate
from detection.statistics.matching import Matches

LEVEL = 0.95
DRAWS, PAIRS = 1000, 50  # draws; pairs of halves
LEAST_IMAGES = 50  # of a validation set, for any interval
LEAST_WITH = 10  # images with objects of a metric, for its interval
BLOCK = 500  # draws at once: memory
TOO_HIGH = 1.4  # error of a set, in units of what halving it adds: 1 if it falls as 1 / images, 1.7 as images^(-2/3)
DOUBT = 0.5  # of that error, one standard deviation
WIDER = 25  # images: the spread of the draws is taken sqrt(1 + WIDER / images) times


class Statistic(NamedTuple):
    """A metric: the mean of a row of curves over categories."""

    curve: str  # "precision" or "recall"
    row: int
    categories: np.ndarray  # (N,) rows of categories


class Sample(NamedTuple):
    """Metrics of a result set. NaN where a metric is not defined."""

    names: tuple[str, ...]
    values: np.ndarray  # (N,) of the set
    draws: np.ndarray  # (N, D)
    halves: np.ndarray  # (N, 2 pairs)
    support: np.ndarray  # (N,) images with objects of each metric
    images: int

    def minus(self, other: Sample) -> Sample:
        """The paired difference: each draw of both has the same images."""
        assert self.names == other.names and self.images == other.images, "of one validation set"
        return self._replace(
            values=self.values - other.values, draws=self.draws - other.draws, halves=self.halves - other.halves
        )


class Intervals(NamedTuple):
    """Bounds of each metric, NaN where there are too few images for them."""

    names: tuple[str, ...]
    low: np.ndarray  # (N,)
    high: np.ndarray  # (N,)
    p: np.ndarray  # (N,) two-sided probability of a value as far from 0, if the truth were 0


def sample_of(
    matches: Matches, statistics: Mapping[str, Statistic], *, draws: int = DRAWS, pairs: int = PAIRS, seed: int = 0
) -> Sample:
    """Every metric of a set, of draws and of halves; the same draws for the same number of images and seed."""
    images, rng = matches.num_images, np.random.default_rng(seed)
    values = _values(accumulate(matches, np.ones((images, 1))), statistics)[:, 0]
    drawn = [_values(accumulate(matches, weights), statistics) for weights in _draws(rng, images, draws)]
    halves = _values(accumulate(matches, _halves(rng, images, pairs)), statistics)
    support = np.array([_support(matches, one) for one in statistics.values()], dtype=np.int64)
    return Sample(tuple(statistics), values, np.concatenate(drawn, 1), halves, support, images)


def _draws(rng: np.random.Generator, images: int, draws: int) -> Iterator[np.ndarray]:
    """(I, B) float32: how often each draw takes each image."""
    for begin in range(0, draws, BLOCK):
        block = range(begin, min(begin + BLOCK, draws))
        counts = [np.bincount(rng.integers(0, images, images), minlength=images) for _ in block]
        yield np.ascontiguousarray(np.stack(counts, 1), np.float32)


def _halves(rng: np.random.Generator, images: int, pairs: int) -> np.ndarray:
    """(I, 2 pairs) float32: 1 for the images of each half; two halves make a whole, so that chance cancels out."""
    weights = np.zeros((images, 2 * pairs), np.float32)
    for number in range(pairs):
        order = rng.permutation(images)
        weights[order[::2], 2 * number] = weights[order[1::2], 2 * number + 1] = 1
    return weights


def _values(curves: Curves, statistics: Mapping[str, Statistic]) -> np.ndarray:
    """(N, D): the mean over the categories that a draw has."""
    rows = []
    for one in statistics.values():
        own = getattr(curves, one.curve)[one.row, one.categories]
        there = np.isfinite(own)
        count = there.sum(0)
        rows.append(np.where(count > 0, np.where(there, own, 0).sum(0) / np.maximum(count, 1), np.nan))
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1)


def _support(matches: Matches, statistic: Statistic) -> int:
    """Images with an object that counts for a metric."""
    objects, areas = matches.objects, matches.counted.shape[1]
    counted = matches.counted[:, statistic.row if statistic.row < areas else 0]
    return len(np.unique(objects.images[counted & np.isin(objects.categories, statistic.categories)]))


def intervals(sample: Sample, *, level: float = LEVEL, paired: bool = False) -> Intervals:
    """The bounds between which each metric of very many images lies, with probability `level`.

    Args:
        paired: of a difference.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # metrics without objects
        spread = np.nanstd(sample.draws, 1, ddof=1)
        error = TOO_HIGH * (np.nanmean(sample.halves, 1) - sample.values)
    scale = np.sqrt(1 + WIDER / sample.images) * np.sqrt(spread**2 + (DOUBT * error) ** 2)
    if sample.images < LEAST_IMAGES:
        scale = np.full_like(scale, np.nan)
    scale[sample.support < LEAST_WITH] = np.nan
    center = sample.values if paired else sample.values - error
    lowest = -1.0 if paired else 0.0
    freedom = np.maximum(sample.support / 2, 1)
    reach = student.ppf((1 + level) / 2, freedom) * scale
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * student.sf(np.abs(center) / scale, freedom)
    p[(scale == 0) & (center == 0)] = 1.0
    return Intervals(sample.names, (center - reach).clip(lowest, 1), (center + reach).clip(lowest, 1), p)


def false_discovery(p: np.ndarray, rate: float = 0.05) -> np.ndarray:
    """(N,) bool: the differences that are real but for a share of `rate`; NaN are none.

    Benjamini, Hochberg, "Controlling the False Discovery Rate", 1995.
    """
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    passed = np.flatnonzero(p[order] <= rate * np.arange(1, len(order) + 1) / max(len(order), 1))
    real = np.zeros(len(p), dtype=bool)
    real[order[: passed[-1] + 1] if len(passed) else order[:0]] = True
    return real
