"""Bounds of the metrics of an evaluator, as `detect eval` prints them and cards hold them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from detection.eval.coco import CocoEvaluator
from detection.eval.evaluators import Evaluator
from detection.eval.several import SeveralEvaluators
from detection.statistics.bootstrap import DRAWS, LEAST_IMAGES, LEVEL, Sample, intervals, sample_of
from shared.errors import plural


class Bounds(NamedTuple):
    """of: (low, high) by metric, for those that have bounds. note: why there are none, or none for some; else empty."""

    of: dict[str, tuple[float, float]]
    draws: int
    images: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; empty without bounds."""
        if not self.of:
            return {}
        bounds = {name: [*pair] for name, pair in self.of.items()}
        return {"level": LEVEL, "draws": self.draws, "images": self.images, "bounds": bounds}


def bounds_of(evaluator: Evaluator | SeveralEvaluators, draws: int = DRAWS) -> Bounds:
    """The bounds of every metric that has them: AP of all kinds, areas and classes, and AR at most detections.

    Args:
        draws: of the bootstrap; 0 for no bounds.
    """
    if isinstance(evaluator, SeveralEvaluators):
        parts = {name: bounds_of(own, draws) for name, own in evaluator.parts.values()}
        of = {f"{name}/{metric}": pair for name, part in parts.items() for metric, pair in part.of.items()}
        notes = [f"{name}: {part.note}" for name, part in parts.items() if part.note]
        return Bounds(of, draws, sum(part.images for part in parts.values()), "; ".join(notes))
    images = len(evaluator.dataset)
    if not draws:
        return Bounds({}, 0, images)
    kinds = evaluator.kinds if isinstance(evaluator, CocoEvaluator) else ()
    statistics = {kind: evaluator.statistics(kind) for kind in kinds} if isinstance(evaluator, CocoEvaluator) else {}
    if not any(statistics.values()):
        return Bounds({}, draws, images, "panoptic quality and class-agnostic recall have no intervals")
    if images < LEAST_IMAGES:
        return Bounds({}, draws, images, too_few(images))
    of: dict[str, tuple[float, float]] = {}
    for kind in kinds:
        found = intervals(sample_of_kind(evaluator, kind, draws))
        pairs = zip(found.names, found.low.tolist(), found.high.tolist(), strict=True)
        of |= {name: (low, high) for name, low, high in pairs if np.isfinite(low)}
    return Bounds(of, draws, images)


def too_few(images: int) -> str:
    return (
        f"no intervals: {plural(images, 'validation image')} cannot tell how far the numbers would move with others; "
        f"evaluate on at least {LEAST_IMAGES}"
    )


def sample_of_kind(evaluator: Any, kind: str, draws: int) -> Sample:
    """The metrics of a kind, of the validation set and of draws from it."""
    return sample_of(evaluator.matches(kind), evaluator.statistics(kind), draws=draws)
