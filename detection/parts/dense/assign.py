"""Assignment of anchors to boxes by IoU, for all images of a batch together or for one.

    by_overlap     IoU above a threshold, and all best anchors of a box     RetinaNet: Lin et al., 2017
    with_best_of   IoU above a threshold, and one anchor for every box      SSD: Liu et al., 2016

Functions ending in `_each` take the padded objects of a batch. Nothing is selected by a mask, so a GPU never waits.
Shape letters: B images, N boxes of one image or of the most crowded one, P anchors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detection.parts.dense.focal import IGNORED, NOTHING
from detection.parts.dense.objects import Objects

PAIRS = 2**22  # pairs of boxes and anchors at a time on a CPU, to stay in its cache
PAIRS_OF_GPU = 2**26  # on a GPU, to limit memory


class Overlaps(NamedTuple):
    """Statistics of the (N, P) IoU matrix of each image, B first for a batch; boxes that are padding have none."""

    most: Tensor  # (P,) highest IoU of each anchor; negative in an image without boxes
    which: Tensor  # (P,) its box, the first of equals
    best_of: Tensor  # (N,) best anchor of each box, the first of equals
    is_best: Tensor  # (P,) bool: it is a best anchor of some box, by an IoU of at least a floor


def by_overlap(boxes: Tensor, anchors: Tensor, *, high: float, low: float, floor: float = 0.0) -> Tensor:
    """Boxes (N, 4) of one image, anchors (P, 4) -> (P,), as `by_overlap_each`."""
    return by_overlap_each(alone(boxes), anchors, high=high, low=low, floor=floor)[0]


def by_overlap_each(objects: Objects, anchors: Tensor, *, high: float, low: float, floor: float = 0.0) -> Tensor:
    """Objects, anchors (P, 4) or (B, P, 4) -> (B, P): the box assigned to each anchor, or NOTHING, or IGNORED.

    An anchor gets its best box if the IoU is at least `high`, or if it is the best anchor of some box with an IoU of at
    least `floor`. With an IoU below `low` it is background; between, it is ignored.
    """
    seen = overlaps_each(objects, anchors, floor)
    otherwise = torch.where(seen.most < low, NOTHING, IGNORED)
    return torch.where((seen.most >= high) | seen.is_best, seen.which, otherwise)


def with_best_of_each(objects: Objects, anchors: Tensor, *, high: float) -> Tensor:
    """Objects, anchors (P, 4) -> (B, P): the box assigned to each anchor, or NOTHING.

    An anchor gets its best box if the IoU is at least `high`; the best anchor of each box always gets that box. If two
    boxes have the same best anchor, the later box gets it.
    """
    seen = overlaps_each(objects, anchors)
    enough = torch.where(seen.most >= high, seen.which, NOTHING)
    numbers = torch.arange(objects.boxes.shape[1], device=anchors.device)
    own = torch.where(objects.there, numbers, NOTHING)
    forced = torch.full_like(enough, NOTHING).scatter_reduce(1, seen.best_of, own, "amax")
    return torch.where(forced >= 0, forced, enough)


def overlaps(boxes: Tensor, anchors: Tensor, floor: float = 0.0) -> Overlaps:
    """Boxes (N, 4) of one image, anchors (P, 4) -> statistics, as `overlaps_each`."""
    return Overlaps(*(part[0] for part in overlaps_each(alone(boxes), anchors, floor)))


def overlaps_each(objects: Objects, anchors: Tensor, floor: float = 0.0) -> Overlaps:
    """Objects, anchors (P, 4) or (B, P, 4) -> statistics, computed for a few boxes at a time.

    Args:
        floor: IoU that the best anchor of a box needs for `is_best`.
    """
    shape = (len(objects.boxes), anchors.shape[-2])
    most = anchors.new_full(shape, -1.0)
    which = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
    is_best = torch.zeros(shape, dtype=torch.bool, device=anchors.device)
    best_of = [which[:, :0]]
    if not shape[1]:
        return Overlaps(most, which, torch.zeros_like(objects.labels), is_best)
    for some in few_at_a_time(objects.boxes.shape[1], shape[0] * shape[1], anchors.device):
        real = objects.there[:, some]
        iou_BNP = overlap(objects.boxes[:, some], anchors).masked_fill_(~real[..., None], -1.0)
        of_box, first = iou_BNP.max(2)
        best_of.append(first)
        reached = of_box.masked_fill(~real | (of_box < floor), 2.0)  # which no IoU equals
        is_best |= (iou_BNP == reached[..., None]).any(1)
        of_anchor, box = iou_BNP.max(1)
        better = of_anchor > most
        most, which = torch.where(better, of_anchor, most), torch.where(better, box + some.start, which)
    return Overlaps(most, which, torch.cat(best_of, 1), is_best)


def alone(boxes: Tensor) -> Objects:
    """Boxes (N, 4) of one image as a batch of it; their labels do not matter."""
    labels = torch.zeros(1, len(boxes), dtype=torch.int64, device=boxes.device)
    return Objects(boxes[None], labels, labels == 0)


def few_at_a_time(boxes: int, pairs: int, device: torch.device) -> list[slice]:
    """Slices of the boxes of every image, of so many pairs of anchors and images for each box.

    A compiled graph takes all at once: it does not keep the pairs, and a loop would be for one number of boxes.
    """
    if torch.compiler.is_compiling():
        return [slice(0, boxes)]
    together = max(1, (PAIRS if device.type == "cpu" else PAIRS_OF_GPU) // pairs)
    return [slice(start, start + together) for start in range(0, boxes, together)]


def overlap(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(..., N, 4), (P, 4) or (..., P, 4) -> (..., N, P) IoU. A third of the memory and time of torchvision's."""
    left, top, right, bottom = boxes[..., None].unbind(-2)
    anchor_left, anchor_top, anchor_right, anchor_bottom = anchors[..., None, :, :].unbind(-1)
    across = (torch.minimum(right, anchor_right) - torch.maximum(left, anchor_left)).clamp_(min=0)
    down = (torch.minimum(bottom, anchor_bottom) - torch.maximum(top, anchor_top)).clamp_(min=0)
    shared = across.mul_(down)
    area = (right - left) * (bottom - top)
    anchor_area = (anchor_right - anchor_left) * (anchor_bottom - anchor_top)
    return shared / (area + anchor_area - shared)
