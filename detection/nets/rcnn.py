"""The R-CNN family: Faster, Mask and Keypoint R-CNN, ViTDet.

Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015,
on a feature pyramid (Lin et al., 2017); He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017;
Li, Mao, Girshick, He, "Exploring Plain Vision Transformer Backbones for Object Detection", 2022.

    image -> backbone -> pyramid -> RPN -> boxes -> RoIAlign -> two linear layers                 -> class, box
    mask_rcnn                           -> boxes -> RoIAlign -> four convolutions, twice up       -> mask of the class
    keypoint_rcnn                       -> boxes -> RoIAlign -> eight convolutions, four times up -> keypoints
    vitdet, vitdet_mask          RPN of two convolutions; box head of four convolutions with layer norm and one
    linear layer faster_rcnn_v2, mask_rcnn_v2 the same with batch norm, in the pyramid too: torchvision's second
    versions

RPN and RoI heads are torchvision's; this module sets their parameters. A plain ViT's single map is converted to a
pyramid at the end: x4, x2, x1, /2. Its windows and positions are part of the backbone (`vit_det_m16_rms`).
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
from detection.parts.roi.rcnn import SEEN, build_roi_heads, build_rpn, find, learn, proposed
from detection.types import Detections, Images, Target
from shared.recipes.values import Count, Layers, Probability, Width

TINY = {"width": 32, "hidden": 64}
TRAINED = {
    "by": "torchvision's reference",
    "opt": "sgd",
    "lr": 0.02,
    "lr_batch": 16,
    "wd": 1e-4,
    "lr_scheduler": "multistep",
    "lr_steps": (16, 22),
    "epochs": 26,
    "warmup_steps": 1000,
    "warmup_epochs": 1,
    "warmup_start": 0.001,
    "aug_type": "hflip",
}
PEOPLE = TRAINED | {"lr_steps": (36, 43), "epochs": 46, "multiscale": True, "smallest_side": 640}
VITDET = {
    "by": "ViTDet's paper, with a cosine schedule",
    "opt": "adamw",
    "lr": 1e-4,
    "lr_batch": 64,
    "wd": 0.1,
    "norm_wd": 0,
    "layer_decay": 0.7,
    "clip_grad_norm": 1,
    "lr_scheduler": "cosine",
    "lr_cosine_min": 1e-7,
    "epochs": 100,
    "warmup_epochs": 2,
    "aug_type": "lsj",
}


def two_layers(width: int, hidden: int) -> nn.Module:
    """Boxes (R, width, 7, 7) -> (R, hidden)"""
    return TwoMLPHead(width * SEEN**2, hidden)


def convolutions_and_a_layer(width: int, hidden: int, *, depth: int, norm: Callable[..., nn.Module]) -> nn.Module:
    """Boxes (R, width, 7, 7) -> (R, hidden)"""
    return FastRCNNConvFCHead((width, SEEN, SEEN), [width] * depth, [hidden], norm_layer=norm)


@detector("faster_rcnn", tiny=TINY, trained=TRAINED)
class RCNN(Detector):
    """Faster R-CNN: region proposals, then a box head. The base of the family.

    Args:
        backbone: any with maps of strides 4 to 32, or a plain ViT.
        num_classes: without background.
        box_head: builds the box head from the two widths below.
        rpn_convs: convolutions of the RPN head.
        pyramid_norm: builds the norm after each convolution of the FPN.
        width: channels of the pyramid.
        hidden: width of the box head's linear layers.
        min_score: detections with this score or less are dropped.
        nms_iou: IoU threshold of NMS, per class.
        max_detections: per image.
        rpn_min_score: proposals with a lower score are dropped.
        rpn_candidates: proposals per level before NMS, at inference.
        rpn_proposals: proposals per image after NMS, at inference.
        rpn_all_sizes: anchors of all five sizes, 32 to 512 pixels, on every level, instead of one size of eight
            strides.
    """

    graphs = (
        "maps",
        "rpn.head.forward",
        "roi_heads.box_head.forward",
        "roi_heads.mask_head.forward",
        "roi_heads.keypoint_head.forward",
    )

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        box_head: Callable[[int, int], nn.Module] = two_layers,
        rpn_convs: int = 1,
        pyramid_norm: Callable[..., nn.Module] | None = None,
        *,
        width: Width = 256,
        hidden: Width = 1024,
        min_score: Probability = 0.05,
        nms_iou: Probability = 0.5,
        max_detections: Count = 100,
        rpn_min_score: Probability = 0.0,
        rpn_candidates: Count = 1000,
        rpn_proposals: Count = 1000,
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
        """Losses of RPN and RoI heads."""
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

    @torch.no_grad()
    def propose(self, images: Images) -> list[Detections]:
        return proposed(self.rpn, self.maps(images), images)

    def maps(self, images: Images) -> list[Tensor]:
        return self.neck(self.backbone.forward_features(images.pixels))

    def class_head(self) -> list[nn.Module]:
        masks: Any = self.roi_heads.mask_predictor
        return [self.roi_heads.box_predictor, *([masks.mask_fcn_logits] if self.roi_heads.has_mask() else [])]


@detector("mask_rcnn", like="faster_rcnn", finds=("masks",), tiny={**TINY, "mask_width": 32, "mask_depth": 1})
def mask_rcnn(
    backbone: Backbone, num_classes: int, *, mask_width: Width = 256, mask_depth: Layers = 4, **options: Any
) -> RCNN:
    """Mask R-CNN: Faster R-CNN with a mask head.

    There is a mask per class, and the one of the box's class is used.

    Args:
        mask_width: channels of the mask head.
        mask_depth: number of its convolutions.
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
    trained=PEOPLE,
)
def keypoint_rcnn(
    backbone: Backbone,
    num_classes: int,
    *,
    num_keypoints: Count = 17,
    keypoint_width: Width = 512,
    keypoint_depth: Layers = 8,
    **options: Any,
) -> RCNN:
    """Keypoint R-CNN: Faster R-CNN with a keypoint head.

    A keypoint is a one-hot mask (section 5 of Mask R-CNN's paper).

    Args:
        num_keypoints: of each object.
        keypoint_width: channels of the keypoint head.
        keypoint_depth: number of its convolutions.
        options: of `faster_rcnn`.
    """
    net = RCNN(backbone, num_classes, **options)
    add_keypoint_head(net.roi_heads, net.neck.maps, num_keypoints, width=keypoint_width, depth=keypoint_depth)
    return net


@detector("vitdet", like="faster_rcnn", tiny={**TINY, "depth": 1}, trained=VITDET)
def vitdet(backbone: Backbone, num_classes: int, *, depth: Layers = 4, **options: Any) -> RCNN:
    """ViTDet: Faster R-CNN on a plain vision transformer with a simple feature pyramid.

    Args:
        depth: convolutions of the box head.
        options: of `faster_rcnn`.
    """
    return RCNN(backbone, num_classes, partial(convolutions_and_a_layer, depth=depth, norm=channel_norm), 2, **options)


@detector("vitdet_mask", like="vitdet", finds=("masks",), tiny={**TINY, "depth": 1})
def vitdet_mask(backbone: Backbone, num_classes: int, *, depth: Layers = 4, **options: Any) -> RCNN:
    """ViTDet with a mask head of the same depth and width as the box head.

    Args:
        depth: convolutions of the box head and of the mask head.
        options: of `faster_rcnn`.
    """
    net = vitdet(backbone, num_classes, depth=depth, **options)
    width = net.neck.maps[0].channels
    add_mask_head(net.roi_heads, net.neck.maps, num_classes, width=width, depth=depth, norm=channel_norm)
    return net


@detector("faster_rcnn_v2", like="faster_rcnn", tiny={**TINY, "depth": 1})
def faster_rcnn_v2(backbone: Backbone, num_classes: int, *, depth: Layers = 4, **options: Any) -> RCNN:
    """Faster R-CNN, torchvision's second version: heads as deep as ViTDet's, batch norm in heads and pyramid.

    Batch norm needs many images: use --sync-bn with few images per process, or start from a published checkpoint.

    Args:
        depth: convolutions of the box head.
        options: of `faster_rcnn`.
    """
    box_head = partial(convolutions_and_a_layer, depth=depth, norm=nn.BatchNorm2d)
    return RCNN(backbone, num_classes, box_head, 2, nn.BatchNorm2d, **options)


@detector("mask_rcnn_v2", like="faster_rcnn_v2", finds=("masks",), tiny={**TINY, "depth": 1, "mask_width": 32})
def mask_rcnn_v2(
    backbone: Backbone,
    num_classes: int,
    *,
    mask_width: Width = 256,
    mask_depth: Layers = 4,
    depth: Layers = 4,
    **options: Any,
) -> RCNN:
    """Mask R-CNN, torchvision's second version: `faster_rcnn_v2` with a mask head with batch norm.

    Args:
        mask_width: channels of the mask head.
        mask_depth: number of its convolutions.
        depth: convolutions of the box head.
        options: of `faster_rcnn`.
    """
    net = faster_rcnn_v2(backbone, num_classes, depth=depth, **options)
    width, norm = mask_width, nn.BatchNorm2d
    add_mask_head(net.roi_heads, net.neck.maps, num_classes, width=width, depth=mask_depth, norm=norm)
    return net
