"""The interface between the training loop and the model it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn


class Task(nn.Module):
    """A model with its losses and metrics.

    The loop owns time: steps, precision, accumulation, clipping, EMA, checkpoints, logs.
    A task owns meaning: the losses of a batch, which module is the backbone, the metrics.
    Pretraining methods and detectors are tasks. Only `forward` is required.
    """

    facts: dict[str, Any] = {}  # plain values from which the task can be rebuilt, saved for `replay`
    backbone: Any  # the module of --backbone-lr and --layer-decay, if there is one; has `blocks()`

    backbone_calls: tuple[str, ...] = ("forward",)  # what `forward` calls of it, for --compile-backbone
    compares_images: bool = False  # the loss compares the images of a micro batch: one that is split is another loss
    graphs: Sequence[str] = ("forward",)  # paths of calls of the task and below it, a graph each for --compile

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Named, already weighted losses of a batch, scalars; the loop minimizes their sum."""
        raise NotImplementedError

    def beside(self) -> Callable[[int, int], Any] | None:
        """What a step needs besides samples and is drawn by chance, made by the loading workers: (number of the step,
        samples of the micro batch) -> a nest without named tuples, which becomes the last item of the batch.

        Torch's random numbers are seeded as at the start of `forward`. None for nothing; streams never bring it.
        """
        return None

    def check_batch(self, images: int) -> None:
        """Raise UsageError if a micro batch of so many images per process is too small to learn from."""

    def names(self, batch: Any) -> list[str]:
        """Names of the samples of a batch, for error messages; empty if they have none."""
        return []

    def alone(self, batch: Any, i: int) -> Any:
        """A batch of only sample `i`."""
        raise NotImplementedError

    def before_step(self, step: int) -> None:
        """Called with the number of the next step; values shared by all processes are derived from it."""

    def after_step(self, progress: float) -> None:
        """Update what follows the weights, such as an EMA teacher. `progress` is from 0 to 1."""

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Named metrics on a validation loader, the headline first. Each process gets its share of the batches."""
        return {}

    def detail(self, metric: str) -> bool:
        """True for metrics that are written to files and reports but not to the console."""
        return False

    def exports(self) -> dict[str, nn.Module]:
        """Modules to export, by name; pretraining exports its backbone."""
        return {}
