"""Faster R-CNN: propose boxes, look inside each, say what it is and where exactly.

Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015,
on a feature pyramid (Lin et al., 2017).

    image -> backbone -> FPN -> RPN -> boxes -> RoIAlign -> two layers -> class, box

The stages are torchvision's; this page decides what they stand on and how they are set.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.necks import build_pyramid
from detection.types import Detections, Images, Target


@detector("faster_rcnn", tiny={"width": 32, "hidden": 64})
class FasterRCNN(Detector):
    """
    Args:
        backbone: anything with a pyramid's maps, or a plain ViT.
        num_classes: without background.
        width: channels of the pyramid.
        hidden: width of the two layers that look at each box.
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
        hidden: int = 1024,
        min_score: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = build_pyramid(backbone, width, finest=4, coarser="pool")
        self.used_maps = self.neck.used
        sizes = tuple((info.stride * 8,) for info in self.neck.maps)
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        many, fewer = {"training": 2000, "testing": 1000}, {"training": 2000, "testing": 1000}
        self.rpn = RegionProposalNetwork(anchors, RPNHead(width, 3), 0.7, 0.3, 256, 0.5, many, fewer, 0.7)
        looked_at = [str(i) for i in range(len(sizes) - 1)]  # RoIs are cut from all levels but the pooled one
        self.roi_heads = RoIHeads(
            MultiScaleRoIAlign(looked_at, 7, 2),
            TwoMLPHead(width * 7 * 7, hidden),
            FastRCNNPredictor(hidden, num_classes + 1),
            *(0.5, 0.5, 512, 0.25, None),
            *(min_score, nms_iou, max_detections),
        )

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of both stages."""
        known = [
            {"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets
        ]  # torchvision keeps 0 for background
        _, losses = self.two_stages(images, known)
        return losses

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        found, _ = self.two_stages(images, None)
        return [{"boxes": d["boxes"], "labels": d["labels"] - 1, "scores": d["scores"]} for d in found]

    def two_stages(self, images: Images, targets: list[dict[str, Tensor]] | None) -> tuple[list, dict[str, Tensor]]:
        maps = self.neck(self.backbone.forward_features(images.pixels))
        features = OrderedDict((str(i), x) for i, x in enumerate(maps))
        listed = ImageList(images.pixels, images.sizes)
        proposals, first = self.rpn(listed, features, targets)
        found, second = self.roi_heads(features, proposals, images.sizes, targets)
        return found, {**first, **second}

    def class_head(self) -> list[nn.Module]:
        return [self.roi_heads.box_predictor]
