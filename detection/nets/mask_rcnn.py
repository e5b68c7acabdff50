"""Mask R-CNN: Faster R-CNN, and a mask for each box that holds something.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017.

    image -> backbone -> FPN -> RPN -> boxes -> RoIAlign -> two layers                     -> class, box
                                    -> boxes -> RoIAlign -> four convolutions -> twice up  -> mask of the class

The mask does not compete with other classes' masks: it is asked of the class that the box has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.mask_head import add_mask_head, mask_loss, with_masks
from detection.parts.necks import build_pyramid
from detection.parts.rcnn import SEEN, build_roi_heads, build_rpn, find, learn
from detection.types import Detections, Images, Target


@detector("mask_rcnn", finds=("masks",), tiny={"width": 32, "hidden": 64, "mask_width": 32, "mask_depth": 1})
class MaskRCNN(Detector):
    """
    Args:
        backbone: anything with a pyramid's maps, or a plain ViT.
        num_classes: without background.
        width: channels of the pyramid.
        hidden: width of the two layers that look at each box.
        mask_width: channels of the convolutions that make masks.
        mask_depth: how many of these there are.
        min_score: detections that score no more are left out.
        nms_iou: overlap at which the lesser of two boxes of a class goes.
        max_detections: kept per image.
        rpn_min_score: proposals that score less are left out.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 256,
        hidden: int = 1024,
        mask_width: int = 256,
        mask_depth: int = 4,
        min_score: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
        rpn_min_score: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = build_pyramid(backbone, width, finest=4, coarser="pool")
        self.used_maps = self.neck.used
        self.rpn = build_rpn(self.neck.maps, min_score=rpn_min_score)
        self.roi_heads = build_roi_heads(
            self.neck.maps,
            TwoMLPHead(width * SEEN**2, hidden),
            hidden,
            num_classes,
            min_score=min_score,
            nms_iou=nms_iou,
            max_detections=max_detections,
        )
        add_mask_head(self.roi_heads, self.neck.maps, num_classes, width=mask_width, depth=mask_depth)

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of both stages, and of the masks."""
        maps = self.maps(images)
        losses, matched = learn(self.rpn, self.roi_heads, maps, images, targets)
        return {**losses, "loss_mask": mask_loss(self.roi_heads, maps, images, matched, targets)}

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        maps = self.maps(images)
        return with_masks(self.roi_heads, maps, images, find(self.rpn, self.roi_heads, maps, images))

    def maps(self, images: Images) -> list[Tensor]:
        return self.neck(self.backbone.forward_features(images.pixels))

    def class_head(self) -> list[nn.Module]:
        predictor: Any = self.roi_heads.mask_predictor
        return [self.roi_heads.box_predictor, predictor.mask_fcn_logits]
