"""From the detections of all runs to verdicts: AP of each in draws of the same validation images.

results/NAME.json of each run -> AP (1 + D,): all images, then D draws -> differences by seed -> verdicts, worth
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from detection.ablation.cost import Cost, read_cost
from detection.ablation.plan import SCRATCH, Run, Study, runs
from detection.ablation.running import result_of, results_file
from detection.ablation.verdict import (
    Verdict,
    Worth,
    difference_of,
    sentence,
    verdicts,
    worth_of,
    worth_words,
)
from detection.ablation.why import Look, Why
from detection.eval.intervals import sample_of_kind
from detection.inference.trained import evaluated_results
from detection.recipe import DataConfig
from detection.statistics.bootstrap import LEAST_IMAGES, WIDER
from detection.statistics.errors import KINDS

AP = "box_ap"


class Measured(NamedTuple):
    """A run and what it found."""

    run: Run
    ap: np.ndarray  # (1 + D,)
    cost: Cost | None  # None where it was not recorded


class Comparison(NamedTuple):
    """An arm beside scratch, on one share of the labels."""

    arm: str
    fraction: float
    verdict: Verdict
    worth: Worth | None
    words: str
    worth_words: str


class Outcome(NamedTuple):
    measured: list[Measured]
    comparisons: list[Comparison]
    images: int
    factors: dict[str, float]
    why: Why


def outcome_of(study: Study, factors: dict[str, float], margin: float, draws: int) -> Outcome:
    """What all runs together say.

    Args:
        factors: of the learning rate, by arm.
        margin: AP below which a difference does not matter.
    """
    measured, images, look = [], 0, Look()
    for run in runs(study, factors):
        data = DataConfig(val_path=study.val[0], coco_val_json_path=study.val[1])
        evaluator: Any = evaluated_results(data, str(results_file(study, run)))
        sample = sample_of_kind(evaluator, "boxes", draws)
        place, images = sample.names.index(AP), sample.images
        ap = np.append(sample.values[place], sample.draws[place])
        measured.append(Measured(run, ap, read_cost(result_of(study, run).get("cost"))))
        if run.fraction == max(study.fractions):
            look.at(run, evaluator)
    return Outcome(measured, compared(study, measured, images, margin), images, factors, look.why())


def compared(study: Study, measured: list[Measured], images: int, margin: float) -> list[Comparison]:
    """Every arm beside scratch, on every share of the labels."""
    ap = {(one.run.arm, one.run.fraction, one.run.seed): one.ap for one in measured}
    pairs = [(arm, fraction) for fraction in sorted(study.fractions) for arm in study.arms if arm != SCRATCH]
    widened = float(np.sqrt(1 + WIDER / images))
    differences = []
    for arm, fraction in pairs:
        each = np.stack([ap[arm, fraction, seed] - ap[SCRATCH, fraction, seed] for seed in range(study.seeds)])
        differences.append(difference_of(each[:, 0].tolist(), each[:, 1:].mean(0), widened))
    means = {
        (arm, fraction): np.mean([ap[arm, fraction, seed] for seed in range(study.seeds)], 0)
        for arm in study.arms
        for fraction in study.fractions
    }
    scratch = {fraction: means[SCRATCH, fraction] for fraction in study.fractions}
    best = [max(float(means[arm, fraction][0]), float(scratch[fraction][0])) for arm, fraction in pairs]
    told = verdicts(differences, images, margin, best)
    found = []
    for (arm, fraction), verdict in zip(pairs, told, strict=True):
        worth = worth_of(fraction, means[arm, fraction], scratch) if verdict.kind == "helps" else None
        value = worth_words(arm, fraction, worth) if worth else ""
        found.append(Comparison(arm, fraction, verdict, worth, sentence(arm, fraction, verdict, images, margin), value))
    return found


def costs_of(outcome: Outcome, arm: str) -> list[Cost] | None:
    """What the runs of an arm cost; None if one did not record it."""
    costs = [one.cost for one in outcome.measured if one.run.arm == arm]
    known = [cost for cost in costs if cost is not None]
    return known if len(known) == len(costs) else None


def enough(images: int) -> bool:
    """Whether so many validation images allow intervals at all."""
    return images >= LEAST_IMAGES


def as_json(outcome: Outcome, before: Mapping[str, list[Cost] | None], longer: float | None) -> dict[str, Any]:
    """What `ablation.json` holds; null for a cost that was not recorded.

    Args:
        before: the cost of each arm's pretraining.
        longer: epochs of `scratch+`, as a multiple.
    """
    return {
        "images": outcome.images,
        "lr_factors": outcome.factors,
        "longer": longer,
        "pretraining": {arm: costs and [cost._asdict() for cost in costs] for arm, costs in before.items()},
        "errors": {
            arm: {
                kind: {"count": count, "cost": cost}
                for kind, count, cost in zip(KINDS, own.counts.tolist(), own.costs.tolist(), strict=True)
            }
            for arm, own in outcome.why.errors.items()
        },
        "comparisons": [
            {
                "arm": one.arm,
                "fraction": one.fraction,
                "verdict": one.verdict.kind,
                "sentence": one.words,
                "difference": one.verdict.difference.mean,
                "interval": [one.verdict.difference.low, one.verdict.difference.high],
                "p": one.verdict.difference.p,
                "p_signs": one.verdict.difference.signs,
                "ahead_in_draws": one.verdict.difference.share,
                "by_seed": one.verdict.difference.seeds.tolist(),
                "more_seeds": one.verdict.more_seeds,
                "more_images": one.verdict.more_images,
                "worth": one.worth_words,
            }
            for one in outcome.comparisons
        ],
        "runs": [
            {
                "name": one.run.name,
                "arm": one.run.arm,
                "seed": one.run.seed,
                "fraction": one.run.fraction,
                "lr_factor": one.run.factor,
                AP: float(one.ap[0]),
                "cost": one.cost and one.cost._asdict(),
            }
            for one in outcome.measured
        ],
    }
