"""The R-CNN family: propose boxes, look inside each, say what it is and where exactly.

Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015,
on a feature pyramid (Lin et al., 2017); He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017;
Li, Mao, Girshick, He, "Exploring Plain Vision Transformer Backbones for Object Detection", 2022.

    image -> backbone -> pyramid -> RPN -> boxes -> RoIAlign -> two layers                        -> class, box
    mask_rcnn                           -> boxes -> RoIAlign -> four convolutions, twice up       -> mask of the class
    keypoint_rcnn                       -> boxes -> RoIAlign -> eight convolutions, four times up -> keypoints
    vitdet, vitdet_mask          two convolutions propose; four, normalized over channels, and a layer look at a box
    faster_rcnn_v2, mask_rcnn_v2 the same with batch norm, in the pyramid too: torchvision's second versions

The stages are torchvision's; this page decides what they stand on and how they are set. A plain ViT's one map is made a
pyramid at the very end: x4, x2, x1, /2. Its windows and positions are the backbone's affair (`vit_det_m16_rms`).
The second versions are those of Li, Xie, Chen, Dollar, He, Girshick, "Benchmarking Detection Transfer Learning with
Vision Transformers", 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.dense.necks import build_pyramid, channel_norm
from detection.parts.roi.keypoint_head import add_keypoint_head, keypoint_loss, with_keypoints
from detection.parts.roi.mask_head import add_mask_head, mask_loss, with_masks
from detection.parts.roi.rcnn import SEEN, build_roi_heads, build_rpn, find, learn
from detection.types import Detections, Images, Target

TINY = {"width": 32, "hidden": 64}


def two_layers(width: int, hidden: int) -> nn.Module:
    """Boxes (R, width, 7, 7) -> (R, hidden)"""
    return TwoMLPHead(width * SEEN**2, hidden)


def convolutions_and_a_layer(width: int, hidden: int, *, depth: int, norm: Callable[..., nn.Module]) -> nn.Module:
    """Boxes (R, width, 7, 7) -> (R, hidden)"""
    return FastRCNNConvFCHead((width, SEEN, SEEN), [width] * depth, [hidden], norm_layer=norm)


@detector("faster_rcnn", tiny=TINY)
class RCNN(Detector):
    """Faster R-CNN: boxes are proposed, then each is looked into. The others of the family stand on it.

    Args:
        backbone: anything with a pyramid's maps, or a plain ViT.
        num_classes: without background.
        box_head: makes what looks at each box, of the two widths below.
        rpn_convs: convolutions before the scores of proposals.
        pyramid_norm: makes the norm after each convolution of a pyramid over several maps.
        width: channels of the pyramid.
        hidden: width of the layers that look at each box.
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
        box_head: Callable[[int, int], nn.Module] = two_layers,
        rpn_convs: int = 1,
        pyramid_norm: Callable[..., nn.Module] | None = None,
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
        self.neck = build_pyramid(backbone, width, finest=4, coarser="pool", norm=pyramid_norm)
        self.used_maps = self.neck.used
        self.rpn = build_rpn(
            self.neck.maps,
            convs=rpn_convs,
            all_sizes=rpn_all_sizes,
            min_score=rpn_min_score,
            candidates=rpn_candidates,
            proposals=rpn_proposals,
        )
        self.roi_heads = build_roi_heads(
            self.neck.maps,
            box_head(width, hidden),
            hidden,
            num_classes,
            min_score=min_score,
            nms_iou=nms_iou,
            max_detections=max_detections,
        )

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of both stages, and of masks and keypoints where they are looked for."""
        maps = self.maps(images)
        losses, matched = learn(self.rpn, self.roi_heads, maps, images, targets)
        if self.roi_heads.has_mask():
            losses["loss_mask"] = mask_loss(self.roi_heads, maps, images, matched, targets)
        if self.roi_heads.has_keypoint():
            losses["loss_keypoint"] = keypoint_loss(self.roi_heads, maps, images, matched, targets)
        return losses

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        maps = self.maps(images)
        found = find(self.rpn, self.roi_heads, maps, images)
        if self.roi_heads.has_mask():
            found = with_masks(self.roi_heads, maps, images, found)
        if self.roi_heads.has_keypoint():
            found = with_keypoints(self.roi_heads, maps, images, found)
        return found

    def maps(self, images: Images) -> list[Tensor]:
        return self.neck(self.backbone.forward_features(images.pixels))

    def class_head(self) -> list[nn.Module]:
        masks: Any = self.roi_heads.mask_predictor
        return [self.roi_heads.box_predictor, *([masks.mask_fcn_logits] if self.roi_heads.has_mask() else [])]


@detector("mask_rcnn", like="faster_rcnn", finds=("masks",), tiny={**TINY, "mask_width": 32, "mask_depth": 1})
def mask_rcnn(
    backbone: Backbone, num_classes: int, *, mask_width: int = 256, mask_depth: int = 4, **options: Any
) -> RCNN:
    """Mask R-CNN: Faster R-CNN, and a mask for each box that holds something.

    The mask does not compete with other classes' masks: it is asked of the class that the box has.

    Args:
        mask_width: channels of the convolutions that make masks.
        mask_depth: how many of these there are.
        options: of `faster_rcnn`.
    """
    net = RCNN(backbone, num_classes, **options)
    add_mask_head(net.roi_heads, net.neck.maps, num_classes, width=mask_width, depth=mask_depth)
    return net


@detector(
    "keypoint_rcnn",
    like="faster_rcnn",
    finds=("keypoints",),
    tiny={**TINY, "keypoint_width": 32, "keypoint_depth": 1},
)
def keypoint_rcnn(
    backbone: Backbone,
    num_classes: int,
    *,
    num_keypoints: int = 17,
    keypoint_width: int = 512,
    keypoint_depth: int = 8,
    **options: Any,
) -> RCNN:
    """Keypoint R-CNN: Faster R-CNN, and for each box the places of an object's parts.

    A keypoint is a mask of one cell (section 5 of Mask R-CNN's paper).

    Args:
        num_keypoints: of each object.
        keypoint_width: channels of the convolutions that look for keypoints.
        keypoint_depth: how many of these there are.
        options: of `faster_rcnn`.
    """
    net = RCNN(backbone, num_classes, **options)
    add_keypoint_head(net.roi_heads, net.neck.maps, num_keypoints, width=keypoint_width, depth=keypoint_depth)
    return net


@detector("vitdet", like="faster_rcnn", tiny={**TINY, "depth": 1})
def vitdet(backbone: Backbone, num_classes: int, *, depth: int = 4, **options: Any) -> RCNN:
    """ViTDet: a plain vision transformer can carry a detector, if its one map is made a pyramid at the very end.

    Args:
        depth: how many convolutions look at each box.
        options: of `faster_rcnn`.
    """
    return RCNN(backbone, num_classes, partial(convolutions_and_a_layer, depth=depth, norm=channel_norm), 2, **options)


@detector("vitdet_mask", like="vitdet", finds=("masks",), tiny={**TINY, "depth": 1})
def vitdet_mask(backbone: Backbone, num_classes: int, *, depth: int = 4, **options: Any) -> RCNN:
    """ViTDet with masks: as many convolutions, of the same width, make the mask of each box.

    Args:
        depth: how many convolutions look at each box, and as many make its mask.
        options: of `faster_rcnn`.
    """
    net = vitdet(backbone, num_classes, depth=depth, **options)
    width = net.neck.maps[0].channels
    add_mask_head(net.roi_heads, net.neck.maps, num_classes, width=width, depth=depth, norm=channel_norm)
    return net


@detector("faster_rcnn_v2", like="faster_rcnn", tiny={**TINY, "depth": 1})
def faster_rcnn_v2(backbone: Backbone, num_classes: int, *, depth: int = 4, **options: Any) -> RCNN:
    """Faster R-CNN, second version: heads as deep as ViTDet's, with batch norm there and in the pyramid.

    Batch norm wants many images: --sync-bn where a process has two, or a published file to start from.

    Args:
        depth: how many convolutions look at each box.
        options: of `faster_rcnn`.
    """
    box_head = partial(convolutions_and_a_layer, depth=depth, norm=nn.BatchNorm2d)
    return RCNN(backbone, num_classes, box_head, 2, nn.BatchNorm2d, **options)


@detector("mask_rcnn_v2", like="faster_rcnn_v2", finds=("masks",), tiny={**TINY, "depth": 1, "mask_width": 32})
def mask_rcnn_v2(
    backbone: Backbone, num_classes: int, *, mask_width: int = 256, mask_depth: int = 4, depth: int = 4, **options: Any
) -> RCNN:
    """Mask R-CNN, second version: Faster R-CNN's second, and convolutions with batch norm make the masks.

    Args:
        mask_width: channels of the convolutions that make masks.
        mask_depth: how many of these there are.
        depth: how many convolutions look at each box.
        options: of `faster_rcnn`.
    """
    net = faster_rcnn_v2(backbone, num_classes, depth=depth, **options)
    width, norm = mask_width, nn.BatchNorm2d
    add_mask_head(net.roi_heads, net.neck.maps, num_classes, width=width, depth=mask_depth, norm=norm)
    return net
