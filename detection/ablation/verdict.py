"""One sentence about an arm beside training from scratch: it helps, makes no difference that matters, hurts, or nobody
can tell yet.

    difference of each seed (S,), of each draw of validation images (D,) -> Difference: mean, interval, p
    differences of several arms and label fractions                      -> Verdict of each, by Holm's rule

Two things make a difference uncertain. Seeds: initial weights of the head, order of the data, augmentation and choice
of labels, which are the same for both arms of a pair; s^2 / S. Validation images: the same for all seeds, so their
share does not get smaller with more of them; it is the spread of bootstrap draws of the mean difference. The interval
reaches sqrt((t a)^2 + (z b)^2) far, of the two standard errors a and b, with Student's quantile t for the first, which
is estimated from few seeds, and the normal one z for the second. Satterthwaite's degrees of freedom instead, tried in
simulations, are too optimistic with two or three seeds, whose spread may happen to be tiny.

Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks", MLSys 2021. Graybill, Wang, "Confidence
intervals on nonnegative linear combinations of variances", 1980. Holm, "A simple sequentially rejective multiple test
procedure", 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

LEVEL = 0.95
MARGIN = 0.005  # AP below which a difference does not matter
LEARNT = 0.02  # mean AP that at least one arm must reach, or nothing was compared but detectors that found nothing
SIGNS = 6  # seeds from which signs alone can be significant: 2 / 2^6 < 0.05
LEAST_P = 1e-20
MOST_SEEDS = 16  # for all 2^S signs; a normal approximation beyond

Kind = Literal["helps", "no difference that matters", "hurts", "cannot tell"]


class Difference(NamedTuple):
    """An arm minus scratch, in AP."""

    seeds: np.ndarray  # (S,) of each seed
    mean: float
    low: float
    high: float
    p: float  # two-sided
    of_seeds: float  # standard error by the choice of seeds
    of_images: float  # standard error by the choice of validation images
    share: float  # of draws in which the arm is ahead
    signs: float | None  # p of the sign-flip test; None below SIGNS seeds


class Verdict(NamedTuple):
    """learnt: whether one of the two arms has learnt to detect at all."""

    kind: Kind
    difference: Difference
    more_seeds: int | None  # that would settle the margin, with these images; None if no number would
    more_images: int | None  # that would settle it, with these seeds
    learnt: bool = True


def difference_of(seeds: Sequence[float], draws: np.ndarray, widened: float = 1.0) -> Difference:
    """The mean difference and its interval.

    Args:
        seeds: (S,) the difference of each seed on all validation images; two at least.
        draws: (D,) the mean difference in each draw of validation images.
        widened: factor of the spread of the draws, for few images.
    """
    each = np.asarray(seeds, float)
    if len(each) < 2:
        raise ValueError("a difference of one seed has no interval")
    mean = float(each.mean())
    of_seeds = float(each.std(ddof=1) / math.sqrt(len(each)))
    of_images = float(np.nanstd(draws, ddof=1)) * widened
    ahead, signs = float((draws > 0).mean()), signs_of(each)
    reach = reach_of(1 - LEVEL, of_seeds, of_images, len(each))
    p = p_of(abs(mean), of_seeds, of_images, len(each))
    return Difference(each, mean, mean - reach, mean + reach, p, of_seeds, of_images, ahead, signs)


def reach_of(p: float, of_seeds: float, of_images: float, seeds: int) -> float:
    """Half the width of the interval that misses the truth with this probability."""
    return math.hypot(stdtrit(seeds - 1, p / 2) * of_seeds, ndtri(p / 2) * of_images)


def p_of(distance: float, of_seeds: float, of_images: float, seeds: int) -> float:
    """The probability whose interval reaches just so far."""
    if distance == 0:
        return 1.0
    if of_seeds == of_images == 0:
        return 0.0
    low, high = math.log(LEAST_P), 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if reach_of(math.exp(middle), of_seeds, of_images, seeds) < distance else (middle, high)
        )
    return math.exp(high)


def signs_of(seeds: np.ndarray) -> float | None:
    """Share of all ways to flip the signs of the differences whose mean is as far from 0; exact up to MOST_SEEDS."""
    if len(seeds) < SIGNS:
        return None
    if len(seeds) > MOST_SEEDS:
        return float(2 * ndtr(-abs(seeds.sum()) / math.sqrt((seeds**2).sum()))) if seeds.any() else 1.0
    flipped = np.array(list(product((1, -1), repeat=len(seeds)))) @ seeds
    return float((np.abs(flipped) >= abs(seeds.sum()) - 1e-12).mean())


def verdicts(
    differences: Sequence[Difference], images: int, margin: float = MARGIN, best: Sequence[float] | None = None
) -> list[Verdict]:
    """The verdict of each of several comparisons, of which together at most one in twenty is wrong by chance.

    Args:
        images: validation images.
        margin: AP below which a difference does not matter.
        best: mean AP of the better arm of each comparison; below LEARNT nothing can be told.
    """
    real = holm([one.p for one in differences])
    learnt = [True] * len(real) if best is None else [ap >= LEARNT for ap in best]
    return [
        Verdict(
            kind_of(one, sure, margin) if able else "cannot tell",
            one,
            more_seeds(one, margin),
            more_images(one, images, margin),
            able,
        )
        for one, sure, able in zip(differences, real, learnt, strict=True)
    ]


def kind_of(difference: Difference, sure: bool, margin: float) -> Kind:
    if -margin < difference.low and difference.high < margin:
        return "no difference that matters"
    if sure and difference.low > 0:
        return "helps"
    if sure and difference.high < 0:
        return "hurts"
    return "cannot tell"


def holm(p: Sequence[float], level: float = 1 - LEVEL) -> list[bool]:
    """Which of several differences are real, by Holm's rule."""
    order = np.argsort(p, kind="stable")
    real = [False] * len(p)
    for rank, place in enumerate(order.tolist()):
        if p[place] > level / (len(p) - rank):
            break
        real[place] = True
    return real


def more_seeds(difference: Difference, margin: float) -> int | None:
    """Seeds beyond those there are, after which the interval reaches no further than the margin."""
    left = (margin / ndtri((1 + LEVEL) / 2)) ** 2 - difference.of_images**2
    if left <= 0:
        return None
    there = len(difference.seeds)
    return max(0, math.ceil(difference.of_seeds**2 * there / left) - there)


def more_images(difference: Difference, images: int, margin: float) -> int | None:
    """Validation images beyond those there are, with which it reaches no further."""
    left = (margin / ndtri((1 + LEVEL) / 2)) ** 2 - difference.of_seeds**2
    if left <= 0:
        return None
    return max(0, math.ceil(difference.of_images**2 * images / left) - images)


# --- words --------------------------------------------------------------------------------------


def sentence(arm: str, fraction: float, verdict: Verdict, images: int, margin: float = MARGIN) -> str:
    """The verdict in words."""
    one, where = verdict.difference, "with all labels" if fraction == 1 else f"with {100 * fraction:g} % of the labels"
    between = f"95 %: {points(one.low)} to {points(one.high)}"
    measured = f"{len(one.seeds)} seeds, {images:,} validation images"
    if verdict.kind == "no difference that matters":
        return f"{arm} {where}: any difference is smaller than {100 * margin:g} AP ({between}; {measured})."
    if verdict.kind != "cannot tell":
        return f"{arm} {verdict.kind} {where}: {points(one.mean)} AP ({between}; {measured})."
    if not verdict.learnt:
        return (
            f"Nobody can tell yet whether {arm} helps {where}: neither it nor scratch has learnt to detect, both are "
            f"below {100 * LEARNT:g} AP ({measured}). Train longer."
        )
    told = f"Nobody can tell yet whether {arm} helps {where}: {points(one.mean)} AP ({between}; {measured})."
    return f"{told} {more(verdict, margin)}"


def more(verdict: Verdict, margin: float) -> str:
    """What would settle it."""
    ways = []
    if verdict.more_seeds:
        ways.append(f"about {verdict.more_seeds:,} more seeds")
    if verdict.more_images:
        ways.append(f"{verdict.more_images:,} more validation images")
    if not ways:
        return f"More seeds and more validation images together would settle {100 * margin:g} AP."
    return f"{' or '.join(ways)[0].upper()}{' or '.join(ways)[1:]} would settle {100 * margin:g} AP."


def points(ap: float) -> str:
    """0.031 -> +3.1"""
    return f"{100 * ap:+.1f}"


# --- worth in labels ----------------------------------------------------------------------------


class Worth(NamedTuple):
    """How many times the labels scratch would need to reach an arm's AP."""

    times: float  # inf if scratch does not reach it with all labels, 0 if it is ahead with the fewest
    low: float
    high: float


def worth_of(fraction: float, arm: np.ndarray, scratch: dict[float, np.ndarray]) -> Worth | None:
    """The labels that scratch needs for the arm's AP, over the arm's own; None for a single fraction.

    The AP of scratch is interpolated between fractions over the logarithm of the number of labels.

    Args:
        arm: (1 + D,) the arm's AP at `fraction`, on all validation images and in each draw.
        scratch: {fraction: (1 + D,)}, in the same draws.
    """
    if len(scratch) < 2:
        return None
    fractions = sorted(scratch)
    curve = np.maximum.accumulate(np.stack([scratch[f] for f in fractions]))  # more labels are no worse
    needed = np.array([labels_for(arm[i], curve[:, i], np.log(fractions)) for i in range(len(arm))]) / fraction
    low, high = np.quantile(needed[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="closest_observation")
    return Worth(float(needed[0]), float(low), float(high))


def labels_for(ap: float, curve: np.ndarray, logs: np.ndarray) -> float:
    """The fraction at which a rising curve reaches an AP; 0 before its start, inf behind its end."""
    if ap < curve[0]:
        return 0.0
    if ap > curve[-1]:
        return math.inf
    rising = np.append(True, np.diff(curve) > 0)
    return float(np.exp(np.interp(ap, curve[rising], logs[rising])))


def worth_words(arm: str, fraction: float, worth: Worth) -> str:
    """What the pretraining is worth in labels, in words."""
    own = "all labels" if fraction == 1 else f"{100 * fraction:g} % of the labels"
    if worth.times == 0:
        return f"{arm} with {own} is behind scratch with the fewest labels that were tried."
    if math.isinf(worth.times):
        return (
            f"{arm} with {own} is ahead of scratch with all labels: it is worth more than {1 / fraction:.1f} times the "
            "labels."
        )
    low = "less than the fewest tried" if worth.low == 0 else f"{worth.low:.1f}"
    high = "more than all" if math.isinf(worth.high) else f"{worth.high:.1f}"
    return f"{arm} with {own} is worth {worth.times:.1f} times the labels (95 %: {low} to {high})."
