"""RPN and RoI heads on a pyramid, shared by the R-CNN family.

    maps -> RPN -> proposals -> RoIAlign -> box head -> class, box

The modules are torchvision's, with the parameters of its Faster R-CNN. Class 0 is background, inside this module only.
Shape letters: R proposals, N objects of an image, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from backbones.base import MapInfo
from detection.parts.known import hidden
from detection.parts.roi.roi_align import PyramidRoIAlign
from detection.types import Detections, Images, Target

SEEN = 7  # output size of RoIAlign
SIZES = (32, 64, 128, 256, 512)  # pixels
RATIOS = (0.5, 1.0, 2.0)  # height over width


class Matched(NamedTuple):
    """Positive proposals and their objects; one entry per image."""

    boxes: list[Tensor]  # (R, 4)
    labels: list[Tensor]  # (R,) from 1, 0 is background
    objects: list[Tensor]  # (R,) index of the object


def build_rpn(
    maps: Sequence[MapInfo],
    *,
    convs: int = 1,
    all_sizes: bool = False,
    min_score: float = 0.0,
    candidates: int = 1000,
    proposals: int = 1000,
) -> RegionProposalNetwork:
    """The RPN: anchors of eight strides with three aspect ratios on every level.

    Args:
        convs: 3x3 convolutions of the head.
        all_sizes: anchors of all five sizes, 32 to 512 pixels, on every level.
        min_score: proposals with a lower score are dropped.
        candidates: proposals per level before NMS at inference; 2000 in training.
        proposals: proposals per image after NMS at inference; 2000 in training.
    """
    sizes = tuple(SIZES if all_sizes else (info.stride * 8,) for info in maps)
    anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
    return RegionProposalNetwork(
        anchors,
        RPNHead(maps[0].channels, len(sizes[0]) * len(RATIOS), convs),
        *(0.7, 0.3, 256, 0.5),
        {"training": 2000, "testing": candidates},
        {"training": 2000, "testing": proposals},
        0.7,
        min_score,
    )


def build_roi_heads(
    maps: Sequence[MapInfo],
    head: nn.Module,
    hidden: int,
    num_classes: int,
    *,
    min_score: float,
    nms_iou: float,
    max_detections: int,
) -> RoIHeads:
    """The RoI heads. RoIAlign uses all levels but the pooled one.

    Args:
        head: (boxes, width, 7, 7) -> (boxes, hidden).
        num_classes: without background.
    """
    return RoIHeads(
        PyramidRoIAlign(maps[:-1], SEEN),
        head,
        FastRCNNPredictor(hidden, num_classes + 1),
        *(0.5, 0.5, 512, 0.25, None),
        *(min_score, nms_iou, max_detections),
    )


def learn(
    rpn: RegionProposalNetwork, roi_heads: RoIHeads, maps: list[Tensor], images: Images, targets: list[Target]
) -> tuple[dict[str, Tensor], Matched]:
    """Losses of RPN and box head in training mode, and the positive proposals for mask and keypoint heads."""
    known = [{**target, "labels": target["labels"] + 1} for target in targets]
    features = by_name(maps)
    proposals, losses = rpn(ImageList(images.pixels, images.sizes), features, known)
    boxes, objects, labels, offsets = roi_heads.select_training_samples(proposals, known)
    scores, moved = look(roi_heads, features, boxes, images)
    rows = torch.cat([torch.full_like(label, image) for image, label in enumerate(labels)])
    scores = hidden(scores, torch.cat(labels) == 0, targets, background="first", image_of=rows)
    losses.update(box_losses(scores, moved, torch.cat(labels), torch.cat(offsets)))
    held = [label > 0 for label in labels]
    return losses, Matched(*([x[h] for x, h in zip(xs, held, strict=True)] for xs in (boxes, labels, objects)))


def find(rpn: RegionProposalNetwork, roi_heads: RoIHeads, maps: list[Tensor], images: Images) -> list[Detections]:
    """Detections of each image."""
    features = by_name(maps)
    proposals, _ = rpn(ImageList(images.pixels, images.sizes), features)
    scores, moved = look(roi_heads, features, proposals, images)
    found = roi_heads.postprocess_detections(scores, moved, proposals, images.sizes)
    return [Detections(boxes=b, labels=label - 1, scores=s) for b, s, label in zip(*found, strict=True)]


def proposed(rpn: RegionProposalNetwork, maps: list[Tensor], images: Images) -> list[Detections]:
    """The proposals of each image with their objectness, label 0; in evaluation mode."""
    scores, offsets = rpn.head(maps)
    anchors = rpn.anchor_generator(ImageList(images.pixels, images.sizes), maps)
    per_level = [score[0].numel() for score in scores]
    flat_scores, flat_offsets = concat_box_prediction_layers(scores, offsets)
    boxes = rpn.box_coder.decode(flat_offsets, anchors).view(len(anchors), -1, 4)
    found = zip(*rpn.filter_proposals(boxes, flat_scores, images.sizes, per_level), strict=True)
    return [Detections(boxes=b, labels=torch.zeros_like(s, dtype=torch.int64), scores=s) for b, s in found]


def look(
    roi_heads: RoIHeads, features: dict[str, Tensor], boxes: list[Tensor], images: Images
) -> tuple[Tensor, Tensor]:
    """-> class logits (R, K + 1), box offsets of each class (R, 4 K + 4)."""
    cut: Tensor = roi_heads.box_roi_pool(features, boxes, images.sizes)
    scores, moved = roi_heads.box_predictor(roi_heads.box_head(cut))
    return scores.float(), moved.float()


def box_losses(scores: Tensor, moved: Tensor, labels: Tensor, offsets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the class; smooth L1 loss of the offsets of the true class."""
    count = max(1, len(labels))
    held = (labels > 0).nonzero()[:, 0]
    of_class = moved.unflatten(1, (-1, 4))[held, labels[held]]
    return {
        "loss_classifier": F.cross_entropy(scores, labels, reduction="sum") / count,
        "loss_box_reg": F.smooth_l1_loss(of_class, offsets[held], reduction="sum", beta=1 / 9) / count,
    }


def by_name(maps: list[Tensor]) -> dict[str, Tensor]:
    """Maps by name, as torchvision's modules expect them."""
    return OrderedDict((str(level), x) for level, x in enumerate(maps))
