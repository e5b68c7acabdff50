"""Faster R-CNN: propose boxes, look inside each, say what it is and where exactly.

Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015,
on a feature pyramid (Lin et al., 2017).

    image -> backbone -> FPN -> RPN -> boxes -> RoIAlign -> two layers -> class, box

The stages are torchvision's; this page decides what they stand on and how they are set.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.necks import build_pyramid
from detection.parts.rcnn import SEEN, build_roi_heads, build_rpn, find, learn
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
        rpn_min_score: proposals that score less are left out.
        rpn_candidates: boxes of each level that proposals are chosen from when detecting.
        rpn_proposals: kept per image when detecting.
        rpn_all_sizes: every level proposes boxes of all five sizes, 32 to 512 pixels, instead of eight of its strides.
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
        rpn_min_score: float = 0.0,
        rpn_candidates: int = 1000,
        rpn_proposals: int = 1000,
        rpn_all_sizes: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = build_pyramid(backbone, width, finest=4, coarser="pool")
        self.used_maps = self.neck.used
        self.rpn = build_rpn(
            self.neck.maps,
            all_sizes=rpn_all_sizes,
            min_score=rpn_min_score,
            candidates=rpn_candidates,
            proposals=rpn_proposals,
        )
        self.roi_heads = build_roi_heads(
            self.neck.maps,
            TwoMLPHead(width * SEEN**2, hidden),
            hidden,
            num_classes,
            min_score=min_score,
            nms_iou=nms_iou,
            max_detections=max_detections,
        )

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of both stages."""
        return learn(self.rpn, self.roi_heads, self.maps(images), images, targets)[0]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        return find(self.rpn, self.roi_heads, self.maps(images), images)

    def maps(self, images: Images) -> list[Tensor]:
        return self.neck(self.backbone.forward_features(images.pixels))

    def class_head(self) -> list[nn.Module]:
        return [self.roi_heads.box_predictor]
