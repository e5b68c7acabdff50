"""RetinaNet: dense detection with nine anchors per cell and focal loss.

Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017. The default, with
group norm in the towers and GIoU loss, is the stronger baseline of Zhang, Chi, Yao, Lei, Li, "Bridging the Gap Between
Anchor-based and Anchor-free Detection", 2019, which is also torchvision's second version.

    image -> backbone -> FPN -> per level: two towers of four convolutions -> scores, offsets of 9 anchors per cell

The heads are torchvision's, and losses and detections are equal to its own in both versions.
Shape letters: B images, P anchors over all levels, K classes.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetHead

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.dense.anchors import Anchors, as_offsets, from_offsets
from detection.parts.dense.assign import by_overlap_each
from detection.parts.dense.boxes import giou_losses
from detection.parts.dense.focal import focal_losses
from detection.parts.dense.necks import build_pyramid
from detection.parts.dense.objects import Objects, padded
from detection.parts.dense.post import best_boxes
from detection.parts.known import hidden, unknown_of
from detection.types import Detections, Images, Target
from shared.errors import UsageError
from shared.recipes.values import Count, Probability, Width


class Predictions(NamedTuple):
    scores: Tensor  # (B, P, K) logits
    offsets: Tensor  # (B, P, 4)
    anchors: Tensor  # (P, 4)
    counts: list[int]  # anchors per level


TRAINED = {
    "by": "torchvision's reference of its second version, whose heads these are",
    "opt": "adamw",
    "lr": 1e-4,
    "lr_batch": 16,
    "wd": 0.05,
    "norm_wd": 0,
    "lr_scheduler": "multistep",
    "lr_steps": (16, 22),
    "epochs": 26,
    "warmup_steps": 1000,
    "warmup_epochs": 1,
    "warmup_start": 0.001,
    "aug_type": "multiscale",
}


@detector("retinanet", tiny={"width": 64}, trained=TRAINED)
class RetinaNet(Detector):
    """
    Args:
        backbone: any with maps of strides 8 to 32, or a plain ViT.
        num_classes: K, without background.
        width: channels of the pyramid and the towers.
        norm: group norm after each convolution of the towers, or none as in the first paper.
        box_loss: giou of the boxes, or l1 of the offsets as in torchvision's first version.
        p6_from: input of the two coarsest levels: the pyramid's p5, or the backbone's c5 as in the first paper
            and torchvision's second version.
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
        norm: Literal["group", "none"] = "group",
        box_loss: Literal["giou", "l1"] = "giou",
        p6_from: Literal["p5", "c5"] = "p5",
        min_score: Probability = 0.05,
        nms_iou: Probability = 0.5,
        max_detections: Count = 300,
    ) -> None:
        super().__init__()
        if norm == "group" and width % 64:  # group norm over a single value has no variance
            raise UsageError(
                f"retinanet: width is {width}; its towers use group norm with 32 groups, give a multiple of 64"
            )
        self.backbone = backbone
        coarser = "convs of c5" if p6_from == "c5" else "convs"
        self.neck = build_pyramid(backbone, width, finest=8, coarser=coarser)
        self.used_maps = self.neck.used
        octave = [1, 2 ** (1 / 3), 2 ** (2 / 3)]
        self.anchors = Anchors([[int(info.stride * 4 * part) for part in octave] for info in self.neck.maps])
        normalized = partial(nn.GroupNorm, 32) if norm == "group" else None
        self.head = RetinaNetHead(width, self.anchors.per_place, num_classes, norm_layer=normalized)
        self.box_loss = box_loss
        self.min_score, self.nms_iou, self.max_detections = min_score, nms_iou, max_detections

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        return self.losses(images.pixels, padded(targets), unknown_of(targets))

    def losses(self, pixels: Tensor, objects: Objects, unknown: Tensor | None) -> dict[str, Tensor]:
        """Focal loss of classes and box loss, divided by the positive anchors of an image; mean over images."""
        found = self.predict(pixels)
        which = by_overlap_each(objects, found.anchors, high=0.5, low=0.4)
        labels, boxes = objects.of(which)
        positive = which >= 0
        count = positive.sum(1).clamp(min=1)
        scores = hidden(found.scores, ~positive, unknown)
        return {
            "classification": (focal_losses(scores, labels).sum(1) / count).mean(),
            "boxes": (self.distance(found, boxes, positive).sum(1) / count).mean(),
        }

    def distance(self, found: Predictions, wanted: Tensor, positive: Tensor) -> Tensor:
        """Predictions, assigned boxes (B, P, 4), which anchors have one (B, P) -> (B, P) box losses, else 0"""
        # all other anchors get themselves, whatever the network predicts there
        offsets = found.offsets.where(positive[..., None], 0.0)
        wanted = wanted.where(positive[..., None], found.anchors)
        if self.box_loss == "l1":
            return (offsets - as_offsets(wanted, found.anchors)).abs().sum(-1)
        return giou_losses(from_offsets(offsets, found.anchors), wanted) * positive

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        found = self.predict(images.pixels)
        boxes = from_offsets(found.offsets, found.anchors)
        return [
            best_boxes(
                list(s.split(found.counts)),
                list(b.split(found.counts)),
                size,
                min_score=self.min_score,
                nms_iou=self.nms_iou,
                most=self.max_detections,
            )
            for s, b, size in zip(found.scores.sigmoid(), boxes, images.sizes, strict=True)
        ]

    def class_head(self) -> list[nn.Module]:
        return [self.head.classification_head]

    def predict(self, pixels: Tensor) -> Predictions:
        maps = self.neck(self.backbone.forward_features(pixels))
        out = self.head(maps)
        anchors = self.anchors([m.shape[-2:] for m in maps], pixels.shape[-2:])
        scores, offsets = out["cls_logits"].float(), out["bbox_regression"].float()
        return Predictions(scores, offsets, torch.cat(anchors), [len(a) for a in anchors])
