"""What a run looks at before its first step, and a dry run too: values that would train nothing, or not as they say.

--epochs 0, a folder or tag that cannot be written     refused
a warm-up that outlasts the run, batch norm of one     said, since the run is possible
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shared.errors import UsageError
from shared.feeding.feed import Feed
from shared.logs.trackers import check_installed
from shared.loop.schedule import lr_scale, total_steps, warmup_steps
from shared.recipes.recipe import RuntimeConfig, ScheduleConfig
from shared.runs.resume import find_run
from shared.weights.card import check_name


def check_plan(runtime: RuntimeConfig, schedule: ScheduleConfig, *names: str) -> None:
    """Check what is known without data and network.

    Args:
        names: the tag and the architecture of the export.

    Raises:
        UsageError: nothing would be trained, the export could not be written, or a package of --log-to is absent.
    """
    if schedule.epochs == 0:
        raise UsageError("--epochs is 0, so nothing would be trained; give 1 or more")
    for name in names:
        check_name(name)
    check_installed(runtime.log_to)
    for flag, folder in (("--output-dir", runtime.output_dir), ("--weights-dir", runtime.weights_dir)):
        check_writable(flag, folder)


def check_writable(flag: str, folder: Path) -> None:
    """Raise UsageError if a folder can be neither made nor written."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"{flag} {folder} cannot be written, since {there} is not a writable folder; give another {flag}"
        )


def planned_folder(runtime: RuntimeConfig, stem: str) -> Path:
    """The folder that the run would use; nothing is created.

    Raises:
        UsageError: the name is invalid, or its folder is taken.
    """
    if runtime.name is not None:
        check_name(runtime.name)
    found = find_run(runtime, stem)
    if found is not None:
        return found
    path, number = runtime.output_dir / (runtime.name or stem), 1
    if runtime.name is not None:
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"{path} already exists; give another --name, or --resume {path} to continue it")
        return path
    while path.exists():
        number += 1
        path = runtime.output_dir / f"{stem}-{number}"
    return path


def doubts(task: nn.Module, feed: Feed, schedule: ScheduleConfig) -> list[str]:
    """Sentences about a run that is possible and may not be meant."""
    found, every = [], feed.steps_per_epoch
    total, warmup = total_steps(every, schedule), warmup_steps(every, schedule)
    if 0 < total <= warmup:
        share = lr_scale(total - 1, every, schedule)
        found.append(
            f"the warm-up of {warmup} steps outlasts the run of {total}, so the learning rate ends at {share:.0%} of "
            f"--lr; shorten --warmup-epochs or --warmup-steps"
        )
    if feed.batch_size == 1 and learns_statistics(task):
        found.append("batch norm takes its statistics from a single image; give a larger --batch-size")
    return found


def learns_statistics(task: nn.Module) -> bool:
    """Whether a task in training mode has batch norm that takes its statistics from the batch."""
    norms = [layer for layer in task.modules() if isinstance(layer, _BatchNorm) and layer.training]
    return any(p.requires_grad for layer in norms for p in layer.parameters())


def describe_run(facts: dict[str, object]) -> list[str]:
    """The lines of a dry run about the values that were found: size, device, workers, folders, classes."""
    width = max(map(len, facts))
    return ["this run", *(f"  {name:<{width}}  {value}" for name, value in facts.items())]
