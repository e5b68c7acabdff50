"""Intervals are as wide as AP moves from one validation set to the next, and hold as often as they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from detection.statistics.accumulate import accumulate
from detection.statistics.bootstrap import (
    Sample,
    Statistic,
    false_discovery,
    intervals,
    sample_of,
)
from detection.statistics.matching import Matches
from tests.detection.statistics.of_scenes import (
    CLASSES,
    Detector,
    found_by,
    matched,
    matched_keypoints,
    matched_masks,
    scenes,
)

AP = {"ap": Statistic("precision", 0, np.arange(CLASSES)), "large": Statistic("precision", 3, np.arange(CLASSES))}
POOR, GOOD = Detector(), Detector(skill=1.6, noise=0.06)


@pytest.fixture(scope="module")
def sets() -> list[tuple[Sample, Sample, np.ndarray]]:
    """Thirty validation sets of 60 images: samples of two detectors, and draws of the first without repeats."""
    made = []
    for number in range(30):
        rng = np.random.default_rng(number)
        seen = scenes(rng, 60)
        poor, good = (matched(seen, found_by(detector, seen, rng)) for detector in (POOR, GOOD))
        once = [np.bincount(rng.integers(0, 60, 60), minlength=60) > 0 for _ in range(100)]
        dropped = accumulate(poor, np.stack(once, 1).astype(np.float32)).precision[0].mean(0)
        made.append((*(sample_of(m, AP, draws=100, pairs=20) for m in (poor, good)), dropped))
    return made


def spread(draws: list[np.ndarray]) -> float:
    return float(np.sqrt(np.mean([own.var(ddof=1) for own in draws])))


def test_draws_move_as_fresh_sets_do_and_without_repeats_they_would_not(
    sets: list[tuple[Sample, Sample, np.ndarray]],
) -> None:
    between = np.std([poor.values[0] for poor, _, _ in sets], ddof=1)
    assert 0.85 < spread([poor.draws[0] for poor, _, _ in sets]) / between < 1.25
    kept, dropped = spread([poor.draws[0] for poor, _, _ in sets]), spread([own for _, _, own in sets])
    assert dropped < 0.9 * kept


def test_intervals_hold_for_the_ap_of_very_many_images(sets: list[tuple[Sample, Sample, np.ndarray]]) -> None:
    rng = np.random.default_rng(10_000)
    seen = scenes(rng, 3000)
    poor, good = (
        sample_of(matched(seen, found_by(detector, seen, rng)), AP, draws=2, pairs=1).values
        for detector in (POOR, GOOD)
    )
    held = np.zeros((3, 2))
    for first, second, _ in sets:
        cases = (first, poor, False), (second, good, False), (second.minus(first), good - poor, True)
        for row, (sample, truth, paired) in enumerate(cases):
            bounds = intervals(sample, paired=paired)
            held[row] += (bounds.low <= truth) & (truth <= bounds.high)
    assert held.min() >= 25  # of 30; 28.5 expected
    better = [intervals(second.minus(first), paired=True) for first, second, _ in sets]
    assert sum(bounds.low[0] > 0 and bounds.p[0] < 0.05 for bounds in better) >= 25


@pytest.mark.parametrize(("of_kind", "categories"), [(matched_masks, CLASSES), (matched_keypoints, 1)])
def test_intervals_of_masks_and_keypoints_hold_too(of_kind: Callable[..., Matches], categories: int) -> None:
    ap = {"ap": Statistic("precision", 0, np.arange(categories))}

    def both(seed: int, images: int, draws: int) -> list[Sample]:
        rng = np.random.default_rng(seed)
        seen = scenes(rng, images)
        found = [found_by(detector, seen, rng) for detector in (POOR, GOOD)]
        return [sample_of(of_kind(seen, own, np.random.default_rng(seed)), ap, draws=draws, pairs=20) for own in found]

    poor, good = (sample.values for sample in both(10_000, 1500, 1))
    held = np.zeros(3)
    for number in range(20):
        first, second = both(number, 60, 100)
        cases = (first, poor, False), (second, good, False), (second.minus(first), good - poor, True)
        for row, (sample, truth, paired) in enumerate(cases):
            bounds = intervals(sample, paired=paired)
            held[row] += (bounds.low <= truth)[0] & (truth <= bounds.high)[0]
    assert held.min() >= 16  # of 20; 19 expected


def test_few_images_with_objects_widen_an_interval(sets: list[tuple[Sample, Sample, np.ndarray]]) -> None:
    """The spread of 10 images is known worse than that of 60, and t allows for it."""
    first = sets[0][0]._replace(support=np.array([60, 60]))
    wide, narrow = (intervals(first._replace(support=np.array([n, n])), paired=True) for n in (10, 60))
    t = 2.5706 / 2.0423  # Student's t at 97.5 %, of 5 degrees of freedom over 30
    np.testing.assert_allclose((wide.high - wide.low) / (narrow.high - narrow.low), t, rtol=1e-3)


def test_a_result_set_does_not_differ_from_itself(sets: list[tuple[Sample, Sample, np.ndarray]]) -> None:
    first = sets[0][0]
    bounds = intervals(first.minus(first), paired=True)
    assert bounds.low.tolist() == bounds.high.tolist() == [0, 0]
    assert bounds.p.tolist() == [1, 1]


def test_the_same_seed_draws_the_same_images(sets: list[tuple[Sample, Sample, np.ndarray]]) -> None:
    rng = np.random.default_rng(0)
    seen = scenes(rng, 60)
    again = sample_of(matched(seen, found_by(POOR, seen, rng)), AP, draws=100, pairs=20)
    np.testing.assert_array_equal(again.draws, sets[0][0].draws)


def test_too_few_images_have_no_interval(sets: list[tuple[Sample, Sample, np.ndarray]]) -> None:
    first = sets[0][0]
    assert np.isnan(intervals(first._replace(images=49)).low).all()
    rare = intervals(first._replace(support=np.array([60, 9])))
    assert np.isfinite(rare.low[0]) and np.isnan(rare.low[1])
    lost = first._replace(
        values=np.array([0.5, np.nan]), draws=np.full((2, 100), np.nan), halves=np.full((2, 4), np.nan)
    )
    assert np.isnan(intervals(lost).high).all()


def test_false_discoveries_are_few_as_benjamini_and_hochberg_order_them() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.002, np.nan, 0.9, 0.035])
    assert np.flatnonzero(false_discovery(p)).tolist() == [
        0,
        1,
        2,
        3,
        6,
    ]  # the largest below its share takes all before
    assert not false_discovery(np.array([0.04, 0.5])).any()
    assert not false_discovery(np.array([np.nan])).any()
