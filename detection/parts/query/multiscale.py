"""Layers of a transformer over the cells of several maps, and the boxes that its cells and queries start from.

Zhu, Su, Lu, Li, Wang, Dai, "Deformable DETR: Deformable Transformers for End-to-End Object Detection", 2021.

    encoder layer   each cell samples points around itself, on all levels -> feed-forward
    decoder layer   self-attention of the queries -> each query samples points around its reference -> feed-forward

References and boxes are relative to the unpadded images.
Shape letters: B images, Q queries, S cells of all levels, C channels, K classes, L levels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.parts.query.deform import DeformableAttention
from detection.parts.query.position import Extent, padding
from detection.parts.query.transformer import Attention, FeedForward, ResidualNorm

EDGE = 1e-5  # references are moved so far from 0 and 1 before the sigmoid is inverted


class Memory(NamedTuple):
    """Output of the encoder."""

    tokens: Tensor  # (B, S, C)
    where: Extent
    padding: Tensor | None  # (B, S), True for padding


class EncoderLayer(nn.Module):
    """
    Args:
        slow_offsets: sampling offsets learn at a tenth of the rate.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        levels: int,
        points: int,
        feedforward: int,
        dropout: float,
        *,
        slow_offsets: bool = True,
    ) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads, levels, points, slow_offsets=slow_offsets)
        self.feed = FeedForward(width, feedforward, dropout)
        self.around_attention, self.around_feed = (ResidualNorm(width, dropout) for _ in range(2))

    def forward(
        self, x: Tensor, positions: Tensor, places: Tensor, shapes: list[tuple[int, int]], hidden: Tensor | None
    ) -> Tensor:
        """(B, S, C), positions, reference points (B, S, L, 2), padding mask -> (B, S, C)"""
        x = self.around_attention(x, lambda x: self.attention(x + positions, places, x, shapes, hidden))
        return self.around_feed(x, self.feed)


class DecoderLayer(nn.Module):
    """
    Args:
        slow_offsets: sampling offsets learn at a tenth of the rate.
        discrete: the nearest cells are looked at, without interpolation.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        levels: int,
        points: int,
        feedforward: int,
        dropout: float,
        *,
        slow_offsets: bool = True,
        discrete: bool = False,
    ) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.cross_attention = DeformableAttention(
            width, heads, levels, points, slow_offsets=slow_offsets, discrete=discrete
        )
        self.feed = FeedForward(width, feedforward, dropout)
        self.around_self, self.around_cross, self.around_feed = (ResidualNorm(width, dropout) for _ in range(3))

    def forward(
        self, x: Tensor, positions: Tensor, places: Tensor, memory: Memory, bias: Tensor | None = None
    ) -> Tensor:
        """(B, Q, C), positions, references (B, Q, L, 2 or 4), memory, bias of self-attention (Q, Q) -> (B, Q, C)"""

        def attend_to_queries(x: Tensor) -> Tensor:
            placed = x + positions
            return self.self_attention(placed, placed, x, bias)

        def attend_to_memory(x: Tensor) -> Tensor:
            return self.cross_attention(x + positions, places, memory.tokens, memory.where.shapes, memory.padding)

        return self.around_feed(self.around_cross(self.around_self(x, attend_to_queries), attend_to_memory), self.feed)


def encode(
    layers: Iterable[nn.Module], maps: list[Tensor], where: Extent, positions: Tensor, level_of: Tensor
) -> Memory:
    """
    Args:
        layers: of class EncoderLayer.
        maps: (B, C, H, W), one for each level.
        positions: (B or 1, S, C), without the level.
        level_of: (L, C) an embedding of each level.
    """
    x, hidden = rows_of(maps), padding(where)
    levels = [row.expand(h * w, -1) for row, (h, w) in zip(level_of, where.shapes, strict=True)]
    positions, places = positions + torch.cat(levels), on_levels(centers(where), where)
    for layer in layers:
        x = layer(x, positions, places, where.shapes, hidden)
    return Memory(x, where, hidden)


def rows_of(maps: list[Tensor]) -> Tensor:
    """Maps (B, C, H, W) -> (B, S, C)"""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1)


def first_boxes(memory: Memory) -> tuple[Tensor, Tensor]:
    """-> (B, S, 4) initial box of each cell, before the sigmoid, Inf where invalid; (B, S, 1) validity."""
    middle = centers(memory.where)
    sides = [
        middle.new_full((height * width, 2), 0.05 * 2**level)
        for level, (height, width) in enumerate(memory.where.shapes)
    ]
    boxes = torch.cat((middle, torch.cat(sides).expand_as(middle)), -1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    if memory.padding is not None:
        usable = usable & ~memory.padding[..., None]
    return boxes.logit().masked_fill(~usable, torch.inf), usable


def centers(where: Extent) -> Tensor:
    """-> (B, S, 2): center x, y of every cell, relative to the unpadded images."""
    found = []
    for (height, width), cells in zip(where.shapes, where.cells.unbind(1), strict=True):
        ys, xs = (torch.arange(side, device=cells.device) + 0.5 for side in (height, width))
        grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1).flatten(0, 1)
        found.append(grid / cells[:, None])
    return torch.cat(found, 1)


def on_levels(references: Tensor, where: Extent) -> Tensor:
    """(B, Q, 2 or 4) relative to the unpadded images -> (B, Q, L, 2 or 4) relative to each padded level."""
    times = references.shape[-1] // 2
    return references[:, :, None] * where.shares.repeat(1, 1, times)[:, None]


def add_to_references(moves: Tensor, references: Tensor, edge: float = EDGE) -> Tensor:
    """Head outputs (B, Q, 4), references (B, Q, 2 or 4) -> (B, Q, 4): boxes before the sigmoid."""
    known = references.clamp(edge, 1 - edge).logit()
    return moves + F.pad(known, (0, 4 - references.shape[-1]))
