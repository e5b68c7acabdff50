"""Box operations. Boxes are x0 y0 x1 y1 in pixels, (N, 4) float."""

from __future__ import annotations

import torch
from torch import Tensor


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, 4) -> (N, 4): boxes clipped to an image of (height, width)."""
    height, width = size
    limit = boxes.new_tensor((width, height, width, height))
    return boxes.clamp(min=0).minimum(limit)


def areas(boxes: Tensor) -> Tensor:
    """(N, 4) -> (N,): areas in pixels; 0 for boxes with x1 < x0 or y1 < y0."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]


def scaled(boxes: Tensor, factor: tuple[float, float]) -> Tensor:
    """(N, 4), (vertical, horizontal) factors -> (N, 4): scaled boxes."""
    down, across = factor
    return boxes * boxes.new_tensor((across, down, across, down))


def shifted(boxes: Tensor, by: tuple[float, float]) -> Tensor:
    """(N, 4), (vertical, horizontal) pixels -> (N, 4): shifted boxes."""
    down, across = by
    return boxes + boxes.new_tensor((across, down, across, down))


def mirrored(boxes: Tensor, width: int) -> Tensor:
    """(N, 4) -> (N, 4): horizontally flipped boxes."""
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack((width - right, top, width - left, bottom), dim=1)


def usable(boxes: Tensor, min_side: float = 1.0) -> Tensor:
    """(N, 4) -> (N,) bool: both sides are at least `min_side` pixels, and not NaN."""
    return ((boxes[:, 2:] - boxes[:, :2]) >= min_side).all(dim=1)


def giou_losses(boxes: Tensor, wanted: Tensor) -> Tensor:
    """(..., 4), (..., 4) -> (...): 1 minus the generalized IoU, from 0 to 2, as torchvision's, which makes a GPU wait.

    Rezatofighi et al., "Generalized Intersection over Union", 2019.
    """
    tiny = 1e-7  # torchvision's; boxes may have no area
    first, last = boxes.split(2, -1)
    wanted_first, wanted_last = wanted.split(2, -1)
    inside = product((torch.minimum(last, wanted_last) - torch.maximum(first, wanted_first)).clamp(min=0))
    union = product(last - first) + product(wanted_last - wanted_first) - inside
    hull = product(torch.maximum(last, wanted_last) - torch.minimum(first, wanted_first))
    return 1 - inside / (union + tiny) + (hull - union) / (hull + tiny)


def product(sides: Tensor) -> Tensor:
    """(..., 2) -> (...): width times height."""
    return sides[..., 0] * sides[..., 1]
