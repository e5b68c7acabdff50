"""Losses of twenty training steps of each task, compared with recorded ones, to detect accidental changes.

The recordings are the files `trace_*.json` in this folder. They were made on a CPU; other builds of torch round
differently, hence the tolerance, which any change in behavior exceeds within a few steps. After an intended change:

    CHORDATE_WRITE_GOLDEN=1 python -m pytest tests/golden
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import backbone
from detection.nets import detector
from detection.training.task import DetectTask
from detection.types import Target
from pretrain.methods import Facts, method
from shared.feeding.pixels import pixel_stats
from shared.loop.optim import build_optimizer
from shared.loop.schedule import lr_scale
from shared.loop.task import Task
from shared.recipes.recipe import OptimConfig, ScheduleConfig

STEPS = 20
TOLERANCE = 2e-3
SCHEDULE = ScheduleConfig(epochs=4, warmup_epochs=1, lr_scheduler="cosine")


def pictures(rng: torch.Generator, count: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images of a bright square on gray noise: (B, 3, S, S) uint8, boxes (B, 4), channel of the square (B,)."""
    pixels = torch.randint(90, 120, (count, 3, side, side), generator=rng, dtype=torch.uint8)
    colors = torch.randint(3, (count,), generator=rng)
    corners = torch.randint(0, side // 2, (count, 2), generator=rng)
    sides = torch.randint(side // 4, side // 2, (count, 1), generator=rng)
    boxes = torch.cat((corners, corners + sides), 1)
    for canvas, color, (x0, y0, x1, y1) in zip(pixels, colors.tolist(), boxes.tolist(), strict=True):
        canvas[color, y0:y1, x0:x1] = 240
    return pixels, boxes.float(), colors


def labeled(rng: torch.Generator) -> Any:
    pixels, _, colors = pictures(rng, 8, 32)
    return pixels, colors


def annotated(rng: torch.Generator) -> Any:
    pixels, boxes, colors = pictures(rng, 2, 96)
    targets = [Target(boxes=box[None], labels=color[None]) for box, color in zip(boxes, colors, strict=True)]
    return list(pixels), targets


def supervised() -> Task:
    facts = Facts((32, 32), 3, pixel_stats("imagenet"))
    return method.build("supervised", backbone.build("test_resnet", drop_path=0.1), facts, mixup=0.2, cutmix=0.5)


def detection(name: str, **options: Any) -> Task:
    return DetectTask(detector.build(name, backbone.build("test_resnet"), 3, **options), pixel_stats("imagenet"))


CASES = {
    "supervised": (supervised, labeled, OptimConfig(opt="adamw", lr=2e-3, norm_wd=0.0)),
    "fcos": (lambda: detection("fcos", width=64, depth=1), annotated, OptimConfig(opt="sgd", lr=5e-3)),
    "faster_rcnn": (
        lambda: detection("faster_rcnn", width=32, hidden=64),
        annotated,
        OptimConfig(opt="nesterov", lr=5e-3, layer_decay=0.9),
    ),
}


def losses_of(name: str) -> Iterator[dict[str, float]]:
    """The named losses of each step, with fixed random seeds."""
    build, batch, optim = CASES[name]
    torch.manual_seed(0)
    task, rng = build(), torch.Generator().manual_seed(1)
    optimizer = build_optimizer(task, optim)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_scale(step, STEPS / 4, SCHEDULE, optim.lr)
        task.train()
        torch.manual_seed(step)
        losses = task(batch(rng))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield {key: float(value.detach()) for key, value in losses.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_lose_what_they_always_lost(name: str) -> None:
    path = Path(__file__).parent / f"trace_{name}.json"
    trace = list(losses_of(name))
    if os.environ.get("CHORDATE_WRITE_GOLDEN"):
        rows = [json.dumps({key: float(f"{value:.6g}") for key, value in row.items()}) for row in trace]
        path.write_text("[\n" + ",\n".join(rows) + "\n]\n")
        pytest.skip(f"wrote {path.name}")
    golden = json.loads(path.read_text())
    assert len(golden) == STEPS
    for step, (row, told) in enumerate(zip(trace, golden, strict=True)):
        assert row == pytest.approx(told, rel=TOLERANCE, abs=1e-5), f"step {step}"
    total = [sum(row.values()) for row in golden]
    assert sum(total[-5:]) < 0.95 * sum(total[:5])  # the loss decreases
