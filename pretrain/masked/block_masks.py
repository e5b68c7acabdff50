"""I-JEPA's masks: some blocks of patches to predict, and one large block, without those, to predict them from.

Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", 2023.

    step -> sizes of the blocks, the same in every process -> each image's own places -> indices of patches

Letters: B images, K target blocks of T patches each, M patches of context, N patches of the grid, P places of a block.
Patches are counted row by row; all sizes are (down, across), in patches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.errors import UsageError

TARGET_SCALE, TARGET_ASPECT = (0.15, 0.2), (0.75, 1.5)
CONTEXT_SCALE, CONTEXT_ASPECT = (0.85, 1.0), (1.0, 1.0)

Size = tuple[int, int]


class Masks(NamedTuple):
    """Which patches are seen, and which are predicted."""

    context: Tensor  # (B, M), ascending
    targets: Tensor  # (B, K, T), ascending


class BlockMasks:
    """Draws masks for images of one size.

    Args:
        grid: patches of an image.
        num_targets: blocks to predict, which may overlap each other.
        min_keep: the context keeps more patches than this, 0 or more.

    Raises:
        UsageError: on so small a grid no context could keep enough.
    """

    def __init__(self, grid: Size, *, num_targets: int = 4, min_keep: int = 10) -> None:
        self.grid, self.num_targets, self.min_keep = grid, num_targets, min_keep
        smallest = block_size(grid, CONTEXT_SCALE, CONTEXT_ASPECT, 0.0)
        if math.prod(smallest) <= min_keep:
            raise UsageError(
                f"a grid of {grid[0]}x{grid[1]} patches is too small to mask: its context block has "
                f"{math.prod(smallest)} patches and is to keep more than {min_keep}; "
                f"take a larger --size, a smaller patch or a smaller --min-keep"
            )

    def sizes(self, step: int) -> tuple[Size, Size]:
        """Size of the target blocks and of the context block: a function of the step's number and nothing else."""
        target, context = torch.rand(2, generator=torch.Generator().manual_seed(step)).tolist()
        return (
            block_size(self.grid, TARGET_SCALE, TARGET_ASPECT, target),
            block_size(self.grid, CONTEXT_SCALE, CONTEXT_ASPECT, context),
        )

    def draw(self, count: int, step: int) -> Masks:
        """Masks of `count` images in a step; where the blocks lie follows torch's random state.

        Images of a batch must keep equally many patches: each gives up its last ones beyond what the poorest has.
        """
        target_size, context_size = self.sizes(step)
        down, across = (side - block + 1 for side, block in zip(self.grid, target_size, strict=True))
        tops, lefts = (torch.randint(places, (count, self.num_targets)) for places in (down, across))
        targets = self.patches(tops, lefts, target_size)
        seen = self.place_context(targets, context_size)
        kept = int(seen.sum(1).min())
        return Masks(seen.int().argsort(dim=1, descending=True, stable=True)[:, :kept], targets)

    def beside(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """The same as a plain pair, in the order of arguments in which the feed asks."""
        context, targets = self.draw(count, step)
        return context, targets

    def place_context(self, targets: Tensor, size: Size) -> Tensor:
        """(B, K, T) -> (B, N), true where the context sees: a block at a random place, without the targets.

        Only places that leave more than `min_keep` patches come into question. An image that has none lets the context
        see its last target, then the one before, until there is one. The paper tries twenty places before it gives
        up a target; looking at all of them gives up fewer.
        """
        images = torch.arange(len(targets))
        free_BKN = self.free_of_the_first(targets)
        grids = free_BKN.float().unflatten(2, self.grid)
        kept_BKP = F.avg_pool2d(grids, size, stride=1, divisor_override=1).flatten(2)
        enough_BKP = kept_BKP > self.min_keep
        respected = enough_BKP.any(2).sum(1) - 1  # more targets leave less: what is enough with many is so with fewer
        place = enough_BKP[images, respected].float().multinomial(1).squeeze(1)
        across = self.grid[1] - size[1] + 1
        block = self.patches(place // across, place % across, size)
        return torch.zeros_like(free_BKN[:, 0]).scatter(1, block, True) & free_BKN[images, respected]

    def free_of_the_first(self, targets: Tensor) -> Tensor:
        """(B, K, T) -> (B, K + 1, N): what is left of the grid without the first 0, 1, .. K targets."""
        count, blocks, _ = targets.shape
        covers = torch.zeros(count, 1 + blocks, math.prod(self.grid), dtype=torch.bool)
        covers[:, 1:].scatter_(2, targets, True)
        return covers.cumsum(1) == 0

    def patches(self, top: Tensor, left: Tensor, size: Size) -> Tensor:
        """Corners (...) of blocks of one size -> (..., T), the indices of their patches."""
        rows = top[..., None] + torch.arange(size[0])
        columns = left[..., None] + torch.arange(size[1])
        return (rows[..., None] * self.grid[1] + columns[..., None, :]).flatten(-2)


def block_size(grid: Size, scale: tuple[float, float], aspect: tuple[float, float], chance: float) -> Size:
    """A block's size: area and aspect (down / across) lie the same way, `chance`, between their bounds.

    No side reaches across the whole grid, or the block could lie nowhere else.
    """
    area = math.prod(grid) * (scale[0] + chance * (scale[1] - scale[0]))
    shape = aspect[0] + chance * (aspect[1] - aspect[0])
    down, across = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
    return min(max(down, 1), grid[0] - 1), min(max(across, 1), grid[1] - 1)
