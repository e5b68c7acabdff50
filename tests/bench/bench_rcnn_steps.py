"""A training step of Mask and Keypoint R-CNN compared with torchvision's: `python tests/bench/bench_rcnn_steps.py`.

Same ResNet and FPN, same weights, pixels, targets and random samples; forward from pixels to losses, including target
assignment, and backward. CHORDATE_REAL_DATA or --data names a folder with coco-keypoints/, whose photographs are
used; without it, synthetic discs are. Images are already resized, so that both only normalize and pad. CPU time on
one thread, alternating, median of the ratios; both losses must agree.

The time of a step depends on the number of positive proposals, since each passes eight convolutions; it is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

sys.path.insert(0, str(Path(__file__).parents[2]))
from backbones import backbone
from detection.data.coco import CocoDetection
from detection.nets import detector, finds
from detection.training.task import DetectTask
from detection.types import Target
from shared.feeding.pixels import pixel_stats

GOAL = 1.0
HEIGHT, WIDTH = 256, 320
CLASSES = {"mask_rcnn": 80, "keypoint_rcnn": 1}
FILES = {"mask_rcnn": "instances_train2017.json", "keypoint_rcnn": "person_keypoints_train2017.json"}
KEYPOINTS = 17

Scene = tuple[Tensor, Target]


def theirs(network: str, body: str) -> nn.Module:
    """torchvision's detector without pretrained weights, all layers trainable."""
    open_backbone = resnet_fpn_backbone(backbone_name=body, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
    kind = {"mask_rcnn": MaskRCNN, "keypoint_rcnn": KeypointRCNN}[network]
    return kind(open_backbone, CLASSES[network] + 1, min_size=HEIGHT, max_size=WIDTH)


def ours(network: str, body: str, other: Any) -> DetectTask:
    """Our detector with the weights of torchvision's `other`."""
    net: Any = detector.build(network, backbone.build(body), CLASSES[network])
    net.backbone.net.load_state_dict(other.backbone.body.state_dict())
    net.neck.fpn.load_state_dict(other.backbone.fpn.state_dict())
    for part in ("rpn", "roi_heads"):
        getattr(net, part).load_state_dict(getattr(other, part).state_dict())
    return DetectTask(net, pixel_stats("imagenet"))


def photographs(network: str, folder: Path) -> list[Scene]:
    """All images of coco-keypoints that have an object, at 256 x 320."""
    data = CocoDetection(folder / "train2017", folder / "annotations" / FILES[network], finds=finds(network))
    loaded = (data.load(i, np.random.default_rng(0)) for i in range(len(data)))
    return [resized(image, target) for image, target in loaded if len(target["boxes"])]


def resized(image: Tensor, target: Target) -> Scene:
    """uint8 (3, H, W) image of any size and its target -> both at 256 x 320."""
    down, across = HEIGHT / image.shape[1], WIDTH / image.shape[2]
    pixels = F.interpolate(image[None].float(), (HEIGHT, WIDTH), mode="bilinear", antialias=True)[0]
    known = Target(boxes=target["boxes"] * torch.tensor([across, down] * 2), labels=target["labels"])
    if "masks" in target:
        known["masks"] = F.interpolate(target["masks"][:, None], (HEIGHT, WIDTH), mode="nearest")[:, 0]
    if "keypoints" in target:
        known["keypoints"] = target["keypoints"] * torch.tensor([across, down, 1.0])
    return pixels.round().clamp(0, 255).byte(), known


def drawn(network: str, count: int, objects: int) -> list[Scene]:
    """Noise images with discs, each with its mask or with random keypoints inside its box."""
    rng = torch.Generator().manual_seed(1)
    scenes = []
    for _ in range(count):
        sides = 16 + 150 * torch.rand(objects, 2, generator=rng) ** 2
        corner = torch.rand(objects, 2, generator=rng) * (torch.tensor([WIDTH, HEIGHT]) - sides)
        boxes = torch.cat((corner, corner + sides), 1)
        target = Target(boxes=boxes, labels=torch.randint(CLASSES[network], (objects,), generator=rng))
        if "masks" in finds(network):
            x, y = torch.arange(WIDTH)[None, None] + 0.5, torch.arange(HEIGHT)[None, :, None] + 0.5
            middle, half = (corner + sides / 2)[:, :, None, None], sides[:, :, None, None] / 2
            target["masks"] = (
                ((x - middle[:, 0]) / half[:, 0]) ** 2 + ((y - middle[:, 1]) / half[:, 1]) ** 2 < 1
            ).byte()
        else:
            at = corner[:, None] + torch.rand(objects, KEYPOINTS, 2, generator=rng) * sides[:, None]
            seen = torch.randint(3, (objects, KEYPOINTS, 1), generator=rng)
            target["keypoints"] = torch.cat((at, seen), 2)
        scenes.append((torch.randint(256, (3, HEIGHT, WIDTH), generator=rng, dtype=torch.uint8), target))
    return scenes


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
    real = told.data is not None
    scenes = photographs(network, told.data / "coco-keypoints") if real else drawn(network, 8, told.objects)
    looked: list[int] = []
    count_looked_at(other.roi_heads, network, looked)
    spent: dict[str, list[float]] = {"torchvision": [], "ours": []}
    for n in range(told.rounds + 1):
        batch = [scenes[(n * told.batch + i) % len(scenes)] for i in range(told.batch)]
        pixels, targets = [image for image, _ in batch], [target for _, target in batch]
        floats = [image / 255 for image in pixels]
        known = [{**target, "labels": target["labels"] + 1} for target in targets]
        steps = {"torchvision": partial(other, floats, known), "ours": partial(task, (pixels, targets))}
        took: dict[str, list[float]] = {name: [] for name in steps}
        lost = {}
        for name in [*steps, *list(steps)[::-1]]:
            once, lost[name] = seconds(steps[name], n)
            took[name].append(once)
            other.zero_grad(set_to_none=True)
            task.zero_grad(set_to_none=True)
        for name in steps:
            spent[name].append(min(took[name]))  # of two, to reduce disturbance by other processes
        assert abs(lost["ours"] / lost["torchvision"] - 1) < 0.02, lost  # rounding may swap two equally good proposals
    ratio = statistics.median(a / b for a, b in zip(spent["torchvision"][1:], spent["ours"][1:], strict=True))
    a, b = (statistics.median(spent[name][1:]) * 1000 for name in spent)  # the first round is a warm-up
    reached = "reached" if ratio >= GOAL else "MISSED"
    kind = f"{'photographs' if real else 'drawn'}, {statistics.median(looked):.0f} boxes looked into"
    print(f"{network:14} torchvision {a:6.0f} ms, ours {b:6.0f} ms: {ratio:.3f} x (goal {GOAL}) {reached}; {kind}")


def count_looked_at(roi_heads: Any, network: str, into: list[int]) -> None:
    head = roi_heads.mask_head if network == "mask_rcnn" else roi_heads.keypoint_head
    head.register_forward_pre_hook(lambda _, given: into.append(len(given[0])))


def main() -> None:
    given = os.environ.get("CHORDATE_REAL_DATA")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--body", default="resnet50", help="a ResNet of torchvision's")
    parser.add_argument("--data", type=Path, default=Path(given) if given else None, help="holds coco-keypoints/")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--objects", type=int, default=6, help="drawn in each image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=list(CLASSES), choices=list(CLASSES))
    told = parser.parse_args()
    torch.set_num_threads(1)
    print(f"a training step on {told.body} with FPN, {told.batch} images of {HEIGHT}x{WIDTH}")
    for network in told.networks:
        compare(network, told)


if __name__ == "__main__":
    main()
