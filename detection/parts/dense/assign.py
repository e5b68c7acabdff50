"""Assignment of anchors to boxes by IoU.

    by_overlap     IoU above a threshold, and all best anchors of a box     RetinaNet: Lin et al., 2017
    with_best_of   IoU above a threshold, and one anchor for every box      SSD: Liu et al., 2016

Shape letters: N boxes of one image, P anchors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detection.parts.dense.focal import IGNORED, NOTHING

PAIRS = 2**22  # pairs of boxes and anchors per chunk, to limit memory


class Overlaps(NamedTuple):
    """Statistics of the (N, P) IoU matrix."""

    most: Tensor  # (P,) highest IoU of each anchor
    which: Tensor  # (P,) its box, the first of equals
    best_of: Tensor  # (N,) best anchor of each box, the first of equals
    is_best: Tensor  # (P,) bool: it is a best anchor of some box, by an IoU of at least a floor


def by_overlap(boxes: Tensor, anchors: Tensor, *, high: float, low: float, floor: float = 0.0) -> Tensor:
    """Boxes (N, 4), anchors (P, 4) -> (P,): the box assigned to each anchor, or NOTHING, or IGNORED.

    An anchor gets its best box if the IoU is at least `high`, or if it is the best anchor of some box with an IoU of at
    least `floor`. With an IoU below `low` it is background; between, it is ignored.
    """
    if len(boxes) == 0 or len(anchors) == 0:
        return torch.full((len(anchors),), NOTHING, device=anchors.device)
    seen = overlaps(boxes, anchors, floor)
    otherwise = torch.where(seen.most < low, NOTHING, IGNORED)
    return torch.where((seen.most >= high) | seen.is_best, seen.which, otherwise)


def with_best_of(boxes: Tensor, anchors: Tensor, *, high: float) -> Tensor:
    """Boxes (N, 4), anchors (P, 4) -> (P,): the box assigned to each anchor, or NOTHING.

    An anchor gets its best box if the IoU is at least `high`; the best anchor of each box always gets that box. If two
    boxes have the same best anchor, the later box gets it.
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), NOTHING, device=anchors.device)
    seen = overlaps(boxes, anchors)
    enough = torch.where(seen.most >= high, seen.which, NOTHING)
    numbers = torch.arange(len(boxes), device=boxes.device)
    forced = torch.full_like(enough, NOTHING).scatter_reduce(0, seen.best_of, numbers, "amax")
    return torch.where(forced >= 0, forced, enough)


def overlaps(boxes: Tensor, anchors: Tensor, floor: float = 0.0) -> Overlaps:
    """Boxes (N, 4), N > 0, anchors (P, 4) -> statistics, computed for a few boxes at a time.

    Args:
        floor: IoU that the best anchor of a box needs for `is_best`.
    """
    most = anchors.new_full((len(anchors),), -1.0)
    which = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    is_best = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    best_of = []
    chunk = max(1, PAIRS // len(anchors))
    for start in range(0, len(boxes), chunk):
        iou_NP = overlap(boxes[start : start + chunk], anchors)
        of_box, first = iou_NP.max(1)
        best_of.append(first)
        is_best |= ((iou_NP == of_box[:, None]) & (of_box >= floor)[:, None]).any(0)
        of_anchor, box = iou_NP.max(0)
        better = of_anchor > most
        most, which = torch.where(better, of_anchor, most), torch.where(better, box + start, which)
    return Overlaps(most, which, torch.cat(best_of), is_best)


def overlap(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(N, 4), (P, 4) -> (N, P) IoU. A third of the memory and time of torchvision's."""
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    anchor_left, anchor_top, anchor_right, anchor_bottom = anchors.unbind(1)
    across = (torch.minimum(right, anchor_right) - torch.maximum(left, anchor_left)).clamp_(min=0)
    down = (torch.minimum(bottom, anchor_bottom) - torch.maximum(top, anchor_top)).clamp_(min=0)
    shared = across.mul_(down)
    area = (right - left) * (bottom - top)
    anchor_area = (anchor_right - anchor_left) * (anchor_bottom - anchor_top)
    return shared / (area + anchor_area - shared)
