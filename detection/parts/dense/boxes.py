"""Boxes as corners: clip, measure, scale, mirror. Every box is x0 y0 x1 y1 in pixels, (N, 4) float."""

from __future__ import annotations

import torch
from torch import Tensor


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 4) -> (N, 4): the part of each box inside an image of (height, width)."""
    height, width = size
    limit = boxes.new_tensor((width, height, width, height))
    return boxes.clamp(min=0).minimum(limit)


def areas(boxes: Tensor) -> Tensor:
    """(N, 4) -> (N,): square pixels; 0 for a box turned inside out."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def scaled(boxes: Tensor, factor: tuple[float, float]) -> Tensor:
    """(N, 4), (down, across) -> (N, 4): the boxes after the image grew by these two factors."""
    down, across = factor
    return boxes * boxes.new_tensor((across, down, across, down))


def shifted(boxes: Tensor, by: tuple[float, float]) -> Tensor:
    """(N, 4), (down, across) -> (N, 4): the boxes after the image moved by these many pixels."""
    down, across = by
    return boxes + boxes.new_tensor((across, down, across, down))


def mirrored(boxes: Tensor, width: int) -> Tensor:
    """(N, 4) -> (N, 4): the boxes after the image was flipped left to right."""
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack((width - right, top, width - left, bottom), dim=1)


def usable(boxes: Tensor, min_side: float = 1.0) -> Tensor:
    """(N, 4) -> (N,) bool: both sides are at least `min_side` pixels long, and neither is nan."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= min_side).all(dim=1)
