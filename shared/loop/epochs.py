"""Ends of epochs: after which steps they fall, what is due then, and what was already done when a run was killed.

    step 7 of 3.5 an epoch -> ends(7), number(7) == 2
    last/epoch-end.json       {"step", "metrics", "best", "exported"}, written after the evaluation and after the export

The state is saved before both, so a run that is killed during an evaluation repeats the evaluation, not the epoch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.files import write_json
from shared.logs.metrics import or_none
from shared.loop.best import Best, read_best

ROUNDING = 1e-9  # 985 steps at 197 / 24 per epoch are 120 epochs, minus a rounding error


@dataclass(frozen=True)
class Epochs:
    """The epochs of a run.

    per_epoch: optimizer steps per epoch; may be fractional, and less than 1.
    total: optimizer steps of the run.
    count: epochs of the run.
    """

    per_epoch: float
    total: int
    count: int

    def number(self, step: int) -> int:
        """Epochs that have ended after this many steps; the last step ends the last epoch."""
        return self.count if step >= self.total else int(step / self.per_epoch + ROUNDING)

    def ends(self, step: int) -> bool:
        """True if an epoch ends with this step."""
        return step > 0 and (step >= self.total or self.number(step) > self.number(step - 1))

    def due(self, step: int, every: int) -> bool:
        """True if this step is the last one, or the first after a multiple of `every` epochs.

        A step may span several epochs, of which the multiple need not be the last.
        """
        return step >= self.total or (step > 0 and self.number(step) // every > self.number(step - 1) // every)


@dataclass(frozen=True)
class EpochEnd:
    """What was done after the epoch that ended with `step`."""

    step: int
    metrics: dict[str, float]
    best: Best
    exported: bool = False

    def write(self, folder: Path) -> None:
        values = {"step": self.step, "metrics": plain_metrics(self.metrics), "best": self.best.plain()}
        write_json(folder / "epoch-end.json", {**values, "exported": self.exported})


def read_epoch_end(folder: Path, step: int) -> EpochEnd | None:
    """What was done after this step; None if nothing was, or the file is damaged."""
    try:
        content = json.loads((folder / "epoch-end.json").read_text(encoding="utf-8"))
        if content["step"] != step:
            return None
        best = read_best(content["best"])
        return EpochEnd(step, nan_for_none(content["metrics"]), best, content["exported"] is True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def plain_metrics(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics as JSON can hold them: None for those that are not defined."""
    return {name: or_none(value) for name, value in metrics.items()}


def nan_for_none(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """The reverse of `plain_metrics`."""
    return {name: math.nan if value is None else float(value) for name, value in metrics.items()}


def is_finished(run_dir: Path, step: int) -> bool:
    """True if the run's result.json is that of this step."""
    try:
        result: Any = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
        return bool(result["finished"]) and result.get("step", step) == step
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
