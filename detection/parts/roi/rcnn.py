"""RPN and RoI heads on a pyramid, shared by the R-CNN family.

    maps -> RPN -> proposals -> RoIAlign -> box head -> class, box

The modules are torchvision's, with the parameters of its Faster R-CNN, and so are losses and random draws; but all
images are done together. Class 0 is background, inside this module only.
Shape letters: B images, P anchors, M proposals of an image, R drawn regions of all images, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image

from backbones.base import MapInfo
from detection.parts.dense.anchors import Anchors, as_offsets, from_offsets
from detection.parts.dense.assign import by_overlap_each
from detection.parts.dense.focal import NOTHING
from detection.parts.dense.objects import Objects, padded
from detection.parts.fixed import above, best_after_nms, shapes_are_fixed
from detection.parts.known import hidden, unknown_of
from detection.parts.roi.draw import Drawn, draw
from detection.parts.roi.propose import NONE, propose
from detection.parts.roi.roi_align import PyramidRoIAlign
from detection.types import Detections, Images, Target
from shared.devices.device import sent

SEEN = 7  # output size of RoIAlign
SIZES = (32, 64, 128, 256, 512)  # pixels
RATIOS = (0.5, 1.0, 2.0)  # height over width
SMALLEST = 1e-2  # pixels: sides of torchvision's smallest detection


class Matched(NamedTuple):
    """Positive regions of all images, image by image, and their objects."""

    boxes: Tensor  # (R, 4)
    images: Tensor  # (R,) index of the image
    labels: Tensor  # (R,) from 1, 0 is background
    objects: Tensor  # (R,) index of the object in its image
    counts: list[int]  # how many each image has


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
    rpn = RegionProposalNetwork(
        AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        RPNHead(maps[0].channels, len(sizes[0]) * len(RATIOS), convs),
        *(0.7, 0.3, 256, 0.5),
        {"training": 2000, "testing": candidates},
        {"training": 2000, "testing": proposals},
        0.7,
        min_score,
    )
    rpn.anchors = Anchors(sizes, RATIOS)  # the generator's, which copies numbers to a GPU in every step
    return rpn


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
    """Losses of RPN and box head in training mode, and the positive regions for mask and keypoint heads."""
    objects = padded(targets)
    scores, offsets, anchors = predict(rpn, maps, images)
    losses = rpn_losses(rpn, torch.cat(scores, 1), torch.cat(offsets, 1), torch.cat(anchors), objects)
    with torch.no_grad():
        boxes, chances = propose(rpn, scores, offsets, anchors, images.sizes)
        # the objects are regions as well, so that there are positive ones from the first step on
        boxes, there = torch.cat((boxes, objects.boxes), 1), torch.cat((chances != NONE, objects.there), 1)
        which = assigned(roi_heads.proposal_matcher, objects, boxes, floor=2.0)  # to none but by a high IoU
        drawn = drawn_by(roi_heads.fg_bg_sampler, which, there)
        labels, wanted = objects.of(which)
        labels, flat = labels.flatten()[drawn.places] + 1, boxes.flatten(0, 1)[drawn.places]
        held, of_image = drawn.places[drawn.positive], drawn.places // boxes.shape[1]
        matched = Matched(
            flat[drawn.positive],
            of_image[drawn.positive],
            labels[drawn.positive],
            which.flatten()[held],
            drawn.positives,
        )
        goals = as_offsets(wanted.flatten(0, 1)[held], matched.boxes, roi_heads.box_coder.weights)
    cut = roi_heads.box_roi_pool.cut(maps, flat, of_image)
    scores, moved = roi_heads.box_predictor(roi_heads.box_head(cut))
    scores = hidden(scores.float(), labels == 0, unknown_of(targets), background="first", image_of=of_image)
    return losses | box_losses(scores, moved.float(), labels, goals, drawn.positive), matched


def find(rpn: RegionProposalNetwork, roi_heads: RoIHeads, maps: list[Tensor], images: Images) -> list[Detections]:
    """Detections of each image."""
    boxes, chances = propose(rpn, *predict(rpn, maps, images), images.sizes)
    if shapes_are_fixed():
        return find_in_fixed_shapes(roi_heads, maps, images, boxes, chances)
    proposals = [b[c != NONE] for b, c in zip(boxes, chances, strict=True)]
    scores, moved = look(roi_heads, by_name(maps), proposals, images)
    found = roi_heads.postprocess_detections(scores, moved, proposals, images.sizes)
    return [Detections(boxes=b, labels=label - 1, scores=s) for b, s, label in zip(*found, strict=True)]


def find_in_fixed_shapes(
    roi_heads: RoIHeads, maps: list[Tensor], images: Images, boxes: Tensor, chances: Tensor
) -> list[Detections]:
    """Detections of proposals (B, M, 4) with scores (B, M), as torchvision's `postprocess_detections` finds them.

    Padding among the proposals is made empty and has no class, since it may still be a box that NMS has dropped.
    """
    there = chances != NONE
    proposals = list((boxes * there[..., None]).unbind(0))
    scores, moved = look(roi_heads, by_name(maps), proposals, images)
    classes = scores.shape[-1] - 1
    moved = moved.view(len(boxes), -1, classes + 1, 4)[:, :, 1:]
    weights = roi_heads.box_coder.weights
    found = []
    for chance, move, proposal, real, size in zip(
        scores.softmax(-1)[:, 1:].view(*there.shape, -1), moved, proposals, there, images.sizes, strict=True
    ):
        box = clip_boxes_to_image(from_offsets(move, proposal[:, None], weights), size).flatten(0, 1)
        usable = ((box[:, 2:] - box[:, :2]) >= SMALLEST).all(1)
        score = above(chance * real[:, None], roi_heads.score_thresh).flatten() * usable
        label = torch.arange(classes, device=box.device).expand(len(proposal), -1).flatten()
        kept = best_after_nms(box, label, score, roi_heads.nms_thresh, roi_heads.detections_per_img)
        found.append(Detections(boxes=kept[0], labels=kept[1], scores=kept[2]))
    return found


def proposed(rpn: RegionProposalNetwork, maps: list[Tensor], images: Images) -> list[Detections]:
    """The proposals of each image with their objectness, label 0; in evaluation mode."""
    scores, offsets = rpn.head(maps)
    anchors = rpn.anchor_generator(ImageList(images.pixels, images.sizes), maps)
    per_level = [score[0].numel() for score in scores]
    flat_scores, flat_offsets = concat_box_prediction_layers(scores, offsets)
    boxes = rpn.box_coder.decode(flat_offsets, anchors).view(len(anchors), -1, 4)
    found = zip(*rpn.filter_proposals(boxes, flat_scores, images.sizes, per_level), strict=True)
    return [Detections(boxes=b, labels=torch.zeros_like(s, dtype=torch.int64), scores=s) for b, s in found]


def predict(
    rpn: RegionProposalNetwork, maps: list[Tensor], images: Images
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """-> logits (B, P), offsets (B, P, 4) and anchors (P, 4) of each level"""
    scores, offsets = rpn.head(maps)
    return (
        [score.permute(0, 2, 3, 1).flatten(1).float() for score in scores],
        [move.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float() for move in offsets],
        rpn.anchors([score.shape[-2:] for score in scores], images.pixels.shape[-2:]),  # type: ignore[operator]
    )


def rpn_losses(
    rpn: RegionProposalNetwork, scores: Tensor, offsets: Tensor, anchors: Tensor, objects: Objects
) -> dict[str, Tensor]:
    """Logits (B, P), offsets (B, P, 4), anchors (P, 4) -> cross-entropy of objectness and smooth L1 loss of offsets of
    the drawn anchors.
    """
    with torch.no_grad():
        which = assigned(rpn.proposal_matcher, objects, anchors)
        drawn = drawn_by(rpn.fg_bg_sampler, which)
        held = drawn.places[drawn.positive]
        _, wanted = objects.of(which)
        goals = as_offsets(wanted.flatten(0, 1)[held], anchors[held % len(anchors)])
        positive = torch.zeros_like(drawn.places, dtype=scores.dtype).index_fill_(0, drawn.positive, 1.0)
    distance = F.smooth_l1_loss(offsets.flatten(0, 1)[held], goals, beta=1 / 9, reduction="sum")
    return {
        "loss_objectness": F.binary_cross_entropy_with_logits(scores.flatten()[drawn.places], positive),
        "loss_rpn_box_reg": distance / max(1, len(drawn.places)),
    }


def assigned(matcher: Any, objects: Objects, boxes: Tensor, floor: float = 0.0) -> Tensor:
    """Boxes (P, 4) or (B, P, 4) -> (B, P): the object of each, or NOTHING or IGNORED."""
    return by_overlap_each(objects, boxes, high=matcher.high_threshold, low=matcher.low_threshold, floor=floor)


def drawn_by(sampler: Any, which: Tensor, there: Tensor | None = None) -> Drawn:
    """Objects or NOTHING or IGNORED (B, P), and those of them that may be drawn -> as many as torchvision draws."""
    positive, negative = which >= 0, which == NOTHING
    if there is not None:
        positive, negative = positive & there, negative & there
    return draw(positive, negative, sampler.batch_size_per_image, sampler.positive_fraction)


def look(
    roi_heads: RoIHeads, features: dict[str, Tensor], boxes: list[Tensor], images: Images
) -> tuple[Tensor, Tensor]:
    """-> class logits (R, K + 1), box offsets of each class (R, 4 K + 4)."""
    cut: Tensor = roi_heads.box_roi_pool(features, boxes, images.sizes)
    scores, moved = roi_heads.box_predictor(roi_heads.box_head(cut))
    return scores.float(), moved.float()


def box_losses(scores: Tensor, moved: Tensor, labels: Tensor, offsets: Tensor, positive: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of the class; smooth L1 loss of the offsets of the true class.

    Args:
        scores: (R, K + 1) logits.
        moved: (R, 4 K + 4) offsets of each class.
        labels: (R,).
        offsets: (T, 4) those of the objects.
        positive: (T,) rows that have an object.
    """
    count = max(1, len(labels))
    of_class = moved.unflatten(1, (-1, 4))[positive, labels[positive]]
    return {
        "loss_classifier": F.cross_entropy(scores, labels, reduction="sum") / count,
        "loss_box_reg": F.smooth_l1_loss(of_class, offsets, reduction="sum", beta=1 / 9) / count,
    }


def together(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes (R_i, 4) of each image -> all of them (R, 4), and the image of each (R,)."""
    counts = [len(each) for each in boxes]
    return torch.cat(list(boxes)), sent(np.repeat(np.arange(len(counts)), counts), boxes[0].device)


def by_name(maps: list[Tensor]) -> dict[str, Tensor]:
    """Maps by name, as torchvision's modules expect them."""
    return OrderedDict((str(level), x) for level, x in enumerate(maps))
