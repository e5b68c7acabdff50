"""FCOS: anchor-free dense detection; every point of a pyramid predicts classes, distances to the four sides,
centerness.

Tian, Shen, Chen, He, "FCOS: Fully Convolutional One-Stage Object Detection", 2019.

    image -> backbone -> FPN -> per level: two conv towers -> scores, side distances, centerness

The heads are torchvision's, and losses and targets are equal to its own.
Shape letters: B images, P points over all levels, K classes, N boxes of one image.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSHead

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.dense.assign import few_at_a_time
from detection.parts.dense.boxes import giou_losses
from detection.parts.dense.focal import NOTHING, focal_losses
from detection.parts.dense.necks import build_pyramid
from detection.parts.dense.objects import Objects, padded
from detection.parts.dense.post import best_boxes
from detection.parts.known import hidden, unknown_of
from detection.types import Detections, Images, Target
from shared.devices.device import at_hand
from shared.errors import UsageError
from shared.recipes.values import Count, Layers, Probability, Scale, Width


class Places(NamedTuple):
    """The points of all levels, in pixels, and the range of box sizes of each level."""

    centers: Tensor  # (P, 2)
    strides: Tensor  # (P,)
    low: Tensor  # (P,) boxes whose farthest side is nearer belong to a finer level
    high: Tensor  # (P,)
    counts: list[int]  # points per level


TRAINED = {
    "by": "torchvision's reference",
    "opt": "sgd",
    "lr": 0.01,
    "lr_batch": 16,
    "wd": 1e-4,
    "lr_scheduler": "multistep",
    "lr_steps": (16, 22),
    "epochs": 26,
    "warmup_steps": 1000,
    "warmup_epochs": 1,
    "warmup_start": 0.001,
    "aug_type": "hflip",
}


@detector("fcos", tiny={"width": 64, "depth": 1}, trained=TRAINED)
class FCOS(Detector):
    """
    Args:
        backbone: any with maps of strides 8 to 32, or a plain ViT.
        num_classes: K, without background.
        width: channels of the pyramid and the towers.
        depth: convolutions per tower.
        center_radius: points within so many strides of a box's center are positive.
        min_score: detections with this score or less are dropped.
        nms_iou: IoU threshold of NMS, per class.
        max_detections: per image.
    """

    graphs = ("losses",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: Width = 256,
        depth: Layers = 4,
        center_radius: Scale = 1.5,
        min_score: Probability = 0.05,
        nms_iou: Probability = 0.6,
        max_detections: Count = 100,
    ) -> None:
        super().__init__()
        if width % 64:  # group norm over a single value has no variance
            raise UsageError(f"fcos: width is {width}; its towers use group norm with 32 groups, give a multiple of 64")
        self.backbone = backbone
        self.neck = build_pyramid(backbone, width, finest=8, coarser="convs")
        self.used_maps = self.neck.used
        self.head = FCOSHead(width, num_anchors=1, num_classes=num_classes, num_convs=depth)
        # torchvision's sides are relu(x): most start at 0, where they have no gradient, and with some seeds all of them
        # stay there. 1, in strides, is where the paper's exp(x) starts.
        nn.init.ones_(self.head.regression_head.bbox_reg.bias)  # type: ignore[arg-type]
        self.center_radius = center_radius
        self.min_score, self.nms_iou, self.max_detections = min_score, nms_iou, max_detections

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        return self.losses(images.pixels, padded(targets), unknown_of(targets))

    def losses(self, pixels: Tensor, objects: Objects, unknown: Tensor | None) -> dict[str, Tensor]:
        """Focal loss of classes, GIoU loss of boxes, cross-entropy of centerness, divided by the positive points."""
        scores, raw_boxes, places = self.predict(pixels)
        labels, boxes = self.assign(objects, places)
        found = labels >= 0
        scores = hidden(scores, ~found, unknown)
        sides, centerness = sides_and_centerness(where_found(raw_boxes, found), places)
        count = found.sum().clamp(min=1)
        # everywhere else both boxes are the same unit square, whatever the network predicts there
        wanted = boxes_at(places.centers, torch.ones_like(sides)).where(~found[..., None], boxes)
        given = boxes_at(places.centers, sides.where(found[..., None], 1.0))
        overlap = giou_losses(given, wanted) * found
        sure = F.binary_cross_entropy_with_logits(
            centerness.where(found, 0.0), centerness_of(wanted, places.centers), found.float(), reduction="sum"
        )
        return {
            "classification": focal_losses(scores, labels).sum() / count,
            "boxes": overlap.sum() / count,
            "centerness": sure / count,
        }

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        scores, raw_boxes, places = self.predict(images.pixels)
        sides, centerness = sides_and_centerness(raw_boxes, places)
        quality = (scores.sigmoid() * centerness.sigmoid()[..., None]).sqrt()
        boxes = boxes_at(places.centers, sides)
        return [
            best_boxes(
                list(q.split(places.counts)),
                list(b.split(places.counts)),
                size,
                min_score=self.min_score,
                nms_iou=self.nms_iou,
                most=self.max_detections,
            )
            for q, b, size in zip(quality, boxes, images.sizes, strict=True)
        ]

    def class_head(self) -> list[nn.Module]:
        return [self.head.classification_head]

    def predict(self, pixels: Tensor) -> tuple[Tensor, list[Tensor], Places]:
        """-> class logits (B, P, K), box outputs per level (B, P_i, 5), points

        Sides and centerness share a tower, so their last convolutions are computed as one.
        """
        maps = self.neck(self.backbone.forward_features(pixels))
        head = self.head.regression_head
        weight = torch.cat((head.bbox_reg.weight, head.bbox_ctrness.weight))
        bias = torch.cat((head.bbox_reg.bias, head.bbox_ctrness.bias))  # type: ignore[list-item]
        raw_boxes = [F.conv2d(head.conv(x), weight, bias, padding=1).flatten(2).mT.float() for x in maps]
        return (
            self.head.classification_head(maps).float(),
            raw_boxes,
            self.places([m.shape[-2:] for m in maps], pixels),
        )

    def places(self, shapes: list[torch.Size], pixels: Tensor) -> Places:
        """Points at multiples of the stride, as torchvision's anchors."""
        tall, wide = pixels.shape[-2:]
        centers, strides = [], []
        for height, width in shapes:
            down, across = tall // height, wide // width
            ys = torch.arange(height, device=pixels.device) * down
            xs = torch.arange(width, device=pixels.device) * across
            centers.append(torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1).flatten(0, 1).float())
        counts = [len(c) for c in centers]
        for info, count in zip(self.neck.maps, counts, strict=True):
            strides.append(torch.full((count,), float(info.stride), device=pixels.device))
        stride = torch.cat(strides)
        low, high = stride * 4, stride * 8
        low[: counts[0]], high[-counts[-1] :] = 0.0, float("inf")
        return Places(torch.cat(centers), stride, low, high, counts)

    def assign(self, objects: Objects, places: Places) -> tuple[Tensor, Tensor]:
        """Assign points: labels (B, P), or NOTHING, and boxes (B, P, 4).

        A point gets the smallest box whose center is near and whose size is in the range of its level.
        """
        shape = (len(objects.boxes), len(places.centers))
        smallest = places.centers.new_full(shape, torch.inf)
        which = torch.full(shape, NOTHING, device=places.centers.device)
        for some in few_at_a_time(objects.boxes.shape[1], shape[0] * shape[1], places.centers.device):
            area, box = self.suited(objects.boxes[:, some], places).min(1)
            better = area < smallest
            smallest, which = torch.where(better, area, smallest), torch.where(better, box + some.start, which)
        return objects.of(which)

    def suited(self, boxes: Tensor, places: Places) -> Tensor:
        """(B, N, 4) -> (B, N, P): the area of each box at the points it suits, else Inf. Padding suits no point."""
        x, y = places.centers.unbind(1)
        left, top, right, bottom = boxes[..., None].unbind(-2)
        middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
        far = torch.maximum((middle_x - x).abs(), (middle_y - y).abs())
        sides = (x - left, y - top, right - x, bottom - y)
        least, reach = reduce(torch.minimum, sides), reduce(torch.maximum, sides)
        suits = (far < self.center_radius * places.strides) & (least > 0)
        suits &= (reach > places.low) & (reach < places.high)
        return torch.where(suits, (right - left) * (bottom - top), torch.inf)


def where_found(raw_boxes: list[Tensor], found: Tensor) -> list[Tensor]:
    """Box outputs per level (B, P_i, 5), positive points (B, P) -> the same outputs, detached for levels without any.

    Their gradients would be zeros, at the cost of a full backward pass through the tower. A GPU keeps them: it would
    wait for the answer, and a captured step would follow the first one.
    """
    if not at_hand(found):
        return raw_boxes
    levels = found.split([x.shape[1] for x in raw_boxes], 1)
    busy = torch.stack([level.any() for level in levels]).tolist()
    busy[-1] |= not any(busy)  # at least one level keeps its gradient, which DDP waits for
    return [x if used else x.detach() for x, used in zip(raw_boxes, busy, strict=True)]


def sides_and_centerness(raw_boxes: list[Tensor], places: Places) -> tuple[Tensor, Tensor]:
    """Box outputs per level -> distances in pixels (B, P, 4), centerness logits (B, P)."""
    numbers = torch.cat(raw_boxes, 1)
    return numbers[..., :4].relu() * places.strides[:, None], numbers[..., 4]


def boxes_at(places: Tensor, sides: Tensor) -> Tensor:
    """(..., 2) points and (..., 4) distances to left, top, right, bottom -> (..., 4) boxes."""
    return torch.cat((places - sides[..., :2], places + sides[..., 2:]), -1)


def centerness_of(boxes: Tensor, places: Tensor) -> Tensor:
    """Boxes (..., 4), points (..., 2) -> (...): centerness target, 1 at the center of a box, 0 on its border."""
    left, top = (places - boxes[..., :2]).unbind(-1)
    right, bottom = (boxes[..., 2:] - places).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).clamp(min=0).sqrt()
