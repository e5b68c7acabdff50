"""Learning rate and weight decay as pure functions of the step.

A schedule has no state: `lr_scale` gives the value at any step, so resuming needs no scheduler state and tests need no
optimizer. Users give epochs; the loop counts optimizer steps.
"""

from __future__ import annotations

import math
from bisect import bisect_right

from shared.loop.epochs import ROUNDING
from shared.recipes.recipe import OptimConfig, ScheduleConfig


def lr_scale(step: int, steps_per_epoch: float, config: ScheduleConfig, lr: float = 1.0) -> float:
    """Multiplier of all learning rates at one optimizer step.

    Args:
        step: optimizer steps taken before this one.
        steps_per_epoch: optimizer steps per epoch; may be fractional.
        config: schedule, warm-up and decay.
        lr: base learning rate; the absolute `lr_cosine_min` is divided by it.
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
    """Weight decay at a progress from 0 to 1: constant, or a half cosine from --wd to --wd-end.

    Groups with weight decay 0 keep it.
    """
    if config.wd_end is None or wd == 0:
        return wd
    return config.wd_end + (wd - config.wd_end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def total_steps(steps_per_epoch: float, config: ScheduleConfig) -> int:
    """Optimizer steps of the whole run; the last one may cross the end of the last epoch."""
    return math.ceil(config.epochs * steps_per_epoch - ROUNDING)


def warmup_steps(steps_per_epoch: float, config: ScheduleConfig) -> int:
    """Optimizer steps of the warm-up; if given in both steps and epochs, the shorter one."""
    steps = round(config.warmup_epochs * steps_per_epoch)
    if config.warmup_steps is None:
        return steps
    return min(config.warmup_steps, steps) if config.warmup_epochs else config.warmup_steps
