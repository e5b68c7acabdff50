"""How often intervals hold: `python tests/bench/bench_interval_coverage.py [--kinds boxes masks keypoints]`.

Validation sets are simulated: scenes of four classes, some rare, images of different difficulty, and two detectors of
known quality on the same images. The truth is the AP of 60,000 images. Counted is how often the nominal 95 % interval
holds it: AP of all areas, thresholds and classes, of boxes, masks and keypoints, and the paired difference of the two
detectors; beside it percentiles of draws, with repeats and without. The seeds are not those that the constants were
fitted to.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.statistics.accumulate import accumulate
from detection.statistics.bootstrap import Sample, Statistic, intervals, sample_of
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

ALL = np.arange(CLASSES)
OF_OBJECTS = {
    **{
        name: Statistic("precision", row, ALL)
        for row, name in enumerate(("AP", "small", "medium", "large", "50", "75"))
    },
    **{f"class {number}": Statistic("precision", 0, ALL[number : number + 1]) for number in range(CLASSES)},
}
OF_POINTS = {
    name: Statistic("precision", row, ALL[:1]) for row, name in enumerate(("AP", "medium", "large", "50", "75"))
}
STATISTICS: Mapping[str, Mapping[str, Statistic]] = {"boxes": OF_OBJECTS, "masks": OF_OBJECTS, "keypoints": OF_POINTS}
FIRST, SECOND = Detector(), Detector(skill=1.2, noise=0.075)
LOW, HIGH = 0.93, 0.97  # goals
FRESH = 100_000  # first seed


def both(kind: str, seed: int, images: int) -> list[Matches]:
    """Matches of both detectors on the same images, which have the same masks or keypoints for both."""
    rng = np.random.default_rng(seed)
    seen = scenes(rng, images)
    found = [found_by(detector, seen, rng) for detector in (FIRST, SECOND)]
    if kind == "boxes":
        return [matched(seen, own) for own in found]
    of_kind = matched_masks if kind == "masks" else matched_keypoints
    return [of_kind(seen, own, np.random.default_rng((seed, 1))) for own in found]


def truth(kind: str) -> np.ndarray:
    """(2, N) of 60,000 images, in parts of 10,000."""
    parts = [both(kind, FRESH - 1 - number, 10_000) for number in range(6)]
    values = [[sample_of(one, STATISTICS[kind], draws=1, pairs=1).values for one in matches] for matches in parts]
    return np.mean(values, 0)


def naive(sample: Sample, matches: Matches, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Percentiles (low, high) with repeats and without, of AP."""
    once = [np.bincount(rng.integers(0, sample.images, sample.images), minlength=sample.images) > 0 for _ in range(200)]
    dropped = accumulate(matches, np.stack(once, 1).astype(np.float32)).precision[0]
    return [
        (np.quantile(draws, 0.025), np.quantile(draws, 0.975)) for draws in (sample.draws[0], np.nanmean(dropped, 0))
    ]


def coverage(kind: str, sets: int, images: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """(3, N) and (2,): shares of sets whose interval holds the truth, and whose percentiles do."""
    true, statistics = truth(kind), STATISTICS[kind]
    held, plain = np.zeros((3, len(statistics))), np.zeros(2)
    for number in range(sets):
        matches = both(kind, FRESH + number, images)
        first, second = (sample_of(one, statistics, draws=draws, seed=number) for one in matches)
        cases = ((first, true[0], False), (second, true[1], False), (second.minus(first), true[1] - true[0], True))
        for row, (sample, value, paired) in enumerate(cases):
            bounds = intervals(sample, paired=paired)
            held[row] += (bounds.low <= value) & (value <= bounds.high)
        percentiles = naive(first, matches[0], np.random.default_rng((FRESH + number, 2)))
        plain += [low <= true[0, 0] <= high for low, high in percentiles]
    return held / sets, plain / sets


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=STATISTICS, default=list(STATISTICS))
    parser.add_argument("--sets", type=int, default=300)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--draws", type=int, default=300)
    options = parser.parse_args()
    print(f"{options.sets} sets of {options.images} images, {options.draws} draws: how often 95 % intervals hold")
    for kind in options.kinds:
        share, (kept, dropped) = coverage(kind, options.sets, options.images, options.draws)
        print(f"  {kind:<17}" + " ".join(f"{name:>8}" for name in STATISTICS[kind]))
        for name, row in zip(("first", "second", "their difference"), share.tolist(), strict=True):
            print(f"  {name:<17}" + " ".join(f"{value:8.3f}" for value in row))
        within = (share >= LOW) & (share <= HIGH)
        print(f"  mean {share.mean():.3f}; {within.sum()} of {within.size} between {LOW} and {HIGH}")
        print(f"  percentiles of AP of the first: with repeats {kept:.3f}, without {dropped:.3f}", flush=True)


if __name__ == "__main__":
    main()
