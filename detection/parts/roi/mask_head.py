"""The mask head of Mask R-CNN.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017.

    positive boxes -> RoIAlign, 14 x 14 -> convolutions -> transposed convolution -> logits, 28 x 28

There is a mask per class, and only that of the needed class is computed: the true one in training, the predicted one at
inference. Names and weights are those of torchvision's mask_head and mask_predictor.
Shape letters: R boxes, C channels, G cells along a side of a mask, N objects of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from backbones.base import MapInfo
from detection.parts.roi.rcnn import Matched, together
from detection.parts.roi.roi_align import PyramidRoIAlign
from detection.types import Detections, Images, Target

CUT = 14  # output size of RoIAlign


def add_mask_head(
    roi_heads: RoIHeads,
    maps: Sequence[MapInfo],
    num_classes: int,
    *,
    width: int,
    depth: int,
    norm: Callable[..., nn.Module] | None = None,
) -> None:
    """Add a mask head to RoI heads; RoIAlign uses all levels but the pooled one.

    Args:
        num_classes: without background.
        width: C of the convolutions.
        depth: number of convolutions.
        norm: builds the norm after each.
    """
    roi_heads.mask_roi_pool = PyramidRoIAlign(maps[:-1], CUT)
    roi_heads.mask_head = MaskRCNNHeads(maps[0].channels, [width] * depth, 1, norm)
    roi_heads.mask_predictor = MaskOfClass(width, width, num_classes + 1)


def mask_loss(roi_heads: Any, maps: list[Tensor], images: Images, matched: Matched, targets: list[Target]) -> Tensor:
    """Binary cross-entropy of each cell with the object's mask in the box."""
    logits = mask_logits(roi_heads, maps, matched.boxes, matched.images, matched.labels)
    side = logits.shape[-1]
    each = zip(targets, matched.boxes.split(matched.counts), matched.objects.split(matched.counts), strict=True)
    goals = [
        masks_in_boxes(target["masks"], boxes, objects, side)  # type: ignore[typeddict-item]
        for target, boxes, objects in each
    ]
    return F.binary_cross_entropy_with_logits(logits, torch.cat(goals), reduction="sum") / max(1, logits.numel())


def with_masks(roi_heads: Any, maps: list[Tensor], images: Images, found: list[Detections]) -> list[Detections]:
    """Add the mask of the predicted class to each detection."""
    boxes, labels = [one["boxes"] for one in found], torch.cat([one["labels"] for one in found])
    masks = mask_logits(roi_heads, maps, *together(boxes), labels + 1).sigmoid()
    parts = masks.split([len(b) for b in boxes])
    return [{**one, "masks": part} for one, part in zip(found, parts, strict=True)]


def mask_logits(roi_heads: Any, maps: list[Tensor], boxes: Tensor, of_image: Tensor, labels: Tensor) -> Tensor:
    """Boxes (R, 4), the image of each (R,) and their classes from 1 (R,) -> (R, G, G)"""
    cut = roi_heads.mask_roi_pool.cut(maps, boxes, of_image)
    return roi_heads.mask_predictor(roi_heads.mask_head(cut), labels).float()


class MaskOfClass(MaskRCNNPredictor):
    """torchvision's MaskRCNNPredictor that computes only one class per box, as matrix products."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """(R, C, 14, 14), classes (R,) -> (R, 28, 28)"""
        up: Any = self.conv5_mask
        last: Any = self.mask_fcn_logits
        boxes, into, height, width = x.shape
        places = x.permute(0, 2, 3, 1).reshape(-1, into)
        to_four = up.weight.permute(0, 2, 3, 1).reshape(into, -1)
        fine = torch.addmm(up.bias.repeat(4), places, to_four).relu()
        fine = fine.view(boxes, height * width * 4, up.out_channels)
        logits = torch.bmm(fine, last.weight[labels].flatten(2)) + last.bias[labels, None, None]
        four = logits.view(boxes, height, width, 2, 2)
        return four.transpose(2, 3).reshape(boxes, 2 * height, 2 * width)


@torch.library.custom_op(
    "chordate::masks_in_boxes",
    mutates_args=(),
    schema="(Tensor masks, Tensor boxes, Tensor objects, int side) -> Tensor",
)
def masks_in_boxes(masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    """Masks of an image's objects (N, H, W) uint8, boxes (R, 4), the object of each (R,) -> (R, side, side) from 0 to 1

    Each box has the part of its object's mask that it covers, as RoIAlign cuts it out of the whole. On a CPU, of each
    mask only a window around the boxes becomes numbers; a GPU would wait for the windows. Boxes lie inside the image.
    """
    if not len(boxes):
        return boxes.new_zeros(0, side, side)
    if boxes.device.type != "cpu":
        regions = torch.cat((objects[:, None].to(boxes.dtype), boxes), 1)
        return roi_align(masks[:, None].to(boxes.dtype), regions, side)[:, 0]
    order = objects.argsort(stable=True)
    counts = objects.bincount(minlength=len(masks)).tolist()
    cuts = []
    for mask, some in zip(masks, boxes[order].split(counts), strict=True):
        if len(some):
            left, top, right, bottom = window(some)
            part = mask[top:bottom, left:right].to(some.dtype)
            cuts.append(roi_align(part[None, None], [some - some.new_tensor((left, top, left, top))], side)[:, 0])
    return torch.cat(cuts)[order.argsort()]


@masks_in_boxes.register_fake
def _(masks: Tensor, boxes: Tensor, objects: Tensor, side: int) -> Tensor:
    return boxes.new_empty(len(boxes), side, side)


def window(boxes: Tensor) -> list[int]:
    """(R, 4) -> left, top, right, bottom of the pixels that RoIAlign reads; boxes are at least one pixel long."""
    first, last = boxes.split(2, 1)
    first, last = first.amin(0).floor(), last.maximum(first + 1).amax(0).ceil() + 1
    return torch.cat((first, last)).long().tolist()
