"""What a step saw when its loss broke, kept in the run's folder so that it can be looked at and run again.

kept = torch.load("runs/NAME/replay-step-12.pt", weights_only=True)
kept["batches"], kept["losses"], kept["task"]        what it saw, what came of it, the weights it had
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shared import dist
from shared.task import Task


def keep_replay(folder: Path, step: int, losses: dict[str, float], task: Task, batches: list[Any]) -> Path | None:
    """Write what this process's micro batches of a step were; None when the disk refuses.

    Args:
        step: optimizer steps taken before; where losses are only looked at now and then, it broke at or before it.
    """
    suffix = f"-rank-{dist.rank()}" if dist.world() > 1 else ""
    path = folder / f"replay-step-{step}{suffix}.pt"
    try:
        torch.save({"step": step, "losses": losses, "batches": batches, "task": task.state_dict()}, path)
    except OSError:
        path.unlink(missing_ok=True)
        return None
    return path


def samples_of(task: Task, batches: list[Any], most: int = 16) -> str:
    """' of images 3, 14', or nothing when the task gives its samples no names."""
    names = [name for batch in batches for name in task.names(batch)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" of images {', '.join(names[:most])}{more}" if names else ""
