"""Matching of all layers at once, compared with DETR's matcher per layer: `python tests/bench/bench_matching.py`.

300 queries, six layers. The reference is the matcher of DETR's paper and code: costs of every query of the batch
against every object of the batch, split into the columns of each image, scipy on each; once per layer. CPU time on
one thread, alternating in this process, medians of ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

sys.path.insert(0, str(Path(__file__).parents[2]))
from detection.parts.query.hungarian import CostKind, SetTarget, match

LAYERS, QUERIES, CLASSES = 6, 300, 91
COSTS = {"class_cost": 2.0, "l1_cost": 5.0, "giou_cost": 2.0}


@torch.no_grad()
def layer_by_layer(kind: CostKind, logits: Tensor, boxes: Tensor, targets: list[SetTarget]) -> list[list[Any]]:
    labels, objects = torch.cat([one.labels for one in targets]), torch.cat([one.boxes for one in targets])
    counts = [len(one.labels) for one in targets]
    found = []
    for scores, places in zip(logits, boxes, strict=True):
        images, queries, _ = scores.shape
        flat = places.flatten(0, 1)
        if kind == "softmax":
            of_class = -scores.flatten(0, 1).softmax(-1)[:, labels]
        else:
            p = scores.flatten(0, 1).sigmoid()
            no, yes = 0.75 * p**2 * -(1 - p + 1e-8).log(), 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
            of_class = yes[:, labels] - no[:, labels]
        overlap = generalized_box_iou(box_convert(flat, "cxcywh", "xyxy"), box_convert(objects, "cxcywh", "xyxy"))
        cost = 5 * torch.cdist(flat, objects, p=1) + 2 * of_class - 2 * overlap
        columns = cost.view(images, queries, -1).cpu().split(counts, -1)
        found.append([linear_sum_assignment(part[image]) for image, part in enumerate(columns)])
    return found


def guesses(kind: CostKind, counts: list[int]) -> tuple[Tensor, Tensor, list[SetTarget]]:
    torch.manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.cat((0.1 + 0.8 * torch.rand(*shape, 2), 0.01 + 0.3 * torch.rand(*shape, 2)), -1)

    logits = 2 * torch.randn(LAYERS, len(counts), QUERIES, CLASSES + (kind == "softmax"))
    targets = [SetTarget(torch.randint(CLASSES, (count,)), some(count)) for count in counts]
    return logits, some(LAYERS, len(counts), QUERIES), targets


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def compare(kind: CostKind, counts: list[int], rounds: int, goal: float | None) -> None:
    given = guesses(kind, counts)
    work = [lambda: layer_by_layer(kind, *given), lambda: match(kind, *given, **COSTS)]
    theirs, ours = (one() for one in work)
    same = all(
        torch.equal(mine, torch.as_tensor(other))
        for layers in zip(ours, theirs, strict=True)
        for pairs in zip(*layers, strict=True)
        for mine, other in zip(*pairs, strict=True)
    )
    spent = []
    for turn in range(rounds):
        order = (1, 0) if turn % 2 else (0, 1)
        seconds = {side: timed(work[side])[0] for side in order}
        spent.append((seconds[0], seconds[1]))
    ratio = statistics.median(a / b for a, b in spent)
    a, b = (statistics.median(column) * 1000 for column in zip(*spent, strict=True))
    what = f"{kind}, {len(counts)} images, {sum(counts)} objects"
    aim = f" (goal {goal:.0f}) {'reached' if ratio >= goal else 'MISSED'}" if goal else ""
    print(f"{what}: layer by layer {a:.1f} ms, ours {b:.1f} ms: {ratio:.1f} x{aim}; ", end="")
    print("same assignments" if same else "OTHER ASSIGNMENTS", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds: list[CostKind] = ["softmax", "focal"]
    for kind in kinds:
        compare(kind, [60] * 16, options.rounds, 15)
        compare(kind, [3, 9, 14, 7, 12, 5, 20, 1, 8, 16, 11, 6, 13, 2, 10, 10], options.rounds, None)
        compare(kind, [5, 7], options.rounds, None)


if __name__ == "__main__":
    main()
