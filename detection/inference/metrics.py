"""What `detect eval` prints and writes: metrics, by class too, with the bounds between which they lie."""

from __future__ import annotations

import logging
from pathlib import Path

from detection.eval.coco import of_kind
from detection.eval.evaluators import Evaluator
from detection.eval.intervals import Bounds, bounds_of
from detection.eval.official import undefined_as_nan
from detection.eval.panoptic import PanopticEvaluator
from detection.eval.recall import RecallEvaluator
from detection.statistics.bootstrap import DRAWS, LEVEL
from shared.files import write_json
from shared.logs.metrics import or_none, show_metric
from shared.text import say

log = logging.getLogger(__name__)


def with_classes(evaluator: Evaluator) -> dict[str, float]:
    """The summary, and AP of each kind or panoptic quality by class."""
    metrics = evaluator.summary()
    if isinstance(evaluator, PanopticEvaluator):
        return metrics | {f"pq of {name}": value for name, value in evaluator.per_class().items()}
    if isinstance(evaluator, RecallEvaluator):
        return metrics | {f"ar100 of {name}": value for name, value in evaluator.per_class().items()}
    for kind in evaluator.kinds:
        metrics |= {f"{of_kind(kind)} of {name}": value for name, value in evaluator.per_class(kind).items()}
    return metrics


def show_evaluator(evaluator: Evaluator, out: Path | None = None, *, draws: int = DRAWS, by_class: bool = True) -> None:
    """Print and write the metrics of an evaluator with their bounds."""
    metrics = with_classes(evaluator) if by_class else evaluator.summary()
    show(metrics, out, bounds_of(evaluator, draws))


def show(metrics: dict[str, float], out: Path | None, bounds: Bounds | None = None) -> None:
    """Print metrics with their bounds, one per line, and write them as JSON to `out`: n/a and null where one is not
    defined."""
    metrics, width = undefined_as_nan(metrics), max(map(len, metrics))
    between = {} if bounds is None else {name: pair for name, pair in bounds.of.items() if name in metrics}
    for name, value in metrics.items():
        low, high = between.get(name, (None, None))
        told = "" if low is None else f"  {show_metric(low)} to {show_metric(high)}"
        say(f"{name:<{width}}  {show_metric(value)}{told}")
    if bounds is not None and bounds.note:
        log.info("%s", bounds.note)
    if between and bounds is not None:
        log.info(
            "the bounds are %.0f %% intervals of what very many images like these %d would give, from %d draws of them",
            *(100 * LEVEL, bounds.images, bounds.draws),
        )
    if out is not None:
        held = {} if bounds is None else bounds._replace(of=between).to_dict()
        told_all = {name: or_none(value) for name, value in metrics.items()}
        write_json(out, told_all | ({"intervals": held} if held else {}))
