"""A training step of SMCA compared with an explicit softmax: `python tests/bench/bench_smca_step.py [--rounds 3]`.

One network of two encoder and six decoder layers, one batch, forward, matching, losses, backward, without dropout, so
that all variants compute the same; only the attention with Gaussians (bias G) differs:

    explicit     (logits + G).softmax @ v as separate tensors, with our G
    published    the same, with G from a tensor of all squared distances, as in the authors' code

CPU time on one thread, alternating, medians of ratios; the losses must agree. Memory is the growth of the peak resident
size in one forward and backward pass of a decoder layer at 800 x 1066, with dropout, with and without G, each in a
separate process, in units of attention maps (images x heads x queries x positions).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from backbones import backbone
from detection.nets.smca_detr import SMCADETR
from detection.parts.query import gaussian, transformer
from detection.parts.query.gaussian import Gaussian
from detection.parts.query.transformer import DecoderLayer
from tests.bench.bench_deform import peak
from tests.bench.bench_detr_step import a_batch

CLASSES, HEADS, WIDTH, QUERIES, SHAPE, IMAGES = 80, 8, 256, 300, (25, 34), 4
ours = transformer.attend


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, share: float) -> Tensor:
    if bias is None or bias.shape[-2] == 1:  # only attention with Gaussians
        return ours(q, k, v, bias, share)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (logits + bias).softmax(-1) @ v


def published_costs(centers: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    """As `costs`, from the squared distances of every position on both axes."""
    ys, xs = torch.meshgrid(*(torch.arange(side) for side in shape), indexing="ij")
    distance = (centers[..., None, :] - torch.stack((xs, ys), -1).flatten(0, 1)).square()
    distance = torch.cat((distance, distance.prod(-1, keepdim=True)), -1)
    return -(distance * scales[..., None, :]).sum(-1).abs().unflatten(-1, shape)


@contextmanager
def spelled(how: str) -> Iterator[None]:
    with mock.patch.object(transformer, "attend", ours if how == "ours" else explicit):
        costs = published_costs if how == "published" else gaussian.costs
        with mock.patch.object(gaussian, "costs", costs):
            yield


def steps(options: argparse.Namespace, kind: str) -> None:
    torch.manual_seed(0)
    small = {"dynamic_scale": kind, "dropout": 0.0, "encoder_layers": 2}
    net = SMCADETR(backbone.build(options.backbone), CLASSES, **small).train()
    images, targets = a_batch(options.size, 2, 8)
    spent: dict[str, list[float]] = {"published": [], "explicit": [], "ours": []}
    losses: dict[str, float] = {}
    for n in range(options.rounds + 1):
        for how in list(spent)[:: 1 if n % 2 else -1]:
            with spelled(how):
                began = time.process_time()
                loss = torch.stack(list(net(images, targets).values())).sum()
                loss.backward()
                spent[how].append((time.process_time() - began) * 1000)
            net.zero_grad(set_to_none=True)
            losses.setdefault(how, loss.item())
    assert all(abs(loss / losses["ours"] - 1) < 1e-4 for loss in losses.values()), losses
    print(f"{kind} on {options.backbone} at {options.size} px, batch 2, {QUERIES} queries; one step", flush=True)
    for how, times in spent.items():
        print(f"  {how:10} {statistics.median(times[1:]):8.1f} ms", end="")
        ratio = statistics.median(a / b for a, b in zip(times[1:], spent["ours"][1:], strict=True))
        print("" if how == "ours" else f"  {ratio:.3f} x of ours (goal 1.0) {told(ratio >= 1)}", flush=True)


def told(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def extra_memory(kind: str) -> float:
    """Peak memory growth in MB of one layer, forward and backward; kind "none" has no Gaussians."""
    torch.manual_seed(0)
    layer = DecoderLayer(WIDTH, HEADS, 2048, 0.1)
    own = None if kind == "none" else Gaussian(WIDTH, HEADS, kind)

    def step(images: int, shape: tuple[int, int]) -> None:
        queries = torch.randn(images, QUERIES, WIDTH)
        memory = torch.randn(images, shape[0] * shape[1], WIDTH, requires_grad=True)
        references = torch.rand(images, QUERIES, 2) * torch.tensor(shape[::-1])
        strength = torch.full((HEADS, QUERIES, 1), 1 / 8)
        look = (queries, references, strength, shape, None)
        layer(queries, queries, memory, memory, None if own is None else own(*look)).sum().backward()

    step(1, (5, 5))  # initialize libraries
    before = peak()
    step(IMAGES, SHAPE)
    return peak() - before


def memory() -> None:
    one = IMAGES * HEADS * QUERIES * SHAPE[0] * SHAPE[1] * 4 / 2**20
    taken = {}
    for kind in ("none", *gaussian.LEARNED):
        words = [sys.executable, "-W", "ignore", __file__, "--memory", kind]
        taken[kind] = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout) / one
    base = taken.pop("none")
    print(
        f"peak of a decoder layer, {IMAGES} images, in attention maps of {one:.0f} MB: {base:.2f} without", flush=True
    )
    for kind, maps in taken.items():
        print(f"  {kind} {maps:.2f}: {maps - base:.2f} more (goal 1) {told(maps - base <= 1)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(extra_memory(options.memory))
        return
    for kind in ("type3", "type4"):
        steps(options, kind)
    memory()


if __name__ == "__main__":
    main()
