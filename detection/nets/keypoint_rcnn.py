"""Keypoint R-CNN: Faster R-CNN, and for each box the places of an object's parts.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017, section 5: a keypoint is a mask of one cell.

    image -> backbone -> FPN -> RPN -> boxes -> RoIAlign -> two layers                           -> class, box
                                    -> boxes -> RoIAlign -> eight convolutions -> four times up  -> keypoints
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.keypoint_head import add_keypoint_head, keypoint_loss, with_keypoints
from detection.parts.necks import build_pyramid
from detection.parts.rcnn import SEEN, build_roi_heads, build_rpn, find, learn
from detection.types import Detections, Images, Target


@detector(
    "keypoint_rcnn", finds=("keypoints",), tiny={"width": 32, "hidden": 64, "keypoint_width": 32, "keypoint_depth": 1}
)
class KeypointRCNN(Detector):
    """
    Args:
        backbone: anything with a pyramid's maps, or a plain ViT.
        num_classes: without background.
        num_keypoints: of each object.
        width: channels of the pyramid.
        hidden: width of the two layers that look at each box.
        keypoint_width: channels of the convolutions that look for keypoints.
        keypoint_depth: how many of these there are.
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
        num_keypoints: int = 17,
        width: int = 256,
        hidden: int = 1024,
        keypoint_width: int = 512,
        keypoint_depth: int = 8,
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
        add_keypoint_head(self.roi_heads, self.neck.maps, num_keypoints, width=keypoint_width, depth=keypoint_depth)

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of both stages, and of the keypoints."""
        maps = self.maps(images)
        losses, matched = learn(self.rpn, self.roi_heads, maps, images, targets)
        return {**losses, "loss_keypoint": keypoint_loss(self.roi_heads, maps, images, matched, targets)}

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        maps = self.maps(images)
        return with_keypoints(self.roi_heads, maps, images, find(self.rpn, self.roi_heads, maps, images))

    def maps(self, images: Images) -> list[Tensor]:
        return self.neck(self.backbone.forward_features(images.pixels))

    def class_head(self) -> list[nn.Module]:
        return [self.roi_heads.box_predictor]
