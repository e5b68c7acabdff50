"""Deformable attention compared with transformers' PyTorch code: `python tests/bench/bench_deform.py [--rounds 7]`.

Only the sampling and weighted sum, forward and backward, for an image of 800 x 1066 and four levels: in the encoder
every position is a query (17,821 queries, one image), in the decoder there are 300 queries (two images); 8 heads of 32
channels, 4 points per level. CPU time on one thread, alternating in this process, medians of ratios; memory is the
growth of the peak resident size in one forward and backward pass, each implementation in a separate process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.parts.query.deform import deformable_attention
from shared.host import process_peak

SHAPES = [(100, 134), (50, 67), (25, 34), (13, 17)]
PLACES = sum(height * width for height, width in SHAPES)
HEADS, CHANNELS, POINTS = 8, 32, 4
Inputs = tuple[Tensor, Tensor, Tensor]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def ours(value: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    return deformable_attention(value, SHAPES, places, weights)


def transformers() -> Attention:
    from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

    core, shapes = MultiScaleDeformableAttention(), torch.tensor(SHAPES)
    return lambda value, places, weights: core(value, shapes, SHAPES, shapes[:, 0], places, weights, 64)


def inputs(where: str) -> Inputs:
    """Value, sampling locations and weights: near each query's own position (encoder) or 300 random ones (decoder)."""
    torch.manual_seed(0)
    sides = torch.tensor([(width, height) for height, width in SHAPES], dtype=torch.float32)
    if where == "encoder":
        grids = [torch.cartesian_prod(torch.arange(h) + 0.5, torch.arange(w) + 0.5).flip(1) for h, w in SHAPES]
        references = torch.cat([grid / side for grid, side in zip(grids, sides, strict=True)])[None]
    else:
        references = torch.rand(2, 300, 2)
    batch, queries, _ = references.shape
    pixels = 2 * torch.randn(batch, queries, HEADS, len(SHAPES), POINTS, 2)
    places = references[:, :, None, None, None] + pixels / sides[:, None]
    weights = torch.rand(places.shape[:-1]).flatten(3).softmax(-1).view(places.shape[:-1])
    value = torch.randn(batch, PLACES, HEADS, CHANNELS)
    return value.requires_grad_(), places.requires_grad_(), weights.requires_grad_()


def step(attention: Attention, given: Inputs) -> tuple[float, float, list[Tensor]]:
    """CPU seconds of the forward pass, of both passes; the result and the three gradients."""
    start = time.process_time()
    result = attention(*given)
    forward = time.process_time() - start
    found = torch.autograd.grad(result, given, torch.ones_like(result))
    return forward, time.process_time() - start, [result.detach(), *found]


def peak() -> float:
    """The most memory of this process so far, MB."""
    return (process_peak() or 0) / 2**20


def extra_memory(whose: str, where: str) -> float:
    attention = ours if whose == "ours" else transformers()
    given = inputs(where)
    value, places, weights = given
    step(attention, (value[:1], places[:1, :4], weights[:1, :4]))  # initialize libraries
    before = peak()
    step(attention, given)
    return peak() - before


def told(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def compare(where: str, rounds: int) -> None:
    given, reference = inputs(where), transformers()
    theirs, mine = step(reference, given)[2], step(ours, given)[2]
    worst = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(theirs, mine, strict=True))
    print(
        f"{where}: {given[1].shape[1]} queries, batch {given[1].shape[0]}; relative difference {worst:.1e}", flush=True
    )
    pairs = []
    for turn in range(rounds):
        sides = {name: step(one, given)[:2] for name, one in turns(turn, reference)}
        pairs.append((sides["theirs"], sides["ours"]))
    for part, name in enumerate(("forward", "forward and backward")):
        a, b = (statistics.median(side[part] for side in column) * 1000 for column in zip(*pairs, strict=True))
        ratio = statistics.median(one[part] / other[part] for one, other in pairs)
        goal = f" (goal 2.2) {told(ratio >= 2.2)}" if part else ""
        print(f"  {name}: transformers {a:.0f} ms, ours {b:.0f} ms: {ratio:.2f} x{goal}", flush=True)
    memory = {}
    for whose in ("theirs", "ours"):
        words = [sys.executable, "-W", "ignore", __file__, "--memory", whose, "--where", where]
        memory[whose] = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    share = memory["ours"] / memory["theirs"]
    print(f"  extra memory: transformers {memory['theirs']:.0f} MB, ours {memory['ours']:.0f} MB: ", end="")
    print(f"{share:.2f} of it (goal 1) {told(share <= 1)}", flush=True)


def turns(turn: int, reference: Attention) -> list[tuple[str, Attention]]:
    pair: list[tuple[str, Attention]] = [("theirs", reference), ("ours", ours)]
    return pair[::-1] if turn % 2 else pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--where", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(extra_memory(options.memory, options.where))
        return
    for where in ("decoder", "encoder"):
        compare(where, options.rounds)


if __name__ == "__main__":
    main()
