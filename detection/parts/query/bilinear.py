"""Weighted sums of bilinear samples of maps, as sparse sums of table rows: deformable attention on a CPU.

A bilinear sample at (x, y) has weights max(0, 1 - |x - column|) times the same for the row, so it is a sum over four
cells of a map. The table has one row for each cell and head.

    forward              embedding_bag: for each query and head, the weighted sum of its rows
    backward  to samples sampled_addmm: dot products of these rows with the gradient, times the derivative of the
        weights
              to rows    samples sorted by cell, embedding_bag over gradients, then one addition per cell

Queries are processed a few hundred at a time, so that their samples stay in the cache, and the backward pass recomputes
them, so that only the inputs are saved. The order of every sum is fixed: equal inputs give bit-identical results.

Shape letters: B images, Q queries, R = S M rows (S cells of all levels, M heads), D channels of a head, L levels,
P points, T = L P samples of a head, N = M T samples of a query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TOGETHER = 512  # queries
NOWHERE = 1e9  # a distance at which every bilinear weight is 0


class Grid(NamedTuple):
    """Constants for the N samples of a query, x before y where there are two."""

    heads: int
    looks: int  # T
    size: Tensor  # (N, 2) columns and lines of the map that is looked at
    last: Tensor  # (N, 2) the last cell that has a far side, if there is one
    beyond: Tensor  # (N, 2) from the near side of a cell to its far side
    first: Tensor  # (N,) int32 row of the map's first place
    line: Tensor  # (N,) int32 rows from a line to the next
    right: Tensor  # (N,) int32 rows from a corner of a cell to the one right of it
    below: Tensor  # (N,) int32 and to the one below it


class Taps(NamedTuple):
    """The four cells around each sample of some queries."""

    near: Tensor  # (Q, N, 2) from the upper left corner of the cell to the look
    far: Tensor  # (Q, N, 2) from its lower right corner
    rows: tuple[Tensor, ...]  # four (Q, N) int32: upper left, upper right, lower left, lower right


def grid_of(shapes: Sequence[tuple[int, int]], heads: int, points: int, like: Tensor) -> Grid:
    """The constants for maps of (height, width), concatenated, with one row for each cell and head."""
    height, width = torch.tensor(shapes, device=like.device).T
    place = (height * width).cumsum(0) - height * width
    head = torch.arange(heads, device=like.device)[:, None, None]

    def each(per_level: Tensor) -> Tensor:
        return (per_level[:, None] + 0 * head).expand(heads, len(shapes), points).flatten()

    size = torch.stack((each(width), each(height)), 1)
    return Grid(
        heads,
        len(shapes) * points,
        size.to(like),
        (size - 2).clamp(min=0).to(like),
        torch.where(size > 1, 1, NOWHERE).to(like),
        (each(place) * heads + head.expand(heads, len(shapes), points).flatten()).int(),
        (each(width) * heads).int(),
        (each(width > 1) * heads).int(),
        (each((height > 1) * width) * heads).int(),
    )


class LookedUp(torch.autograd.Function):
    """Tables (B, R, D), points (B, Q, N, 2) from 0 to 1, weights (B, Q, N) -> (B, Q M, D); all float32 or float64."""

    @staticmethod
    def forward(ctx: Any, tables: Tensor, places: Tensor, weights: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(tables, places, weights)
        ctx.grid = grid
        return look_up(tables, places, weights, *grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return *look_back(received[0].contiguous(), *ctx.saved_tensors, *ctx.grid), None


GRID = "int heads, int looks, " + ", ".join(f"Tensor {name}" for name in Grid._fields[2:])


@torch.library.custom_op(
    "chordate::look_up", mutates_args=(), schema=f"(Tensor tables, Tensor places, Tensor weights, {GRID}) -> Tensor"
)
def look_up(tables: Tensor, places: Tensor, weights: Tensor, *constants: Any) -> Tensor:
    """The forward pass, as a single operation."""
    grid = Grid(*constants)
    sums = tables.new_empty(len(tables), places.shape[1] * grid.heads, tables.shape[2])
    for image, queries, heads in parts(places, grid):
        taps = located(places[image, queries], grid)
        shares = spread(weights[image, queries], hat(taps.near), hat(taps.far))
        of_corners = [
            F.embedding_bag(rows.view(-1, grid.looks), tables[image], mode="sum", per_sample_weights=share)
            for rows, share in zip(taps.rows, (share.view(-1, grid.looks) for share in shares), strict=True)
        ]
        torch.sum(torch.stack(of_corners), 0, out=sums[image, heads])
    return sums


@look_up.register_fake
def _(tables: Tensor, places: Tensor, weights: Tensor, heads: int, *_: Any) -> Tensor:
    return tables.new_empty(tables.shape[0], places.shape[1] * heads, tables.shape[2])


@torch.library.custom_op(
    "chordate::look_back",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor tables, Tensor places, Tensor weights, {GRID}) -> (Tensor, Tensor, Tensor)",
)
def look_back(
    gradient: Tensor, tables: Tensor, places: Tensor, weights: Tensor, *constants: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass, as a single operation: gradients of tables, places and weights."""
    grid = Grid(*constants)
    to_tables, to_places, to_weights = torch.zeros_like(tables), torch.empty_like(places), torch.empty_like(weights)
    for image, queries, heads in parts(places, grid):
        said, counts = gradient[image, heads], weights[image, queries]
        taps = located(places[image, queries], grid)
        dots = [dot_products(rows.view(-1, grid.looks), tables[image], said) for rows in taps.rows]
        near, far = hat(taps.near), hat(taps.far)
        to_looks(
            [dot.view_as(counts) for dot in dots],
            (near, far),
            (slope(taps.near).mul_(grid.size), slope(taps.far).mul_(grid.size)),
            counts,
            (to_places[image, queries], to_weights[image, queries]),
        )
        to_rows(to_tables[image], taps.rows, spread(counts, near, far), said, grid.looks)
    return to_tables, to_places, to_weights


@look_back.register_fake
def _(gradient: Tensor, tables: Tensor, places: Tensor, weights: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(tables), torch.empty_like(places), torch.empty_like(weights)


def parts(places: Tensor, grid: Grid) -> Iterator[tuple[int, slice, slice]]:
    """Chunks: (image, slice of its queries, slice of the output rows)."""
    for image in range(places.shape[0]):
        for first in range(0, places.shape[1], TOGETHER):
            last = min(first + TOGETHER, places.shape[1])
            yield image, slice(first, last), slice(first * grid.heads, last * grid.heads)


def located(places: Tensor, grid: Grid) -> Taps:
    """Points (Q, N, 2) from 0 to 1 -> their cells: the nearest one for points outside the map, the first for NaN."""
    at = torch.mul(places, grid.size).sub_(0.5)
    cell = at.floor().clamp_(torch.zeros_like(grid.last), grid.last).nan_to_num_(0)
    near = at.sub_(cell)
    x, y = cell.int().unbind(-1)
    upper = torch.addcmul(grid.first, y, grid.line).add_(x, alpha=grid.heads)
    lower = upper + grid.below
    return Taps(near, near - grid.beyond, (upper, upper + grid.right, lower, lower + grid.right))


def hat(s: Tensor) -> Tensor:
    """Bilinear weight at a distance along one axis."""
    return s.abs().neg_().add_(1).clamp_(min=0)


def slope(s: Tensor) -> Tensor:
    """Derivative of the bilinear weight; the right-hand one at kinks, as in grid_sample."""
    return torch.copysign(torch.ones_like(s), s).neg_().mul_((s >= -1) & (s < 1))


def spread(weights: Tensor, near: Tensor, far: Tensor) -> list[Tensor]:
    """Weights (Q, N), bilinear weights (Q, N, 2) of both sides of a cell -> (Q, N) weight of each corner."""
    return [line * x[..., 0] for line in (weights * near[..., 1], weights * far[..., 1]) for x in (near, far)]


def dot_products(rows: Tensor, table: Tensor, vectors: Tensor) -> Tensor:
    """Rows (V, T), table (R, D), vectors (V, D) -> dot products (V T,) of each vector with its rows."""
    starts = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=torch.int32)
    wanted = torch.sparse_csr_tensor(
        starts, rows.flatten(), table.new_zeros(rows.numel()), (len(rows), len(table)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(wanted, vectors, table.T, beta=0.0).values()


def to_looks(
    dots: Sequence[Tensor],
    hats: tuple[Tensor, Tensor],
    slopes: tuple[Tensor, Tensor],
    weights: Tensor,
    into: tuple[Tensor, Tensor],
) -> None:
    """Gradients of points and weights, from the dot products (Q, N) of the corners' rows with the output gradient."""
    (near_x, near_y), (far_x, far_y) = (hat.unbind(-1) for hat in hats)
    (near_slope_x, near_slope_y), (far_slope_x, far_slope_y) = (slope.unbind(-1) for slope in slopes)
    to_places, to_weights = into
    upper_left, upper_right, lower_left, lower_right = dots
    upper, lower = near_x * upper_left + far_x * upper_right, near_x * lower_left + far_x * lower_right
    left, right = near_y * upper_left + far_y * lower_left, near_y * upper_right + far_y * lower_right
    torch.addcmul(near_y * upper, far_y, lower, out=to_weights)
    torch.mul(near_slope_x * left + far_slope_x * right, weights, out=to_places[..., 0])
    torch.mul(near_slope_y * upper + far_slope_y * lower, weights, out=to_places[..., 1])


def to_rows(table: Tensor, rows: Sequence[Tensor], shares: Sequence[Tensor], vectors: Tensor, looks: int) -> None:
    """Add the weighted vectors (V, D) to the rows of (R, D); vector v has the entries v T to v T + T.

    Samples in the same cell share all four rows, so sorting by the first row is enough.
    """
    cell, order = rows[0].flatten().sort(stable=True)
    counts = torch.unique_consecutive(cell, return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    one_of_each = order[starts]
    source = order.div(looks, rounding_mode="floor")
    for row, share in zip(rows, shares, strict=True):
        share = share.flatten().index_select(0, order)
        sums = F.embedding_bag(source, vectors, starts, mode="sum", per_sample_weights=share)
        table.index_add_(0, row.flatten()[one_of_each].long(), sums)
