"""Steps of a training on a copy of its task, to see what they take; nothing of the training is changed by them.

    task --copied--> Trainer.advance, as often as one likes    weights, moments, average, batch norm, random states of
                     then all of it is dropped                 the process: bit for bit as they were before

The steps are those of the loop, with precision, clipping, optimizer and average.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shared.devices import dist
from shared.devices.memory import release
from shared.loop.recompute import recompute_blocks
from shared.loop.task import Task
from shared.loop.trainer import Trainer


@dataclass(frozen=True)
class Step:
    """A step of made batches, in place of a feed.

    batch_size: images of a forward pass.
    micro_batches: forward passes of a step.
    """

    batch_size: int
    micro_batches: int
    steps_per_epoch: float = 1.0
    whole_epochs: bool = False

    @property
    def step_size(self) -> int:
        return self.batch_size * self.micro_batches


@contextmanager
def on_trial(task: Task, feed: Any, recipe: Any, device: torch.device, *, apart: bool) -> Iterator[Trainer]:
    """A trainer of a copy of the task, which takes steps by `advance` and keeps nothing.

    Args:
        feed: of the run, or a `Step`.
        recipe: with the sections that the loop reads.
        apart: this process alone, without the others and without compiling, so that it may fail alone.
    """
    runtime = replace(recipe.runtime, resume=None, keep_states=0)
    optim = recipe.optim
    if apart:
        runtime, optim = replace(runtime, compile=False, compile_backbone=False), replace(optim, compile_opt=False)
    with random_states_kept(device), dist.apart() if apart else nullcontext():
        copy = deepcopy(task)
        if runtime.grad_checkpointing:
            recompute_blocks(copy)
        sections = {"optim": optim, "schedule": recipe.schedule, "runtime": runtime}
        trainer = Trainer(copy, feed, None, **sections, run_dir=Path(os.devnull), device=device)
        trainer.insist_on_finite_losses = lambda: None  # made images may have any loss
        # at the usual scale the first gradients of float16 overflow, and the optimizer would not step
        trainer.scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=trainer.scaler.is_enabled())
        del copy
        try:
            yield trainer
        finally:
            del trainer
    release(device)


@contextmanager
def random_states_kept(device: torch.device) -> Iterator[None]:
    """Random states of Python, NumPy and torch are at the end what they were."""
    drawn, drawn_by_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(drawn)
        np.random.set_state(drawn_by_numpy)
