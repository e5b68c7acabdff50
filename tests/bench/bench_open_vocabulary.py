"""Open-vocabulary parts compared with plain spellings of them: `python tests/bench/bench_open_vocabulary.py`.

    partitioned loss   an image each of 1,203, 365 and 80 names, 512 regions an image, width 1024, forward and
                       backward; compared with a loop over the images that computes every logit of their data set and
                       takes the names of the subset afterwards, as the reference does
    soft NMS           1,000 boxes, 80 names; compared with a loop over the names and their boxes, box after box
    training step      UniDetector (--region layers) and Faster R-CNN on the same trunk, images and targets

CPU time on one thread, alternating, median of the ratios. Loss and boxes must agree.
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
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

sys.path.insert(0, str(Path(__file__).parents[2]))
from backbones import backbone
from detection.nets import detector
from detection.parts.roi.named import Vocabularies, partitioned_loss, taking_part
from detection.parts.roi.soft_nms import soft_nms
from detection.types import Images, Target

SIZES, REGIONS, WIDTH, MOST = (1203, 365, 80), 512, 1024, 50
HEIGHT, ACROSS = 256, 320
GOALS = {"partitioned loss": 5.0, "soft NMS": 20.0, "training step": 1 / 1.1}


def ratios(ours: Callable[[], Any], other: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median of the ratios other / ours, and the median seconds of each."""
    spent: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        pair = []
        for run in (ours, other):
            start = time.process_time()
            run()
            pair.append(time.process_time() - start)
        spent.append((pair[0], pair[1]))
    spent = spent[1:]  # the first is a warm-up
    mine, theirs = zip(*spent, strict=True)
    return statistics.median(b / a for a, b in spent), statistics.median(mine), statistics.median(theirs)


def told(name: str, found: tuple[float, float, float]) -> bool:
    ratio, mine, theirs = found
    print(f"{name}: {1e3 * mine:.1f} ms, the other {1e3 * theirs:.1f} ms: {ratio:.2f} times (goal {GOALS[name]:.2f})")
    return ratio >= GOALS[name]


# --- partitioned loss -------------------------------------------------------------------------------


def one_image_after_the_other(
    vocabularies: Vocabularies, regions: Tensor, labels: list[Tensor], targets: list[Target]
) -> Tensor:
    losses = []
    for of_image, label, target in zip(regions.split(REGIONS), labels, targets, strict=True):
        number = target["dataset"]  # type: ignore[typeddict-item]
        logits = vocabularies.logits(of_image, number)
        names, counted = taking_part(vocabularies.drawable(number), label, target, most=MOST)
        weights = torch.zeros(logits.shape[1])
        weights[names[counted]] = 1.0
        true = torch.zeros_like(logits)
        held = (label >= 0).nonzero()[:, 0]
        true[held, label[held]] = 1.0
        loss = F.binary_cross_entropy_with_logits(logits, true, reduction="none")
        losses.append((loss * weights).sum() / REGIONS)
    return torch.stack(losses).mean()


def partitioned(rounds: int) -> bool:
    torch.manual_seed(0)
    vocabularies, regions = Vocabularies(SIZES, WIDTH), torch.randn(len(SIZES) * REGIONS, WIDTH, requires_grad=True)
    labels, targets = [], []
    for number, size in enumerate(SIZES):
        label = torch.full((REGIONS,), -1)
        objects = torch.randint(size, (8,))
        label[:128] = objects[torch.randint(8, (128,))]
        labels.append(label)
        targets.append(Target(boxes=torch.zeros(8, 4), labels=objects, dataset=number))
    losses: dict[str, tuple[Tensor, Any]] = {}

    def learn(name: str, loss: Callable[[], Tensor]) -> None:
        torch.manual_seed(1)  # the same names are drawn
        regions.grad = None
        value = loss()
        value.backward()
        losses[name] = (value.detach(), regions.grad)

    found = ratios(
        lambda: learn("ours", lambda: partitioned_loss(vocabularies, regions, labels, targets, most=MOST)),
        lambda: learn("loop", lambda: one_image_after_the_other(vocabularies, regions, labels, targets)),
        rounds,
    )
    for mine, theirs in zip(losses["ours"], losses["loop"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    return told("partitioned loss", found)


# --- soft NMS ---------------------------------------------------------------------------------------


def box_after_box(boxes: Tensor, scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each name the best box, again and again, with the decay of its neighbors."""
    overlap, found = (-box_iou(boxes, boxes).square() / 0.5).exp(), []
    for label in range(scores.shape[1]):
        places = (scores[:, label] > 1e-4).nonzero()[:, 0]
        left = scores[places, label].clone()
        while len(left):
            value, at = left.max(0)
            best = places[at]
            found.append((value, label, best))
            others = torch.arange(len(left)) != at
            places, left = places[others], left[others]
            left = left * overlap[best, places]
            there = left >= 1e-3
            places, left = places[there], left[there]
    values = torch.stack([value for value, *_ in found])
    order = values.sort(descending=True, stable=True).indices[:most]
    which, labels = torch.stack([best for *_, best in found]), torch.tensor([label for _, label, _ in found])
    return which[order], labels[order], values[order]


def suppression(rounds: int) -> bool:
    rng = torch.Generator().manual_seed(0)
    corner = 500 * torch.rand(1000, 2, generator=rng)
    boxes = torch.cat((corner, corner + 20 + 150 * torch.rand(1000, 2, generator=rng)), 1)
    scores = torch.rand(1000, 80, generator=rng) ** 6
    results: dict[str, Any] = {}
    found = ratios(
        lambda: results.update(ours=soft_nms(boxes, scores, most=100)),
        lambda: results.update(loop=box_after_box(boxes, scores, 100)),
        rounds,
    )
    for mine, theirs in zip(results["ours"], results["loop"], strict=True):
        torch.testing.assert_close(mine, theirs)
    return told("soft NMS", found)


# --- a training step --------------------------------------------------------------------------------


def step(network: str, body: str, **options: Any) -> Callable[[], None]:
    torch.manual_seed(0)
    net = detector.build(network, backbone.build(body), 80, **options).train()
    images = Images(torch.randn(2, 3, HEIGHT, ACROSS), [(HEIGHT, ACROSS)] * 2)
    corner = torch.rand(2, 7, 2) * torch.tensor([ACROSS - 120, HEIGHT - 120])
    boxes = torch.cat((corner, corner + 20 + 100 * torch.rand(2, 7, 2)), 2)
    targets = [Target(boxes=box, labels=torch.randint(80, (7,))) for box in boxes]

    def run() -> None:
        torch.stack(list(net(images, targets).values())).sum().backward()
        net.zero_grad()

    return run


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--only", choices=list(GOALS))
    args = parser.parse_args()
    torch.set_num_threads(1)

    def steps(rounds: int) -> bool:
        ours, other = step("unidetector", args.backbone, region="layers"), step("faster_rcnn", args.backbone)
        return told("training step", ratios(ours, other, rounds))

    parts = {
        "partitioned loss": lambda: partitioned(3 * args.rounds),
        "soft NMS": lambda: suppression(max(1, args.rounds // 2)),
        "training step": lambda: steps(args.rounds),
    }
    good = [run() for name, run in parts.items() if args.only in (None, name)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
