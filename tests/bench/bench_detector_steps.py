"""A training step of three detectors compared with torchvision's: `python tests/bench/bench_detector_steps.py`.

Faster R-CNN, FCOS and RetinaNet: same ResNet and FPN, same weights, pixels, boxes and random samples; forward from
pixels to losses, including target assignment, and backward. Images are already resized, so that both only normalize and
pad. CPU time on one thread, alternating, median of the ratios; both losses must agree.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

sys.path.insert(0, str(Path(__file__).parents[2]))
from backbones import backbone
from detection.nets import detector
from detection.training.task import DetectTask
from detection.types import Target
from shared.feeding.pixels import pixel_stats

GOAL = 1.0
CLASSES, HEIGHT, WIDTH = 80, 320, 416
AS_TORCHVISION: dict[str, dict[str, str]] = {
    "faster_rcnn": {},
    "fcos": {},
    "retinanet": {"norm": "none", "box_loss": "l1"},  # the version without v2
}


def theirs(network: str, body: str) -> nn.Module:
    """torchvision's detector without pretrained weights, all layers trainable."""
    plain: dict[str, Any] = {
        "backbone_name": body,
        "weights": None,
        "norm_layer": nn.BatchNorm2d,
        "trainable_layers": 5,
    }
    told = {"min_size": HEIGHT, "max_size": WIDTH}
    if network == "faster_rcnn":
        return FasterRCNN(resnet_fpn_backbone(**plain), CLASSES + 1, **told)
    open_backbone = resnet_fpn_backbone(**plain, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return {"fcos": FCOS, "retinanet": RetinaNet}[network](open_backbone, CLASSES, **told)


def ours(network: str, body: str, other: Any) -> DetectTask:
    """Our detector with the weights of torchvision's `other`."""
    net: Any = detector.build(network, backbone.build(body), CLASSES, **AS_TORCHVISION[network])
    net.backbone.net.load_state_dict(other.backbone.body.state_dict())
    net.neck.fpn.load_state_dict(other.backbone.fpn.state_dict())
    for part in ("rpn", "roi_heads", "head"):
        if hasattr(net, part):
            getattr(net, part).load_state_dict(getattr(other, part).state_dict())
    return DetectTask(net, pixel_stats("imagenet"))


def objects(count: int, rng: torch.Generator) -> Target:
    sides = 16 + 200 * torch.rand(count, 2, generator=rng) ** 2
    corner = torch.rand(count, 2, generator=rng) * (torch.tensor([WIDTH, HEIGHT]) - sides)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    return Target(boxes=torch.cat((corner, corner + sides), 1), labels=labels)


def seconds(losses: Callable[[], dict[str, Tensor]], seed: int) -> tuple[float, float]:
    """CPU time of a step in seconds, and its loss."""
    torch.manual_seed(seed)
    began = time.process_time()
    loss = torch.stack(list(losses().values())).sum()
    loss.backward()
    return time.process_time() - began, loss.item()


def compare(network: str, told: argparse.Namespace) -> None:
    torch.manual_seed(0)
    other: Any = theirs(network, told.body).train()
    task = ours(network, told.body, other).train()
    rng = torch.Generator().manual_seed(1)
    pixels = [torch.randint(256, (3, HEIGHT, WIDTH), generator=rng, dtype=torch.uint8) for _ in range(told.batch)]
    targets = [objects(told.boxes, rng) for _ in pixels]
    floats = [image / 255 for image in pixels]
    first = int(network == "faster_rcnn")  # torchvision's background is class 0
    known = [{"boxes": t["boxes"], "labels": t["labels"] + first} for t in targets]
    steps = {"torchvision": partial(other, floats, known), "ours": partial(task, (pixels, targets))}
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for n in range(told.rounds + 1):
        lost = {}
        took: dict[str, list[float]] = {name: [] for name in steps}
        for name in [*steps, *list(steps)[::-1]]:
            once, lost[name] = seconds(steps[name], n)
            took[name].append(once)
            other.zero_grad(set_to_none=True)
            task.zero_grad(set_to_none=True)
        for name in steps:
            spent[name].append(min(took[name]))  # of two, to reduce disturbance by other processes
        assert abs(lost["ours"] / lost["torchvision"] - 1) < 0.02, lost  # rounding may swap two equally good proposals
    ratio = statistics.median(a / b for a, b in zip(spent["torchvision"][1:], spent["ours"][1:], strict=True))
    a, b = (statistics.median(spent[name][1:]) * 1000 for name in steps)  # the first round is a warm-up
    reached = "reached" if ratio >= GOAL else "MISSED"
    print(f"{network:12} torchvision {a:7.0f} ms, ours {b:7.0f} ms: {ratio:.3f} x (goal {GOAL}) {reached}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--body", default="resnet18", help="a ResNet of torchvision's")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--boxes", type=int, default=12, help="in each image")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--networks", nargs="+", default=list(AS_TORCHVISION), choices=list(AS_TORCHVISION))
    told = parser.parse_args()
    torch.set_num_threads(1)
    print(f"a training step on {told.body} with FPN, {told.batch} images of {HEIGHT}x{WIDTH}, {CLASSES} classes")
    for network in told.networks:
        compare(network, told)


if __name__ == "__main__":
    main()
