"""A run that goes on from its saved state: what must be as it was, and the weights put back.

saved state -> check_same_run -> restore: weights, moments, average, scaler
               or UsageError: the flag that was different, and its value of then
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.devices.sharding import fill
from shared.errors import UsageError, plural
from shared.feeding.feed import Feed
from shared.recipes.recipe import RuntimeConfig


def check_same_run(
    state: dict[str, Any], run_dir: Path, feed: Feed, runtime: RuntimeConfig, *, averaged: bool, total: int
) -> None:
    """Raise UsageError if a saved state does not belong to a run with these settings, or is beyond its end.

    Args:
        averaged: whether the run keeps an average of the weights.
        total: optimizer steps of the whole run.
    """
    ours = {"batch_size": feed.batch_size, "micro_batches": feed.micro_batches, "seed": runtime.seed}
    for name, value in ours.items():
        if state[name] != value:
            raise UsageError(f"{run_dir} was run with {name} {state[name]}, not {value}; give that to --resume it")
    if state["data"] != feed.samples.fingerprint:
        raise UsageError(f"the training data differs from that of {run_dir}; start a new run for new data")
    if (state["average"] is not None) != averaged:
        raise UsageError(f"{run_dir} was run {'without' if averaged else 'with'} --model-ema; resume it the same way")
    if state.get("fsdp", False) != runtime.fsdp:
        raise UsageError(f"{run_dir} was run {'without' if runtime.fsdp else 'with'} --fsdp; resume it the same way")
    step, every = state["step"], feed.steps_per_epoch
    if step > total:
        raise UsageError(
            f"{run_dir} has already been trained for {plural(step, 'step')}, which is {step / every:.4g} epochs of "
            f"{every:.4g} steps, so it cannot end at step {total}; give --epochs {-int(-step / every // 1)} or more"
        )


def restore(
    state: dict[str, Any], run_dir: Path, task: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> None:
    """Put the weights, the optimizer's moments and the average of a saved state back.

    Learning rates and weight decay stay those of the current flags.

    Raises:
        UsageError: they are of another network, other frozen parameters or another optimizer.
    """
    fresh = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        if state.get("fsdp", False):
            fill(task, optimizer, state["task"], state["optimizer"])
        else:
            task.load_state_dict(state["task"])
            optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
    except (RuntimeError, ValueError, KeyError):
        raise UsageError(
            f"{run_dir} was run with another network, other frozen parameters or other groups of parameters "
            f"(--backbone-lr, --layer-decay, --norm-wd, --bias-wd); resume it with its own flags"
        ) from None
    for group, options in zip(optimizer.param_groups, fresh, strict=True):
        group.update(options)
