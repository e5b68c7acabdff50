"""What the training loop knows about the thing it trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


class Task(nn.Module):
    """A model together with what a batch means to it.

    The loop owns time: steps, precision, accumulation, clipping, averaging, checkpoints, logs.
    A task owns meaning: which losses a batch yields, which part is the backbone, what is good.
    A pretraining method is a task; a detector on a dataset is a task. Only `forward` is required.
    """

    facts: dict[str, Any] = {}  # plain values that it can be built from again, kept with a step that broke
    backbone: Any  # the part that --backbone-lr and --layer-decay speak of, if there is one; has `blocks()`

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Named losses of a batch, each already weighted; the loop minimises their sum."""
        raise NotImplementedError

    def names(self, batch: Any) -> list[str]:
        """What the samples of a batch are called, so that a person can find one that broke a loss."""
        return []

    def alone(self, batch: Any, i: int) -> Any:
        """The batch that one named sample makes on its own."""
        raise NotImplementedError

    def before_step(self, step: int) -> None:
        """Hear the number of the step that comes: what all processes share in a step is a function of it."""

    def after_step(self, progress: float) -> None:
        """Move what follows the weights, such as an EMA teacher. `progress` runs from 0 to 1."""

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Named metrics on a validation loader, the headline first. Each process sees its share of the batches."""
        return {}

    def detail(self, metric: str) -> bool:
        """Is this metric for files and reports, and too much for a line on a screen?"""
        return False

    def exports(self) -> dict[str, nn.Module]:
        """Modules worth keeping on their own, by name; pretraining exports its backbone."""
        return {}
