"""Overhead of the training loop, and speedup by mixed precision: `python tests/bench/bench_loop.py`.

One process, one thread, CPU time. The loop's step alternates with a plain forward, backward and optimizer step on a
copy of the same network, so that other load on the machine affects both equally; the figure is the median of the
ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones import backbone
from pretrain.methods import Facts, method
from shared.devices.device import has_native_bfloat16
from shared.feeding.feed import Feed
from shared.feeding.pixels import pixel_stats
from shared.loop.trainer import Trainer
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig


class Noise:
    """A data set of random pixels without reading cost."""

    sizes, fingerprint = [64], "noise"

    def __init__(self, size: int) -> None:
        self.images = torch.randint(0, 256, (64, 3, size, size), dtype=torch.uint8)

    def load(self, index: int, rng: np.random.Generator) -> int:
        return index

    def collate(self, samples: list[int]) -> Any:
        return self.images[samples], torch.tensor(samples) % 10


class TakingTurns(Feed):
    """A feed that runs the plain step between the steps of the loop and times both."""

    def __init__(self, bare: Any, **told: Any) -> None:
        super().__init__(**told)
        self.bare, self.loop_seconds, self.bare_seconds = bare, [], []

    def steps(self, first: int, stop: int) -> Iterator[list[Any]]:
        for micro_batches in super().steps(first, stop):
            began = time.process_time()
            self.bare(micro_batches[0])
            handed_over = time.process_time()
            yield micro_batches
            self.bare_seconds.append(handed_over - began)
            self.loop_seconds.append(time.process_time() - handed_over)


def loop_against_bare(name: str, size: int, batch: int, steps: int) -> float:
    """Median over steps of loop time / plain time."""
    facts = Facts((size, size), 10, pixel_stats("imagenet"))
    task = method.build("supervised", backbone.build(name), facts)
    twin = deepcopy(task).train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, foreach=True)

    def bare(micro_batch: Any) -> None:
        twin(micro_batch)["classification"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    feed = TakingTurns(bare, samples=Noise(size), seed=0, batch_size=batch)
    schedule = ScheduleConfig(epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            task,
            feed,
            None,
            optim=OptimConfig(lr=0.01),
            schedule=schedule,
            runtime=RuntimeConfig(batch_size=batch, save_every=None),
            run_dir=Path(folder),
            device=torch.device("cpu"),
        )
        trainer.total = steps
        trainer.save = lambda: None  # state is written once per epoch, not per step
        trainer.fit()
    ratios = [a / b for a, b in zip(feed.loop_seconds[2:], feed.bare_seconds[2:], strict=True)]
    return statistics.median(ratios)


def amp_against_float(name: str, size: int, batch: int, rounds: int) -> float | None:
    """How many times faster a channels-last bfloat16 step is than a float32 step; None where --amp is disabled."""
    if not has_native_bfloat16():
        return None
    net = backbone.build(name)
    fast = deepcopy(net).to(memory_format=torch.channels_last)
    x = torch.rand(batch, 3, size, size)

    def step(model: torch.nn.Module, pixels: torch.Tensor, enabled: bool) -> float:
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(pixels).float().square().mean()
        loss.backward()
        return time.process_time() - began

    last = x.to(memory_format=torch.channels_last)
    ratios = [step(net, x, False) / step(fast, last, True) for _ in range(rounds)]
    return statistics.median(ratios[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    told = parser.parse_args()
    torch.set_num_threads(1)
    ratio = loop_against_bare(told.model, told.size, told.batch, told.steps)
    print(f"loop over bare step, {told.model} {told.size} px batch {told.batch}: {ratio:.3f} (goal: at most 1.03)")
    gain = amp_against_float(told.model, told.size, told.batch // 2, 5)
    if gain is None:
        print("--amp on this processor: off, no native bfloat16; runs in float32 (ratio 1)")
    else:
        print(f"--amp on this processor: {gain:.2f} times as fast as float32 (goal: 2.3 to 2.8)")


if __name__ == "__main__":
    main()
