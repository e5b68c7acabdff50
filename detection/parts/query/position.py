"""Where the images of a padded batch lie on its maps, and each place's position as sines, or learned.

Vaswani et al., "Attention Is All You Need", 2017, in two dimensions as in Carion et al., "End-to-End Object Detection
with Transformers", 2020.

    sizes, maps -> Extent -> padding of all places
                          -> sines of y, sines of x, counted over the places that hold image
                          -> or what was learned for their column and their row

An image lies at the top left, so how many rows and columns hold image says all that a mask of pixels could.

Shape letters: B images, L maps, S places of all maps, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detection.types import Images
from shared.errors import UsageError

LEARNED = 50  # rows and columns that can be learned


class Extent(NamedTuple):
    """How much of each map the images of a batch cover."""

    shapes: list[tuple[int, int]]  # (height, width) of each map
    cells: Tensor  # (B, L, 2) columns and rows that hold image, as floats
    shares: Tensor  # (B, L, 2) what share of each map's width and height they are
    padded: bool  # somewhere there is a place without image


def extent(images: Images, maps: Sequence[Tensor]) -> Extent:
    """Batch, maps (B, C, H, W) -> what of them is image: a place is if the pixel at its top left corner is."""
    shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
    whole = images.pixels.shape[-2:]
    held = [
        [[-(-size * side // pixels) for size, side, pixels in zip(own, shape, whole, strict=True)] for shape in shapes]
        for own in images.sizes
    ]
    padded = any(tuple(cells) != shape for own in held for cells, shape in zip(own, shapes, strict=True))
    sizes = torch.tensor([*held, shapes], dtype=torch.float32).flip(-1).to(images.pixels.device)  # in one message
    return Extent(shapes, sizes[:-1], sizes[:-1] / sizes[-1], padded)


def padding(where: Extent) -> Tensor | None:
    """-> (B, S) bool, true where there is no image; None if there is image everywhere."""
    if not where.padded:
        return None
    masks = []
    for (height, width), cells in zip(where.shapes, where.cells.unbind(1), strict=True):
        below = torch.arange(height, device=cells.device) >= cells[:, 1:]
        beside = torch.arange(width, device=cells.device) >= cells[:, :1]
        masks.append((below[:, :, None] | beside[:, None]).flatten(1))
    return torch.cat(masks, 1)


def sine_positions(where: Extent, width: int, *, shift: float = 0.0) -> Tensor:
    """-> (B, S, width), or (1, S, width) if all images cover all of their maps; what it says of padding is arbitrary.

    Args:
        width: C, half of it for y and half for x; a multiple of 4.
        shift: added to the count of rows and columns, which starts at 1: -0.5 for the middle of a place.
    """
    known = where.cells if where.padded else where.cells[:1]
    positions = []
    for (height, breadth), cells in zip(where.shapes, known.unbind(1), strict=True):
        xs, ys = (
            sines(counted(side, along, shift), width // 2)
            for side, along in zip((breadth, height), cells.unbind(1), strict=True)
        )
        both = (ys[:, :, None].expand(-1, -1, breadth, -1), xs[:, None].expand(-1, height, -1, -1))
        positions.append(torch.cat(both, -1).flatten(1, 2))
    return torch.cat(positions, 1)


def counted(side: int, cells: Tensor, shift: float) -> Tensor:
    """(B,) rows or columns that hold image -> (B, side): where each lies, as a share of these."""
    count = torch.arange(1, side + 1, dtype=torch.float32, device=cells.device) + shift
    return count / (cells[:, None] + 1e-6)


def sines(shares: Tensor, width: int, *, temperature: float = 10000.0) -> Tensor:
    """(...) from 0 to 1 -> (..., width): sine and cosine in turns, from one wave to ever slower ones."""
    slower = temperature ** (torch.arange(0, width, 2, dtype=torch.float32, device=shares.device) / width)
    angles = shares[..., None] * (2 * math.pi) / slower
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


class LearnedPositions(nn.Module):
    """A vector for each of 50 rows and 50 columns, the same for every image.

    Args:
        width: C, half of it for the column and half for the row.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.columns, self.rows = (nn.Parameter(torch.rand(LEARNED, width // 2)) for _ in range(2))

    def forward(self, where: Extent) -> Tensor:
        """-> (1, S, width).

        Raises:
            UsageError: a map is larger.
        """
        return torch.cat([self.of(*shape) for shape in where.shapes])[None]

    def of(self, height: int, breadth: int) -> Tensor:
        """-> (height * breadth, width)"""
        if max(height, breadth) > LEARNED:
            raise UsageError(
                f"learned positions reach {LEARNED} rows and columns, and this batch has {height}x{breadth}; "
                "say --position-embedding sine, or make images smaller with --max-size"
            )
        columns = self.columns[:breadth].expand(height, -1, -1)
        rows = self.rows[:height, None].expand(-1, breadth, -1)
        return torch.cat((columns, rows), -1).flatten(0, 1)


def positions_called(name: str, width: int) -> Callable[[Extent], Tensor]:
    """Extent of maps -> (B or 1, S, width): "sine", or "learned".

    Raises:
        UsageError: it is neither.
    """
    if name == "learned":
        return LearnedPositions(width)
    if name != "sine":
        raise UsageError(f"no positions '{name}'; position_embedding is sine or learned")
    return partial(sine_positions, width=width)
