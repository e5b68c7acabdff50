"""Boxes as distances from the center of a square anchor to their four sides, and centerness.

    anchor of side a centered at (x, y), sides (t, b, l, r) in units of a -> box (x - l a, y - t a, x + r a, y + b a)

Kim, Lin, Angelova, Kweon, Kuo, "Learning Open-World Object Proposals without Learning to Classify", 2021; centerness as
in Tian et al., "FCOS", 2019.

Shape letters: P anchors or places, N boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detection.parts.dense.anchors import around_places

WIDE = 8  # side of an anchor in strides


def squares(shapes: Sequence[Sequence[int]], strides: Sequence[int], device: torch.device) -> list[Tensor]:
    """(height, width) of the maps and their strides, finest first -> per level (cells, 4): one square of eight strides
    around each multiple of the stride."""
    corners = torch.tensor([[-0.5, -0.5, 0.5, 0.5]], device=device)
    return [
        around_places(corners * (WIDE * stride), shape, (stride, stride), 0.0)
        for shape, stride in zip(shapes, strides, strict=True)
    ]


def inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """(P, 4) -> (P,) bool: the whole anchor is in an image of (height, width)."""
    height, width = size
    return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)


def from_sides(sides: Tensor, anchors: Tensor) -> Tensor:
    """(..., 4) as t b l r in units of the anchor's side, and the anchors (..., 4) -> boxes (..., 4)."""
    middle, side = middle_and_side(anchors)
    up, down, left, right = (sides * side).unbind(-1)
    x, y = middle.unbind(-1)
    return torch.stack((x - left, y - up, x + right, y + down), -1)


def as_sides(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) and anchors -> (..., 4) as t b l r in units of the anchor's side; the inverse of `from_sides`."""
    middle, side = middle_and_side(anchors)
    x, y = middle.unbind(-1)
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack((y - top, bottom - y, x - left, right - x), -1) / side


def centerness(sides: Tensor) -> Tensor:
    """(..., 4) as t b l r -> (...): 1 at the center of the box, 0 on its border and outside."""
    up, down, left, right = sides.unbind(-1)
    tall = torch.minimum(up, down) / torch.maximum(up, down).clamp(min=1e-6)
    wide = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=1e-6)
    return (tall.clamp(min=0) * wide.clamp(min=0)).sqrt()


def overlap_of_pairs(boxes: Tensor, others: Tensor) -> Tensor:
    """(P, 4) twice -> (P,) IoU of each box with the other of its row; of boxes without area it is 0."""
    shared = torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])
    area, other = ((b[:, 2:] - b[:, :2]).clamp(min=0).prod(1) for b in (boxes, others))
    common = shared.clamp(min=0).prod(1)
    return common / (area + other - common).clamp(min=1e-6)


def middle_and_side(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) squares -> (..., 2) x and y, (..., 1) side."""
    first, last = anchors.split(2, -1)
    return (first + last) / 2, (last - first)[..., :1]
