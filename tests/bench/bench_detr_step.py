"""A training step of DETR and Deformable DETR compared with transformers': `python tests/bench/bench_detr_step.py`.

Same backbone, weights, dropout and batch: forward, matching and losses of all layers, backward. CPU time on one thread,
alternating, median of the ratios. The losses are compared first, without dropout.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from backbones import backbone
from detection.nets.deformable_detr import DeformableDETR
from detection.nets.detr import DETR
from detection.types import Images, Target
from tests.detection.nets.of_transformers import (
    as_they_want,
    deformable_detr_of_transformers,
    detr_of_transformers,
)

CLASSES = 80


class Pair:
    """Both networks on one batch; `step(name)` runs a training step of one of them and returns its loss."""

    def __init__(self, ours: DETR | DeformableDETR, theirs: nn.Module, images: Images, targets: list[Target]) -> None:
        self.nets: dict[str, nn.Module] = {"transformers": theirs, "ours": ours}
        self.images, self.targets, self.told = images, targets, as_they_want(images, targets)

    def loss(self, name: str) -> Tensor:
        if name == "ours":
            return torch.stack(list(self.nets["ours"](self.images, self.targets).values())).sum()
        return self.nets["transformers"](**self.told).loss.squeeze()

    def step(self, name: str) -> float:
        loss = self.loss(name)
        loss.backward()
        self.nets[name].zero_grad(set_to_none=True)
        return loss.item()

    def check(self) -> None:
        """Assert that both losses agree."""
        for net in self.nets.values():
            net.eval()
        with torch.no_grad():
            ours, theirs = self.loss("ours").item(), self.loss("transformers").item()
        assert abs(ours - theirs) < 1e-4 * abs(theirs), (ours, theirs)
        for net in self.nets.values():
            net.train()


def compare(steps: Mapping[str, Callable[[], object]], rounds: int) -> float:
    """Print the median time of each in ms -> how many times faster the last is than the first."""
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for n in range(rounds + 1):
        for name in list(steps)[:: 1 if n % 2 else -1]:
            began = time.process_time()
            steps[name]()
            spent[name].append((time.process_time() - began) * 1000)
    first, *_, last = (times[1:] for times in spent.values())  # the first round is a warm-up
    for name, times in spent.items():
        print(f"  {name:20} {statistics.median(times[1:]):9.1f} ms", flush=True)
    return statistics.median(a / b for a, b in zip(first, last, strict=True))


def a_batch(size: int, count: int, objects: int) -> tuple[Images, list[Target]]:
    """Images of two shapes with random boxes."""
    rng = torch.Generator().manual_seed(0)
    sizes = [(size, size) if i % 2 else (size * 3 // 4, size) for i in range(count)]
    pixels = torch.zeros(count, 3, size, size)
    targets = []
    for canvas, (height, width) in zip(pixels, sizes, strict=True):
        canvas[:, :height, :width].normal_(generator=rng)
        corners = torch.rand(objects, 2, 2, generator=rng).sort(1).values * torch.tensor([width, height])
        labels = torch.randint(CLASSES, (objects,), generator=rng)
        targets.append(Target(boxes=corners.flatten(1), labels=labels))
    return Images(pixels, sizes), targets


def networks(name: str) -> dict[str, Callable[[], tuple[Any, nn.Module]]]:
    """Builders of both networks by name; transformers' class weight is 1, the paper's 2."""

    def detr() -> tuple[Any, nn.Module]:
        ours = DETR(backbone.build(name), CLASSES)
        return ours, detr_of_transformers(ours, CLASSES, auxiliary_loss=True)

    def deformable(refine: bool) -> tuple[Any, nn.Module]:
        ours = DeformableDETR(backbone.build(name), CLASSES, refine, class_cost=1.0, class_weight=1.0)
        return ours, deformable_detr_of_transformers(ours, CLASSES, auxiliary_loss=True)

    return {
        "detr": detr,
        "deformable_detr": lambda: deformable(False),
        "deformable_detr_boxref": lambda: deformable(True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", nargs="*", help="networks to compare; all of them when not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, targets = a_batch(options.size, options.batch, options.objects)
    for network, build in networks(options.backbone).items():
        if options.only and network not in options.only:
            continue
        torch.manual_seed(0)
        print(f"{network} on {options.backbone} at {options.size} px, batch {options.batch}; one step", flush=True)
        pair = Pair(*build(), images, targets)
        pair.check()
        ratio = compare({name: lambda name=name, pair=pair: pair.step(name) for name in pair.nets}, options.rounds)
        print(f"  goal 1.0 x: {'reached' if ratio > 1 else 'MISSED'} ({ratio:.3f} x)", flush=True)


if __name__ == "__main__":
    main()
