"""ViTDet: a plain vision transformer can carry a detector, if its one map is made a pyramid at the very end.

Li, Mao, Girshick, He, "Exploring Plain Vision Transformer Backbones for Object Detection", 2022.

    image -> ViT -> simple pyramid: x4, x2, x1, /2, pooled
          -> RPN of two convolutions -> boxes -> RoIAlign -> four convolutions, one layer -> class, box
    vitdet_mask                      -> boxes -> RoIAlign -> four convolutions, twice up  -> mask of the class

It is Faster or Mask R-CNN with stronger heads, whose convolutions are normalised over their channels. Windows and
positions are the backbone's affair (`vit_det_m16_rms`, `vit_sam_b16`); one with a pyramid already gets an FPN on it.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.mask_head import add_mask_head, mask_loss, with_masks
from detection.parts.necks import build_pyramid, channel_norm
from detection.parts.rcnn import SEEN, build_roi_heads, build_rpn, find, learn
from detection.types import Detections, Images, Target

TINY = {"width": 32, "depth": 1, "hidden": 64}


@detector("vitdet", tiny=TINY)
class ViTDet(Detector):
    """
    Args:
        backbone: a plain ViT, or anything with a pyramid's maps.
        num_classes: without background.
        masks: whether it finds masks as well; `vitdet_mask`.
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
        masks: bool = False,
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
        self.masks = masks
        if masks:
            add_mask_head(self.roi_heads, self.neck.maps, num_classes, width=width, depth=depth, norm=channel_norm)

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of both stages, and of the masks."""
        maps = self.maps(images)
        losses, matched = learn(self.rpn, self.roi_heads, maps, images, targets)
        if self.masks:
            losses["loss_mask"] = mask_loss(self.roi_heads, maps, images, matched, targets)
        return losses

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        maps = self.maps(images)
        found = find(self.rpn, self.roi_heads, maps, images)
        return with_masks(self.roi_heads, maps, images, found) if self.masks else found

    def maps(self, images: Images) -> list[Tensor]:
        return self.neck(self.backbone.forward_features(images.pixels))

    def class_head(self) -> list[nn.Module]:
        predictor: Any = self.roi_heads.mask_predictor
        return [self.roi_heads.box_predictor, *([predictor.mask_fcn_logits] if self.masks else [])]


@detector("vitdet_mask", finds=("masks",), tiny=TINY)
@wraps(ViTDet, updated=())  # it has the same options
def vitdet_mask(backbone: Backbone, num_classes: int, **options: Any) -> Detector:
    return ViTDet(backbone, num_classes, True, **options)
