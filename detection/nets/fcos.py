"""FCOS: every place of a feature pyramid says what is there and how far its four sides are.

Tian, Shen, Chen, He, "FCOS: Fully Convolutional One-Stage Object Detection", 2019.

    image -> backbone -> FPN -> per level: two conv towers -> scores, side distances, centerness

The heads are torchvision's, and losses and targets are equal to its own.
Shape letters: B images, P places over all levels, K classes, N boxes of one image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.necks import build_pyramid
from detection.parts.post import best_boxes
from detection.types import Detections, Images, Target
from shared.errors import UsageError


class Places(NamedTuple):
    """Where the places of all levels are, in pixels, and what each level is for."""

    centers: Tensor  # (P, 2)
    strides: Tensor  # (P,)
    low: Tensor  # (P,) boxes whose farthest side is nearer than this belong to a finer level
    high: Tensor  # (P,)
    counts: list[int]  # places per level


@detector("fcos", tiny={"width": 32, "depth": 2})
class FCOS(Detector):
    """
    Args:
        backbone: anything with maps of stride 8 to 32, or a plain ViT.
        num_classes: K, without background.
        width: channels of the pyramid and the towers.
        depth: convolutions per tower.
        center_radius: a place answers for a box when it lies within this many strides of its middle.
        min_score: detections that score no more are left out.
        nms_iou: overlap at which the lesser of two boxes of a class goes.
        max_detections: kept per image.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 256,
        depth: int = 4,
        center_radius: float = 1.5,
        min_score: float = 0.05,
        nms_iou: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        if width % 32:
            raise UsageError(f"fcos: width is {width}; its towers normalise 32 groups, give a multiple of 32")
        self.backbone = backbone
        self.neck = build_pyramid(backbone, width, finest=8, coarser="convs")
        self.used_maps = self.neck.used
        self.head = FCOSHead(width, num_anchors=1, num_classes=num_classes, num_convs=depth)
        self.center_radius = center_radius
        self.min_score, self.nms_iou, self.max_detections = min_score, nms_iou, max_detections

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss of the classes, GIoU of the boxes, cross-entropy of the centerness; each per positive place."""
        scores, sides, centerness, places = self.predict(images)
        labels, boxes = (torch.stack(t) for t in zip(*(self.assign(t, places) for t in targets), strict=True))
        found = labels >= 0
        count = found.sum().clamp(min=1)
        wanted = torch.zeros_like(scores)
        wanted[found, labels[found]] = 1.0
        centers = places.centers.expand(len(targets), -1, -1)[found]
        overlap = generalized_box_iou_loss(boxes_at(centers, sides[found]), boxes[found], reduction="sum")
        goal = centerness_of(boxes[found], centers)
        return {
            "classification": sigmoid_focal_loss(scores, wanted, reduction="sum") / count,
            "boxes": overlap / count,
            "centerness": F.binary_cross_entropy_with_logits(centerness[found], goal, reduction="sum") / count,
        }

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        scores, sides, centerness, places = self.predict(images)
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

    def predict(self, images: Images) -> tuple[Tensor, Tensor, Tensor, Places]:
        """-> logits of classes (B, P, K), sides in pixels (B, P, 4), logits of centerness (B, P), places"""
        maps = self.neck(self.backbone.forward_features(images.pixels))
        out = self.head(maps)
        places = self.places([m.shape[-2:] for m in maps], images.pixels)
        sides = out["bbox_regression"].float() * places.strides[:, None]
        return out["cls_logits"].float(), sides, out["bbox_ctrness"].float().squeeze(-1), places

    def places(self, shapes: list[torch.Size], pixels: Tensor) -> Places:
        """Each place stands at a multiple of its own stride, as torchvision's anchors do."""
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

    def assign(self, target: Target, places: Places) -> tuple[Tensor, Tensor]:
        """Which box each place answers for: labels (P,), -1 for none, and boxes (P, 4).

        A place answers for the smallest box whose middle it is near and whose size suits its level.
        """
        boxes = target["boxes"]
        if len(boxes) == 0:
            return places.strides.new_full(places.strides.shape, -1).long(), boxes.new_zeros(len(places.strides), 4)
        middle_PN2 = (boxes[:, :2] + boxes[:, 2:]) / 2 - places.centers[:, None]
        near = middle_PN2.abs().amax(-1) < self.center_radius * places.strides[:, None]
        sides_PN4 = torch.cat((places.centers[:, None] - boxes[:, :2], boxes[:, 2:] - places.centers[:, None]), -1)
        inside, reach = sides_PN4.amin(-1) > 0, sides_PN4.amax(-1)
        suits = (reach > places.low[:, None]) & (reach < places.high[:, None])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).expand(len(near), -1)
        smallest, which = area.masked_fill(~(near & inside & suits), float("inf")).min(1)
        return target["labels"][which].masked_fill(smallest == float("inf"), -1), boxes[which]


def boxes_at(places: Tensor, sides: Tensor) -> Tensor:
    """(..., 2) places and (..., 4) distances to left, top, right, bottom -> (..., 4) boxes."""
    return torch.cat((places - sides[..., :2], places + sides[..., 2:]), -1)


def centerness_of(boxes: Tensor, places: Tensor) -> Tensor:
    """1 in the middle of a box, 0 on its border."""
    left, top = (places - boxes[:, :2]).unbind(-1)
    right, bottom = (boxes[:, 2:] - places).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).clamp(min=0).sqrt()
