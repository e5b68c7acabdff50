"""The learning rate as a function of time.

A schedule holds no state: `lr_scale` answers for any moment, so resuming a run needs nothing from it, plotting it is
one list comprehension, and testing it needs no optimizer. A person types epochs; the loop counts optimizer steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from shared.recipes.recipe import OptimConfig, ScheduleConfig

ROUNDING = 1e-9  # 985 steps at 197 / 24 an epoch are 120 epochs, and floats say a little less


def lr_scale(step: int, steps_per_epoch: float, config: ScheduleConfig, lr: float = 1.0) -> float:
    """Multiplier of every learning rate for one optimizer step.

    Args:
        step: optimizer steps taken before this one.
        steps_per_epoch: optimizer steps in one pass over the data; need not be whole.
        config: the shape.
        lr: base learning rate, which turns the absolute `lr_cosine_min` into a multiplier.
    """
    total = total_steps(steps_per_epoch, config)
    warmup = warmup_steps(steps_per_epoch, config)
    if step < warmup:
        return config.warmup_start + (1 - config.warmup_start) * step / warmup
    epoch = step / steps_per_epoch + ROUNDING
    if config.lr_scheduler == "step":
        return config.lr_step_gamma ** int((step - warmup) / steps_per_epoch / config.lr_step_size + ROUNDING)
    if config.lr_scheduler == "multistep":
        return config.lr_step_gamma ** bisect_right(sorted(config.lr_steps), epoch)
    if config.lr_scheduler == "cosine":
        done = (step - warmup) / max(total - warmup, 1)
        floor = min(config.lr_cosine_min / lr, 1.0) if lr else 0.0
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return 1.0


def wd_at(progress: float, wd: float, config: OptimConfig) -> float:
    """Weight decay of a group at a moment of the run (0 to 1): constant, or on a half cosine from --wd to --wd-end.

    Groups that do not decay stay so.
    """
    if config.wd_end is None or wd == 0:
        return wd
    return config.wd_end + (wd - config.wd_end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def total_steps(steps_per_epoch: float, config: ScheduleConfig) -> int:
    """Optimizer steps of the whole run; the last may reach beyond the last epoch."""
    return math.ceil(config.epochs * steps_per_epoch - ROUNDING)


def warmup_steps(steps_per_epoch: float, config: ScheduleConfig) -> int:
    """Optimizer steps of the warm-up; where steps and epochs are both told, the shorter of them."""
    steps = round(config.warmup_epochs * steps_per_epoch)
    if config.warmup_steps is None:
        return steps
    return min(config.warmup_steps, steps) if config.warmup_epochs else config.warmup_steps
