"""EfficientDet: BiFPN and compound scaling, d0 to d7.

Tan, Pang, Le, "EfficientDet: Scalable and Efficient Object Detection", 2020.

    image -> backbone -> BiFPN -> per level: two towers of separable convolutions -> scores and offsets of nine anchors

The towers' convolutions are shared by all levels; batch norm is separate per level.
Shape letters: B images, P anchors over all levels, K classes, N boxes of one image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.dense.anchors import around_places, as_offsets, from_offsets
from detection.parts.dense.assign import overlaps_each
from detection.parts.dense.bifpn import LEVELS, BiFPN, norm, separable
from detection.parts.dense.focal import IGNORED, NOTHING, focal_losses
from detection.parts.dense.objects import Objects, padded
from detection.parts.dense.post import best_boxes
from detection.parts.known import hidden, unknown_of
from detection.types import Detections, Images, Target
from shared.errors import UsageError
from shared.recipes.values import Count, Layers, Probability, Scale, Weight, Width

OCTAVES = (2 ** (0 / 3), 2 ** (1 / 3), 2 ** (2 / 3))
ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # across, down
COMPOUND: dict[str, dict[str, Any]] = {
    "efficientdet_d0": {"size": (512, 512), "width": 64, "cells": 3, "depth": 3},
    "efficientdet_d1": {"size": (640, 640), "width": 88, "cells": 4, "depth": 3},
    "efficientdet_d2": {"size": (768, 768), "width": 112, "cells": 5, "depth": 3},
    "efficientdet_d3": {"size": (896, 896), "width": 160, "cells": 6, "depth": 4},
    "efficientdet_d4": {"size": (1024, 1024), "width": 224, "cells": 7, "depth": 4},
    "efficientdet_d5": {"size": (1280, 1280), "width": 288, "cells": 7, "depth": 4},
    "efficientdet_d6": {"size": (1280, 1280), "width": 384, "cells": 8, "depth": 5, "weighted": False},
    "efficientdet_d7": {
        "size": (1536, 1536),
        "width": 384,
        "cells": 8,
        "depth": 5,
        "weighted": False,
        "anchor_scale": 5.0,
    },
}
TRAINED = {
    "by": "its paper, at half the rate",
    "opt": "sgd",
    "lr": 0.08,
    "lr_batch": 128,
    "wd": 4e-5,
    "clip_grad_norm": 10,
    "lr_scheduler": "cosine",
    "epochs": 300,
    "warmup_epochs": 10,
    "aug_type": "lsj",
}


@detector.variants(COMPOUND, tiny={"width": 32, "cells": 1, "depth": 1}, trained=TRAINED)
class EfficientDet(Detector):
    """
    Args:
        backbone: any with maps of strides 8, 16 and 32, or a plain ViT.
        num_classes: K, without background.
        width: channels of the pyramid and the towers.
        cells: number of BiFPN layers.
        depth: convolutions per tower.
        weighted: learned fusion weights; d6 and d7 are more stable without.
        anchor_scale: side of the smallest square anchor, in strides of its level.
        positive_iou: anchors with at least this IoU with a box are positive.
        negative_iou: anchors with less IoU are negative; those up to `positive_iou` are ignored.
        box_weight: weight of the box loss.
        min_score: detections with this score or less are dropped.
        nms_iou: IoU threshold of NMS, per class.
        candidates: best pairs of anchor and class before NMS.
        max_detections: per image.
    """

    graphs = ("losses",)

    multiple = 128  # so that every level has exactly half the size of the finer one

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: Width = 64,
        cells: Layers = 3,
        depth: Layers = 3,
        weighted: bool = True,
        anchor_scale: Scale = 4.0,
        positive_iou: Probability = 0.5,
        negative_iou: Probability = 0.5,
        box_weight: Weight = 50.0,
        min_score: Probability = 0.001,
        nms_iou: Probability = 0.5,
        candidates: Count = 5000,
        max_detections: Count = 100,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = BiFPN(backbone, width, cells, weighted=weighted)
        self.used_maps = self.neck.used
        each = len(OCTAVES) * len(ASPECTS)
        self.class_net = Tower(width, depth, each, num_classes)
        self.box_net = Tower(width, depth, each, 4)
        nn.init.constant_(self.class_net.last_bias, -math.log(99))  # initial class scores of 1 %
        self.anchor_scale, self.positive_iou, self.negative_iou = anchor_scale, positive_iou, negative_iou
        self.box_weight, self.min_score, self.nms_iou = box_weight, min_score, nms_iou
        self.candidates, self.max_detections = candidates, max_detections
        half = torch.tensor([(octave * x, octave * y) for octave in OCTAVES for x, y in ASPECTS]) * anchor_scale / 2
        self.register_buffer("around", torch.cat((-half, half), 1), persistent=False)

    around: Tensor  # (9, 4) the anchors of a cell, in strides

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        coarsest = len(images.pixels) * math.prod(-(-n // self.multiple) for n in images.pixels.shape[-2:])
        if self.training and coarsest < 2:
            raise UsageError(
                f"efficientdet: one image of {self.multiple} pixels is a single cell on the coarsest level, and batch "
                f"norm needs more than one value; use larger images, or more than one"
            )
        return self.losses(images.pixels, padded(targets), unknown_of(targets))

    def losses(self, pixels: Tensor, objects: Objects, unknown: Tensor | None) -> dict[str, Tensor]:
        """Focal loss of classes and Huber loss of boxes, divided by the positive anchors of the batch."""
        scores, offsets, anchors = self.predict(pixels)
        labels, boxes = objects.of(self.assign(objects, anchors))
        found = (labels >= 0)[..., None]
        scores = hidden(scores, labels < 0, unknown)
        count = found.sum() + 1  # never 0
        # anchors without a box get themselves, at no loss
        goals = as_offsets(boxes.where(found, anchors), anchors)
        distance = F.huber_loss(offsets.where(found, 0.0), goals, reduction="sum", delta=0.1)
        return {
            "classification": focal_losses(scores, labels, gamma=1.5).sum() / count,
            "boxes": self.box_weight * distance / (4 * count),
        }

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        scores, offsets, anchors = self.predict(images.pixels)
        return [
            best_boxes(
                [score.sigmoid()],
                [from_offsets(offset, anchors)],
                size,
                min_score=self.min_score,
                nms_iou=self.nms_iou,
                per_level=self.candidates,
                most=self.max_detections,
            )
            for score, offset, size in zip(scores, offsets, images.sizes, strict=True)
        ]

    def class_head(self) -> list[nn.Module]:
        return [self.class_net]

    def predict(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> logits (B, P, K), offsets of the boxes from their anchors (B, P, 4), anchors (P, 4)"""
        maps = self.neck(self.backbone.forward_features(pixels))
        return self.class_net(maps).float(), self.box_net(maps).float(), self.anchors(maps)

    def anchors(self, maps: list[Tensor]) -> Tensor:
        """(P, 4): nine anchors around the center of each cell of each level, in the order of the towers' outputs."""
        return torch.cat(
            [
                around_places(self.around * info.stride, level.shape[-2:], (info.stride, info.stride), 0.5)
                for level, info in zip(maps, self.neck.maps, strict=True)
            ]
        )

    def assign(self, objects: Objects, anchors: Tensor) -> Tensor:
        """Objects, anchors (P, 4) -> (B, P): the box assigned to each anchor, or NOTHING or IGNORED.

        Each anchor gets the box with the highest IoU, if it is high enough; each box gets at least its best anchor.
        """
        seen, most = overlaps_each(objects, anchors), objects.boxes.shape[1]
        numbers = torch.arange(most, device=anchors.device)
        forced = torch.full_like(seen.which, most)  # an anchor that is best for several boxes is assigned to the first
        forced.scatter_reduce_(1, seen.best_of, torch.where(objects.there, numbers, most), "amin")
        enough = seen.which.masked_fill(seen.most < self.positive_iou, IGNORED)
        enough = enough.masked_fill(seen.most < self.negative_iou, NOTHING)
        return torch.where(forced < most, forced, enough)


class Tower(nn.Module):
    """Maps of all levels -> (B, P, out): `depth` separable convolutions, then `out` values per anchor."""

    def __init__(self, width: int, depth: int, anchors: int, out: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(separable(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.ModuleList(norm(width) for _ in range(LEVELS)) for _ in range(depth))
        self.last = separable(width, anchors * out, bias=True)
        self.out = out
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        nn.init.zeros_(self.last_bias)

    @property
    def last_bias(self) -> Tensor:
        return self.last[1].bias  # type: ignore[return-value]

    def forward(self, maps: list[Tensor]) -> Tensor:
        outputs = []
        for level, x in enumerate(maps):
            for conv, norms in zip(self.convs, self.norms, strict=True):
                x = F.silu(norms[level](conv(x)))  # type: ignore[index]
            outputs.append(self.last(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.out))
        return torch.cat(outputs, 1)
