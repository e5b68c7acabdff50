"""Deformable attention: each query predicts sampling offsets and weights on several maps.

Zhu, Su, Lu, Li, Wang, Dai, "Deformable DETR: Deformable Transformers for End-to-End Object Detection", 2021.

    query -> offsets around its reference, weights -> weighted sum of bilinear samples -> (B, Q, C)

Shape letters: B images, Q queries, S cells of all levels, M heads, D channels of a head, L levels, P points, C = M D.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detection.parts.fixed import shapes_are_fixed
from detection.parts.query.bilinear import LookedUp, grid_of
from shared.devices.device import sent

Shapes = list[tuple[int, int]]  # (height, width) of each level; the levels are concatenated


def deformable_attention(value: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples of maps, 0 outside them.

    Args:
        value: (B, S, M, D).
        places: (B, Q, M, L, P, 2) as x, y from 0 at the left and top edge of a map to 1.
        weights: (B, Q, M, L, P).

    Returns:
        (B, Q, M * D).
    """
    exact = torch.promote_types(value.dtype, torch.float32)  # bfloat16 is too coarse for coordinates on a large map
    inputs = (value.to(exact), places.to(exact), weights.to(exact))
    if shapes_are_fixed():
        return for_other_runtimes(*inputs, shapes).to(value.dtype)
    return (in_rows if value.device.type == "cpu" else in_maps)(*inputs, shapes).to(value.dtype)


def in_rows(value: Tensor, places: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """On a CPU: two to five times the speed of grid_sample, with a fraction of its memory."""
    grid = grid_of(shapes, value.shape[2], places.shape[4], value)
    sums = LookedUp.apply(
        value.flatten(1, 2).contiguous(), places.flatten(2, 4).contiguous(), weights.flatten(2).contiguous(), grid
    )
    return sums.view(*places.shape[:2], -1)  # type: ignore[union-attr]


def in_maps(value: Tensor, places: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """On a GPU: one grid_sample per level, summed. The samples, P D numbers of each query, head and level, are computed
    again in the backward pass instead of kept: they would take most of the memory of a whole detector."""
    batch, _, heads, width = value.shape
    total = value.new_zeros(batch * heads, width, places.shape[1])
    for level, part in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        inputs = (part, places[:, :, :, level], weights[:, :, :, level], shapes[level])
        if torch.is_grad_enabled():
            total = total + checkpoint(in_map, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            total = total + in_map(*inputs)
    return total.view(batch, heads * width, -1).transpose(1, 2)


def in_map(value: Tensor, places: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    """Of one level: (B, H W, M, D), (B, Q, M, P, 2), (B, Q, M, P) -> (B M, D, Q)."""
    batch, _, heads, width = value.shape
    maps = value.permute(0, 2, 3, 1).reshape(batch * heads, width, *shape)
    grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # (B M, Q, P, 2)
    looked_up = F.grid_sample(maps, grid, align_corners=False)  # (B M, D, Q, P)
    return (looked_up * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)


def for_other_runtimes(value: Tensor, places: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """As `in_maps`, with the queries last: runtimes add up the points of all queries at once, and slowly one by one."""
    batch, _, heads, width = value.shape
    total = value.new_zeros(batch * heads, width, places.shape[1])
    for level, part in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width, *shapes[level])
        grid = (2 * places[:, :, :, level] - 1).permute(0, 2, 3, 1, 4).flatten(0, 1)  # (B M, P, Q, 2)
        of_level = weights[:, :, :, level].permute(0, 2, 3, 1).flatten(0, 1)  # (B M, P, Q)
        looked_up = F.grid_sample(maps, grid, align_corners=False)  # (B M, D, P, Q)
        total = total + (looked_up * of_level[:, None]).sum(2)
    return total.view(batch, heads * width, -1).transpose(1, 2)


def discrete_attention(value: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of cells of maps, the nearest of the map for places outside; as `deformable_attention`.

    Lv, Zhao, Chang, Huang, Wang, Liu, "RT-DETRv2", 2024. A place is rounded from cells counted at their left and top
    edges, as in the authors' program; it gets no gradient.
    """
    batch, _, heads, _ = value.shape
    size = sent([(w, h) for h, w in shapes], value.device, torch.float32)[:, None]  # (L, 1, 2)
    cell = (places.float() * size + 0.5).long().clamp(min=0).minimum((size - 1).long())
    x, y = cell.unbind(-1)  # (B, Q, M, L, P)
    ends = [h * w for h, w in shapes]
    first = sent([sum(ends[:level]) for level in range(len(ends))], value.device)[:, None]
    row = first + y * size[..., 0].long() + x
    head = torch.arange(heads, device=value.device)[:, None, None]
    image = torch.arange(batch, device=value.device)[:, None, None, None, None]
    looked_up = value[image, row, head].flatten(3, 4)  # (B, Q, M, L P, D)
    return (weights.flatten(3)[..., None, :].to(value.dtype) @ looked_up).squeeze(3).flatten(2)


class DeformableAttention(nn.Module):
    """
    Args:
        width: channels C of queries and memory.
        points: sampling points per head and level.
        slow_offsets: sampling offsets learn at a tenth of the rate, as in Deformable DETR.
        discrete: the nearest cells are looked at, without interpolation, as RT-DETR v2 can.
    """

    def __init__(
        self,
        width: int,
        heads: int = 8,
        levels: int = 4,
        points: int = 4,
        *,
        slow_offsets: bool = True,
        discrete: bool = False,
    ) -> None:
        super().__init__()
        self.attend = discrete_attention if discrete else deformable_attention
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        if slow_offsets:
            self.sampling_offsets.lr_scale = 0.1  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize: each head samples in its own direction, points at increasing distances, equal weights."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        way = torch.stack((angle.cos(), angle.sin()), -1)
        way = way / way.abs().amax(-1, keepdim=True)
        reach = torch.arange(1, self.points + 1)
        offsets = way[:, None, None] * reach[:, None]  # (M, 1, P, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, query: Tensor, places: Tensor, memory: Tensor, shapes: Shapes, padding: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            query: (B, Q, C).
            places: (B, Q, L, 2) reference points x, y, or (B, Q, L, 4) boxes as cx cy w h, relative to each level.
            memory: (B, S, C).
            padding: (B, S), True for padding.

        Returns:
            (B, Q, C).
        """
        batch, queries, _ = query.shape
        grid = (batch, queries, self.heads, self.levels, self.points)
        value = self.value_proj(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0)
        value = value.unflatten(-1, (self.heads, -1))
        weights = self.attention_weights(query).view(*grid[:3], -1).softmax(-1).view(grid)
        offsets = self.sampling_offsets(query).view(*grid, 2)
        looks = around(places, offsets, shapes)
        return self.output_proj(self.attend(value, shapes, looks, weights))


def around(references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
    """(B, Q, L, 2 or 4), (B, Q, M, L, P, 2) -> (B, Q, M, L, P, 2).

    Offsets are in cells around a point; around a box, P units reach from its center to its side.
    """
    references = references[:, :, None, :, None]
    if references.shape[-1] == 2:
        sizes = sent([(w, h) for h, w in shapes], offsets.device, offsets.dtype)[:, None]
        if shapes_are_fixed():  # tensors of one shape, since runtimes are slow to repeat a few numbers
            cells = offsets.flatten(2) / sizes.expand(offsets.shape[2:]).flatten()
            return references.expand(offsets.shape) + cells.view(offsets.shape)
        return references + offsets / sizes
    return references[..., :2] + offsets / offsets.shape[-2] * references[..., 2:] * 0.5
