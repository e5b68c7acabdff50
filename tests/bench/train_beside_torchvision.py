"""Train our detector and torchvision's in lockstep: `python tests/bench/train_beside_torchvision.py bccd`.

Same ResNet with FPN, initial weights, image order, optimizer and random samples: the loss curves should coincide, and
so should the final AP. Steps alternate in one process.

In single precision, rounding makes them diverge soon. `--double` computes everything in double precision, where only
a difference in the algorithm can. One is known and reproduced there: torchvision's FCOS subtracts areas from 1e8 in
single precision, so it may assign a location a box up to eight pixels larger than the smallest candidate, which ours
assigns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.ops import box_area

sys.path.insert(0, str(Path(__file__).parents[2]))
import bench_detector_steps as boxes_alone
import bench_rcnn_steps as with_more

from backbones.freeze import freeze_batch_norm, keep_frozen_in_eval
from detection.data.augment.presets import build_augment
from detection.data.batch import pad_batch
from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.nets import detector, fcos, finds
from detection.recipe import DataConfig
from detection.training.datasets import places
from detection.training.task import DetectTask
from detection.types import Detections, Images
from shared.feeding.feed import Feed, in_order
from shared.feeding.pixels import Normalize, pixel_stats

BOTH = {**dict.fromkeys(boxes_alone.AS_TORCHVISION, boxes_alone), **dict.fromkeys(with_more.CLASSES, with_more)}


class Beside(nn.Module):
    """torchvision's detector with our interface (`forward`, `detect`) on normalized and padded images."""

    def __init__(self, net: Any, first: int) -> None:
        super().__init__()
        self.net, self.first = net, first

    def forward(self, images: Images, targets: list[Any]) -> dict[str, torch.Tensor]:
        known = [{**t, "labels": t["labels"] + self.first} for t in targets]
        return self.net(self.unpadded(images), known)

    def detect(self, images: Images) -> list[Detections]:
        return [self.as_ours(one) for one in self.net(self.unpadded(images))]

    def as_ours(self, one: dict[str, torch.Tensor]) -> Detections:
        found = Detections(boxes=one["boxes"], labels=one["labels"] - self.first, scores=one["scores"])
        if "masks" in one:
            found["masks"] = one["masks"][:, 0]
        if "keypoints" in one:
            found["keypoints"] = torch.cat((one["keypoints"][..., :2], one["keypoints_scores"][..., None]), 2)
        return found

    def unpadded(self, images: Images) -> list[torch.Tensor]:
        return [pixels[:, :h, :w] for pixels, (h, w) in zip(images.pixels, images.sizes, strict=True)]


def in_double() -> None:
    """Use float64 everywhere in this process, and compare areas in FCOS as torchvision does."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
    fcos.box_area = lambda boxes: (1e8 - box_area(boxes).to(torch.float32)).neg()  # type: ignore[attr-defined]


def hold_batch_norm(backbone: nn.Module, data: CocoDetection) -> None:
    """Estimate batch norm statistics on eight batches, then freeze them, so that they do not make curves diverge."""
    normalize = Normalize(pixel_stats("imagenet"))
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # an average over all batches
    with torch.no_grad():
        for (pictures, _), *_ in Feed(data, seed=1, batch_size=8, workers=0).steps(0, 8):
            backbone.train()(pad_batch(pictures, normalize).pixels)
    freeze_batch_norm(backbone)


def side_by_side(network: str, told: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    height, width = told.size
    resize = build_augment("hflip", size=(height, width), train=False)
    training, validation = places(DataConfig(data_path=told.data, coco_json_path=told.json), finds(network))
    data = CocoDetection(*training, augment=build_augment("hflip", size=(height, width)), finds=finds(network))
    val = CocoDetection(*(validation or training), data.classes, resize, finds=finds(network))
    first, steps = int("rcnn" in network), BOTH[network]  # torchvision's background is class 0
    if steps is boxes_alone:
        boxes_alone.CLASSES = len(data.classes)
    else:
        with_more.CLASSES[network] = len(data.classes)
    other: Any = steps.theirs(network, told.body)
    if told.frozen_bn:
        hold_batch_norm(other.backbone, data)
    mine = steps.ours(network, told.body, other)
    if told.frozen_bn:
        freeze_batch_norm(mine.detector.backbone)
    transform = other.transform
    transform.image_mean, transform.image_std, transform._skip_resize = [0.0] * 3, [1.0] * 3, True
    transform.min_size = (min(height, width),)
    transform.postprocess = lambda found, *_: found  # images were not resized, and masks stay 28x28
    its = DetectTask(mine.detector, pixel_stats("imagenet"))
    its.detector = Beside(other, first)  # type: ignore[assignment]
    tasks: dict[str, Any] = {"ours": mine, "torchvision": its}
    curves: dict[str, list[float]] = {name: [] for name in tasks}
    spent = dict.fromkeys(tasks, 0.0)
    optimizers = {
        name: torch.optim.SGD(task.detector.parameters(), lr=told.lr, momentum=0.9, weight_decay=1e-4)
        for name, task in tasks.items()
    }
    feed = Feed(data, seed=0, batch_size=told.batch, workers=0)
    for step, (batch,) in enumerate(feed.steps(0, told.steps)):
        for name, task in tasks.items():
            for group in optimizers[name].param_groups:
                group["lr"] = told.lr * min(1.0, (step + 1) / 20)
            task.train()
            keep_frozen_in_eval(task.detector)
            torch.manual_seed(step)
            began = time.process_time()
            loss = torch.stack(list(task(batch).values())).sum()
            optimizers[name].zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(task.detector.parameters(), 10.0)
            optimizers[name].step()
            spent[name] += time.process_time() - began
            curves[name].append(loss.item())
        if (step + 1) % 10 == 0:
            last = {name: statistics.mean(curve[-10:]) for name, curve in curves.items()}
            print(f"{network:12} step {step + 1:4}  " + "  ".join(f"{n} {v:.4f}" for n, v in last.items()), flush=True)
    metrics = {}
    for name, task in tasks.items():
        task.evaluator = lambda: CocoEvaluator(val, "auto", finds(network))
        metrics[name] = task.eval().evaluate(in_order(val, 4, workers=0))
        scores = "  ".join(f"{key} {value:.4f}" for key, value in metrics[name].items() if key.endswith(("ap", "ap50")))
        print(f"{network:12} {name:12} {scores}", flush=True)
    apart = [abs(a / b - 1) for a, b in zip(*curves.values(), strict=True)]
    ratio = spent["torchvision"] / spent["ours"]
    told_apart = f"{statistics.median(apart):.1e} in the median, {max(apart):.1e} at most"
    print(f"{network:12} losses differ by {told_apart}; {ratio:.2f} x as fast as torchvision")
    return {"curves": curves, "metrics": metrics, "seconds": spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="a COCO folder, or its images")
    parser.add_argument("--json", type=Path, help="annotations of these images, used for training and evaluation")
    parser.add_argument("--body", default="resnet18", help="a ResNet of torchvision's")
    parser.add_argument("--size", type=int, nargs=2, default=(160, 192))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--networks", nargs="+", default=list(boxes_alone.AS_TORCHVISION), choices=list(BOTH))
    parser.add_argument("--frozen-bn", action="store_true", help="batch norm holds the statistics of eight batches")
    parser.add_argument("--double", action="store_true", help="compute in double precision")
    parser.add_argument("--save", type=Path, help="write the curves as JSON")
    told = parser.parse_args()
    torch.set_num_threads(1)
    if told.double:
        in_double()
    detector.names()
    found = {network: side_by_side(network, told) for network in told.networks}
    if told.save:
        told.save.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
