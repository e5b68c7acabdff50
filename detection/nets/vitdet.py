"""ViTDet: a plain vision transformer can carry a detector, if its one map is made a pyramid at the very end.

Li, Mao, Girshick, He, "Exploring Plain Vision Transformer Backbones for Object Detection", 2022.

    image -> ViT -> simple pyramid: x4, x2, x1, /2, pooled
          -> RPN of two convolutions -> boxes -> RoIAlign -> four convolutions, one layer -> class, box

It is Faster R-CNN with stronger heads, whose convolutions are normalised over their channels. Windows and positions
are the backbone's affair (`vit_det_m16_rms`, `vit_sam_b16`); one that has a pyramid already gets an FPN on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.necks import build_pyramid, channel_norm
from detection.parts.rcnn import SEEN, build_roi_heads, build_rpn, two_stages
from detection.types import Detections, Images, Target


@detector("vitdet", tiny={"width": 32, "depth": 1, "hidden": 64})
class ViTDet(Detector):
    """
    Args:
        backbone: a plain ViT, or anything with a pyramid's maps.
        num_classes: without background.
        width: channels of the pyramid and of the convolutions that look at each box.
        depth: how many of these there are.
        hidden: width of the layer after them.
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
        hidden: int = 1024,
        min_score: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = build_pyramid(backbone, width, finest=4, coarser="pool")
        self.used_maps = self.neck.used
        self.rpn = build_rpn(self.neck.maps, convs=2)
        self.roi_heads = build_roi_heads(
            self.neck.maps,
            FastRCNNConvFCHead((width, SEEN, SEEN), [width] * depth, [hidden], norm_layer=channel_norm),
            hidden,
            num_classes,
            min_score=min_score,
            nms_iou=nms_iou,
            max_detections=max_detections,
        )

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of both stages."""
        return two_stages(self.rpn, self.roi_heads, self.maps(images), images, targets)[1]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        return two_stages(self.rpn, self.roi_heads, self.maps(images), images, None)[0]

    def maps(self, images: Images) -> list[Tensor]:
        return self.neck(self.backbone.forward_features(images.pixels))

    def class_head(self) -> list[nn.Module]:
        return [self.roi_heads.box_predictor]
