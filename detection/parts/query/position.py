"""Position embeddings of a padded batch, sine or learned.

Vaswani et al., "Attention Is All You Need", 2017, in two dimensions as in Carion et al., "End-to-End Object Detection
with Transformers", 2020.

    sizes, maps -> Extent -> padding mask of all cells
                          -> sines of y, sines of x, relative to the unpadded cells
                          -> or learned embeddings of column and row

An image is at the top left of the batch, so its numbers of rows and columns replace a pixel mask.

Shape letters: B images, L maps, S cells of all maps, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detection.types import Images
from shared.devices.device import sent
from shared.errors import UsageError

LEARNED = 50  # number of learned rows and columns


class Extent(NamedTuple):
    """The unpadded part of each map for the images of a batch."""

    shapes: list[tuple[int, int]]  # (height, width) of each map
    cells: Tensor  # (B, L, 2) unpadded columns and rows, as floats
    shares: Tensor  # (B, L, 2) the same as a fraction of each map's width and height
    padded: bool  # whether any cell is padding


def extent(images: Images, maps: Sequence[Tensor]) -> Extent:
    """Batch, maps (B, C, H, W) -> unpadded part; a cell is padding if the pixel at its top left corner is."""
    shapes = [(int(x.shape[-2]), int(x.shape[-1])) for x in maps]
    whole = images.pixels.shape[-2:]
    if images.held is not None and torch.compiler.is_compiling():
        device = images.pixels.device
        among, sides = sent(shapes, device), sent(tuple(whole), device)
        cells = ((images.held[:, None] * among + sides - 1) // sides).float().flip(-1)
        return Extent(shapes, cells, cells / among.flip(-1), padded=True)
    # not -(-a // b): of a negative number ONNX's division drops the fraction
    held = [
        [
            [(size * side + pixels - 1) // pixels for size, side, pixels in zip(own, shape, whole, strict=True)]
            for shape in shapes
        ]
        for own in images.sizes
    ]
    known = all(isinstance(side, int) for own in images.sizes for side in own)  # not so in an exported graph
    padded = not known or any(tuple(cells) != shape for own in held for cells, shape in zip(own, shapes, strict=True))
    sizes = sent([*held, shapes], images.pixels.device, torch.float32).flip(-1)  # one copy
    return Extent(shapes, sizes[:-1], sizes[:-1] / sizes[-1], padded)


def padding(where: Extent) -> Tensor | None:
    """-> (B, S) bool, True for padding; None if there is none."""
    if not where.padded:
        return None
    masks = []
    for (height, width), cells in zip(where.shapes, where.cells.unbind(1), strict=True):
        below = torch.arange(height, device=cells.device) >= cells[:, 1:]
        beside = torch.arange(width, device=cells.device) >= cells[:, :1]
        masks.append((below[:, :, None] | beside[:, None]).flatten(1))
    return torch.cat(masks, 1)


def sine_positions(where: Extent, width: int, *, shift: float = 0.0, temperature: float = 10000.0) -> Tensor:
    """-> (B, S, width), or (1, S, width) without padding; values at padding are arbitrary.

    Args:
        width: C, half for y and half for x; a multiple of 4.
        shift: added to row and column numbers, which start at 1: -0.5 for cell centers.
        temperature: of `sines`.
    """
    known = where.cells if where.padded else where.cells[:1]
    positions = []
    for (height, breadth), cells in zip(where.shapes, known.unbind(1), strict=True):
        xs, ys = (
            sines(counted(side, along, shift), width // 2, temperature=temperature)
            for side, along in zip((breadth, height), cells.unbind(1), strict=True)
        )
        both = (ys[:, :, None].expand(-1, -1, breadth, -1), xs[:, None].expand(-1, height, -1, -1))
        positions.append(torch.cat(both, -1).flatten(1, 2))
    return torch.cat(positions, 1)


def counted(side: int, cells: Tensor, shift: float) -> Tensor:
    """Unpadded rows or columns (B,) -> relative positions (B, side)."""
    count = torch.arange(1, side + 1, dtype=torch.float32, device=cells.device) + shift
    return count / (cells[:, None] + 1e-6)


def sines(shares: Tensor, width: int, *, temperature: float = 10000.0) -> Tensor:
    """(...) from 0 to 1 -> (..., width): alternating sine and cosine, with decreasing frequency."""
    slower = temperature ** (torch.arange(0, width, 2, dtype=torch.float32, device=shares.device) / width)
    angles = shares[..., None] * (2 * math.pi) / slower
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


class LearnedPositions(nn.Module):
    """A learned vector for each of 50 rows and 50 columns.

    Args:
        width: C, half for the column and half for the row.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.columns, self.rows = (nn.Parameter(torch.rand(LEARNED, width // 2)) for _ in range(2))

    def forward(self, where: Extent) -> Tensor:
        """-> (1, S, width).

        Raises:
            UsageError: a map has more rows or columns.
        """
        return torch.cat([self.of(*shape) for shape in where.shapes])[None]

    def of(self, height: int, breadth: int) -> Tensor:
        """-> (height * breadth, width)"""
        if max(height, breadth) > LEARNED:
            raise UsageError(
                f"learned positions have {LEARNED} rows and columns, and this batch has {height}x{breadth}; "
                "use --position-embedding sine, or make images smaller with --max-size"
            )
        columns = self.columns[:breadth].expand(height, -1, -1)
        rows = self.rows[:height, None].expand(-1, breadth, -1)
        return torch.cat((columns, rows), -1).flatten(0, 1)


def positions_called(name: str, width: int) -> Callable[[Extent], Tensor]:
    """The position embedding "sine" or "learned": Extent of maps -> (B or 1, S, width).

    Raises:
        UsageError: another name.
    """
    if name == "learned":
        return LearnedPositions(width)
    if name != "sine":
        raise UsageError(f"no positions '{name}'; position_embedding is sine or learned")
    return partial(sine_positions, width=width)
