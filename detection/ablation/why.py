"""Where arms differ, with the most labels: kinds of errors of each, and the photographs on which they differ most.

evaluator of each run -> kinds of errors, means over the seeds
                      -> objects found and false detections, means over the seeds -> arm beside scratch
                         -> the photographs that differ most, drawn by the runs of the first seed
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detection.ablation.plan import SCRATCH, Run
from detection.comparing.differences import Found, best_score, changes, errors_of_boxes, found_from
from detection.comparing.pictures import Picture, pictures
from detection.eval.coco import CocoEvaluator
from detection.eval.lvis import LvisEvaluator

SHOWN = 12  # photographs of each arm


class Errors(NamedTuple):
    """Kinds of errors of an arm, in the order of KINDS: counts and costs in AP at IoU 0.5, means over the seeds."""

    counts: np.ndarray
    costs: np.ndarray


class Why(NamedTuple):
    """errors: by arm; empty by LVIS's rules, where not every object is annotated. pictures: by arm, scratch left."""

    errors: dict[str, Errors]
    pictures: dict[str, list[Picture]]


class Look:
    """Takes one run after the other; holds the evaluators of the first seed alone."""

    def __init__(self) -> None:
        self.errors: dict[str, list[Errors]] = {}
        self.found: dict[str, list[Found]] = {}
        self.first: dict[str, tuple[CocoEvaluator, float]] = {}

    def at(self, run: Run, evaluator: CocoEvaluator) -> None:
        """Look at a run."""
        matches = evaluator.matches("boxes")
        score = best_score(matches)
        self.found.setdefault(run.arm, []).append(found_from(matches, score))
        if not isinstance(evaluator, LvisEvaluator):
            of_run = errors_of_boxes(evaluator, matches)
            self.errors.setdefault(run.arm, []).append(Errors(of_run.counts, of_run.costs))
        if run.seed == 0:
            self.first[run.arm] = evaluator, score

    def why(self) -> Why:
        """What was seen."""
        errors = {
            arm: Errors(*(np.mean(part, 0) for part in zip(*own, strict=True))) for arm, own in self.errors.items()
        }
        return Why(errors, {arm: self.beside_scratch(arm) for arm in self.found if arm != SCRATCH})

    def beside_scratch(self, arm: str) -> list[Picture]:
        a, b = (Found(*(np.mean(part, 0) for part in zip(*self.found[name], strict=True))) for name in (SCRATCH, arm))
        (one, of_one), (other, of_other) = self.first[SCRATCH], self.first[arm]
        changed = changes(one, one.matches("boxes").objects.images, a, b)[:SHOWN]
        return pictures((one, other), (of_one, of_other), changed, (SCRATCH, arm))[0]
