"""Anchors and default boxes, and box offsets relative to them.

    Anchors        sizes in pixels, aspect ratios                    RetinaNet, EfficientDet
    DefaultBoxes   sizes relative to the image, larger on each level SSD: Liu et al., 2016
    as_offsets     boxes -> offsets relative to anchors; from_offsets is the inverse

The distance between anchors follows from the shapes of the maps, so anchors cover a batch of any size.
Shape letters: A anchors per cell, P anchors of all cells of all levels, in the order of a head's outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Size = Sequence[int]  # (height, width)
MOST_GROWTH = math.log(1000 / 16)  # limit of the log size offset, to avoid overflow


class Anchors(nn.Module):
    """
    Args:
        sizes: per level, sides of squares in pixels.
        ratios: height over width; each keeps a square's area.
        offset: position of the anchor in its cell: 0 for its corner, as in torchvision, or 0.5 for its center.
        rounded: round corners to whole pixels, as in torchvision.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        *,
        offset: float = 0.0,
        rounded: bool = True,
    ) -> None:
        super().__init__()
        self.offset = offset
        self.per_place = len(sizes[0]) * len(ratios)
        for level, sides in enumerate(sizes):
            around = boxes_around_zero(sides, ratios)
            self.register_buffer(f"level{level}", around.round() if rounded else around, persistent=False)

    def forward(self, shapes: Sequence[Size], size: Size) -> list[Tensor]:
        """(height, width) of the maps, finest first, and of the batch -> per level (cells * A, 4)."""
        return [
            around_places(around, shape, (size[0] // shape[0], size[1] // shape[1]), self.offset)
            for around, shape in zip(self.buffers(), shapes, strict=True)
        ]


class DefaultBoxes(nn.Module):
    """Two squares per cell, of the level's scale and between it and the next, and two boxes for each ratio.

    Args:
        scales: sizes of squares relative to the image, one per level and one more.
        ratios: per level, aspect ratios, used as r and 1 / r.
        steps: per level, pixels between cells; None to divide the image evenly.
    """

    def __init__(
        self, scales: Sequence[float], ratios: Sequence[Sequence[float]], steps: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.steps = steps
        self.per_place = [2 + 2 * len(level) for level in ratios]
        for level, of_level in enumerate(ratios):
            scale, next_scale = scales[level : level + 2]
            sides = [(scale, scale), (math.sqrt(scale * next_scale),) * 2]
            for ratio in of_level:
                long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
                sides += [(long, short), (short, long)]
            half = torch.tensor(sides, dtype=torch.float32).clamp(max=1.0) / 2  # at most the size of the image
            self.register_buffer(f"level{level}", torch.cat((-half, half), 1), persistent=False)

    def forward(self, shapes: Sequence[Size], size: Size) -> list[Tensor]:
        """(height, width) of the maps, finest first, and of the batch -> per level (cells * A, 4)."""
        height, width = size
        apart = [(height / h, width / w) for h, w in shapes] if self.steps is None else [(s, s) for s in self.steps]
        return [
            around_places(times(around, (width, height, width, height)), shape, step, 0.5)
            for around, shape, step in zip(self.buffers(), shapes, apart, strict=True)
        ]


def boxes_around_zero(sides: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Sizes of squares, aspect ratios (height / width) -> (A, 4): all sizes of the first ratio, then of the next."""
    stretch = torch.tensor(ratios, dtype=torch.float32).sqrt()[:, None]
    square = torch.tensor(sides, dtype=torch.float32)
    width, height = (1 / stretch * square).flatten(), (stretch * square).flatten()
    return torch.stack((-width, -height, width, height), 1) / 2


def around_places(around: Tensor, shape: Size, apart: tuple[float, float], offset: float) -> Tensor:
    """Boxes around zero (A, 4), shifted to every cell -> (height * width * A, 4).

    Args:
        shape: (height, width) of the map.
        apart: pixels between cells, (vertical, horizontal).
        offset: position in the cell, from 0 to 1.
    """
    ys = (torch.arange(shape[0], device=around.device) + offset) * apart[0]
    xs = (torch.arange(shape[1], device=around.device) + offset) * apart[1]
    down, across = torch.meshgrid(ys, xs, indexing="ij")
    places = torch.stack((across, down, across, down), -1).to(around.dtype)
    return (places[:, :, None] + around).flatten(0, 2)


Weights = tuple[float, float, float, float]  # of center x, center y, width, height


def as_offsets(boxes: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Boxes (..., 4) and anchors -> offsets (..., 4): center shift in anchor sizes, log of the size ratio."""
    middle, sides = middle_and_sides(boxes)
    anchor_middle, anchor_sides = middle_and_sides(anchors)
    moved, grown = (middle - anchor_middle) / anchor_sides, (sides / anchor_sides).log()
    return times(torch.cat((moved, grown), -1), weights)


def from_offsets(offsets: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """(..., 4) offsets and their anchors -> (..., 4) boxes."""
    moved, grown = times(offsets, tuple(1 / weight for weight in weights)).split(2, -1)
    anchor_middle, anchor_sides = middle_and_sides(anchors)
    middle = moved * anchor_sides + anchor_middle
    half = grown.clamp(max=MOST_GROWTH).exp() * anchor_sides / 2
    return torch.cat((middle - half, middle + half), -1)


def times(x: Tensor, factors: Sequence[float]) -> Tensor:
    """(..., N), N numbers -> (..., N): each column times its number, which are not copied to a GPU."""
    if all(factor == 1 for factor in factors):
        return x
    return torch.stack([column * factor for column, factor in zip(x.unbind(-1), factors, strict=True)], -1)


def middle_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) -> (..., 2) x and y, (..., 2) width and height."""
    first, last = boxes.split(2, -1)
    sides = last - first
    return first + sides / 2, sides
