"""The evaluators of several data sets, each with its own rules: metrics `NAME/box_ap`, the first set's first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from detection.eval.evaluators import Evaluator


class SeveralEvaluators:
    """
    Args:
        parts: {number of the data set, as in targets: (its name, its evaluator)}.
    """

    def __init__(self, parts: Mapping[int, tuple[str, Evaluator]]) -> None:
        self.parts = dict(parts)

    def of(self, number: int) -> Evaluator:
        """The evaluator of a data set."""
        return self.parts[number][1]

    @property
    def found(self) -> dict[int, Any]:
        """What each has found."""
        return {number: evaluator.found for number, (_, evaluator) in self.parts.items()}

    def take(self, found: Mapping[int, Any]) -> None:
        """Add what another process has found."""
        for number, own in found.items():
            self.of(number).take(own)

    def summary(self) -> dict[str, float]:
        """The metrics of every set, by its name."""
        return {
            f"{name}/{metric}": value
            for name, evaluator in self.parts.values()
            for metric, value in evaluator.summary().items()
        }


def evaluators(parts: Iterable[tuple[int, str, Evaluator]]) -> Evaluator | SeveralEvaluators:
    """The only one if it has no name, else all."""
    listed = list(parts)
    if len(listed) == 1 and not listed[0][1]:
        return listed[0][2]
    return SeveralEvaluators({number: (name, evaluator) for number, name, evaluator in listed})
