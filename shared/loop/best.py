"""The best epoch so far, by the main metric: what --keep-best exports beside the last, and --patience waits for.

    metrics of an epoch -> the first of them, the task's main one -> better: its weights are kept in the run's folder
                                                                  -> not: one more evaluation has been waited for
    last epoch          -> the kept weights are exported under their own digest, then the last ones

The count is part of the training state, so a run that was killed waits for, and ends with, the same epoch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from shared.devices import dist
from shared.errors import UsageError
from shared.logs.metrics import or_none, show_metric
from shared.loop.state import read_state, save_state, states
from shared.loop.task import Task
from shared.recipes.recipe import RuntimeConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Best:
    """The best evaluation so far.

    value: of the main metric; -inf before the first. name: of that metric. step, epoch: when.
    waited: evaluations since. metrics: all of that epoch.
    """

    value: float = -math.inf
    name: str = ""
    step: int = 0
    epoch: int = 0
    waited: int = 0
    metrics: Mapping[str, float | None] | None = None

    def after(self, metrics: Mapping[str, float], step: int, epoch: int) -> Best:
        """The best, once these have been measured as well; the first of equal ones stays, and NaN is never better."""
        name, value = next(iter(metrics.items()))
        if value > self.value:
            plain = {name: or_none(value) for name, value in metrics.items()}
            return Best(value, name, step, epoch, 0, plain)
        return Best(**{**asdict(self), "name": self.name or name, "waited": self.waited + 1})

    def stale(self, patience: int | None) -> bool:
        """Whether so many evaluations were no better, which ends the run."""
        return patience is not None and self.waited >= patience

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {**asdict(self), "value": or_none(self.value)}


def read_best(saved: Any) -> Best:
    """The reverse of `plain`; a state of an earlier version has the value alone. Raises TypeError."""
    if not isinstance(saved, dict):
        return Best() if saved is None else Best(float(saved))
    return Best(**{**saved, "value": -math.inf if saved["value"] is None else saved["value"]})


def check_measured(task: Task, runtime: RuntimeConfig, *, validated: bool, probed: bool) -> None:
    """Raise UsageError if --keep-best or --patience is set and nothing is measured during training."""
    measured = probed or (validated and type(task).evaluate is not Task.evaluate)
    for flag, wanted in (("--keep-best", runtime.keep_best), ("--patience", runtime.patience is not None)):
        if wanted and not measured:
            raise UsageError(
                f"{flag} compares epochs by a metric, and nothing is measured during this training; give validation "
                f"data, or --probe for pretraining without labels"
            )


def keep_weights(run_dir: Path, best: Best, trained: nn.Module) -> None:
    """Keep the weights of the best epoch in the run's folder, and those before it until it has been noted."""
    if dist.is_main():
        save_state(run_dir / "best", best.step, {"step": best.step, "task": trained.state_dict()})


@contextmanager
def of_state(kept: Path, trained: nn.Module) -> Iterator[None]:
    """A task with the weights of a file, and afterwards with its own again. Raises WeightsError if it is damaged."""
    own = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    trained.load_state_dict(read_state(kept)["task"])
    try:
        yield
    finally:
        trained.load_state_dict(own)


def publish_both(
    publish: Callable[..., None],
    trained: Task,
    best: Best,
    run_dir: Path,
    step: int,
    epoch: int,
    metrics: Mapping[str, float],
) -> None:
    """Export the best epoch, then the last, which stays the newest of its tag; once if they are the same."""
    ended = show_metric(metrics.get(best.name, math.nan))
    note = f"the best of {epoch} epochs by {best.name}: {show_metric(best.value)}; the last has {ended}"
    kept = next((path for kept, path in states(run_dir / "best") if kept == best.step), None)
    if kept is None:
        log.warning("epoch %d was the best, and its weights were not kept: only the last are exported", best.epoch)
    elif best.step < step:
        with of_state(kept, trained):
            publish(trained, best.epoch, dict(best.metrics or {}), False, note)
    publish(trained, epoch, metrics, True, None if best.step < step else note)
