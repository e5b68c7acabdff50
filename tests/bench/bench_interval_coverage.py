"""How often intervals hold: `python tests/bench/bench_interval_coverage.py [--sets 300] [--images 150] [--draws 300]`.

Validation sets are simulated: scenes of four classes, some rare, images of different difficulty, and two detectors of
known quality on the same images. The truth is the AP of 60,000 images. Counted is how often the nominal 95 % interval
holds it: AP of all areas, thresholds and classes, and the paired difference of the two detectors; beside it percentiles
of draws, with repeats and without. Masks and keypoints are accumulated by the same code; their matching is compared
with pycocotools by tests. The seeds are not those that the constants were fitted to.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.statistics.accumulate import accumulate
from detection.statistics.bootstrap import Sample, Statistic, intervals, sample_of
from detection.statistics.matching import Matches
from tests.detection.statistics.of_scenes import CLASSES, Detector, found_by, matched, scenes

ALL = np.arange(CLASSES)
STATISTICS = {
    **{
        name: Statistic("precision", row, ALL)
        for row, name in enumerate(("AP", "small", "medium", "large", "50", "75"))
    },
    **{f"class {number}": Statistic("precision", 0, ALL[number : number + 1]) for number in range(CLASSES)},
}
FIRST, SECOND = Detector(), Detector(skill=1.2, noise=0.075)
LOW, HIGH = 0.93, 0.97  # goals
FRESH = 100_000  # first seed


def both(rng: np.random.Generator, images: int) -> list[Matches]:
    seen = scenes(rng, images)
    return [matched(seen, *found_by(detector, seen, rng)) for detector in (FIRST, SECOND)]


def truth() -> np.ndarray:
    """(2, N) of 60,000 images, in two halves."""
    halves = [both(np.random.default_rng(FRESH - 1 - number), 30_000) for number in range(2)]
    values = [[sample_of(one, STATISTICS, draws=1, pairs=1).values for one in matches] for matches in halves]
    return np.mean(values, 0)


def naive(sample: Sample, matches: Matches, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Percentiles (low, high) with repeats and without, of AP."""
    once = [np.bincount(rng.integers(0, sample.images, sample.images), minlength=sample.images) > 0 for _ in range(200)]
    dropped = accumulate(matches, np.stack(once, 1).astype(np.float32)).precision[0]
    return [
        (np.quantile(draws, 0.025), np.quantile(draws, 0.975)) for draws in (sample.draws[0], np.nanmean(dropped, 0))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--draws", type=int, default=300)
    options = parser.parse_args()
    true = truth()
    held, plain = np.zeros((3, len(STATISTICS))), np.zeros(2)
    for number in range(options.sets):
        rng = np.random.default_rng(FRESH + number)
        matches = both(rng, options.images)
        first, second = (sample_of(one, STATISTICS, draws=options.draws, seed=number) for one in matches)
        cases = ((first, true[0], False), (second, true[1], False), (second.minus(first), true[1] - true[0], True))
        for row, (sample, value, paired) in enumerate(cases):
            bounds = intervals(sample, paired=paired)
            held[row] += (bounds.low <= value) & (value <= bounds.high)
        plain += [low <= true[0, 0] <= high for low, high in naive(first, matches[0], rng)]
    share = held / options.sets
    print(f"{options.sets} sets of {options.images} images, {options.draws} draws: how often 95 % intervals hold")
    print("  " + " ".join(f"{name:>8}" for name in ("", *STATISTICS)))
    for name, row in zip(("first", "second", "their difference"), share.tolist(), strict=True):
        print(f"  {name:<17}" + " ".join(f"{value:8.3f}" for value in row))
    within = (share >= LOW) & (share <= HIGH)
    print(f"  mean {share.mean():.3f}; {within.sum()} of {within.size} between {LOW} and {HIGH}")
    kept, dropped = plain / options.sets
    print(f"  percentiles of AP of the first: with repeats {kept:.3f}, without {dropped:.3f}")


if __name__ == "__main__":
    main()
