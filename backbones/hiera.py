"""Hiera: a four-stage transformer over mask units of 8x8 tokens, which can be masked one by one.

Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles", 2023; window positions as in
Bolya et al., "Window Attention is Bugged", 2023 (the `abswin` rows: what HieraDet starts from).

    image -> tokens of 4x4 pixels + positions -> [keep some units] -> stages of 8x8, 4x4, 2x2, 1 tokens per unit

Weights and blocks are timm's, whose forward supports one image size; the forward here supports any multiple of 32.
Tokens are ordered so that 2x2 pooling is a maximum over the first axis.

Shape letters: B images, U mask units of an image, M visible ones, s tokens along a unit.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import backbone
from backbones.base import Backbone, MapInfo
from backbones.timm_zoo import Row, create
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats

UNIT = 32  # side of a mask unit in pixels
LEVELS = 3  # how often its side of 8 tokens can be halved

# fmt: off
ROWS = {
    "hiera_tiny":            Row("hiera_tiny_224", drop_path=0.1),
    "hiera_small":           Row("hiera_small_224", drop_path=0.1),
    "hiera_base":            Row("hiera_base_224", drop_path=0.1),
    "hiera_base_plus":       Row("hiera_base_plus_224", drop_path=0.1),
    "hiera_large":           Row("hiera_large_224", drop_path=0.2),
    "hiera_abswin_tiny":     Row("hiera_tiny_224", {"abs_win_pos_embed": True}, 0.1),
    "hiera_abswin_small":    Row("hiera_small_224", {"abs_win_pos_embed": True}, 0.1),
    "hiera_abswin_base":     Row("hiera_base_224", {"abs_win_pos_embed": True}, 0.1),
}
# fmt: on


class Hiera(Backbone):
    """Hiera for images of any size that is a multiple of 32.

    Args:
        row: the variant and its differences from timm's.
        pretrained: load timm's published weights.
        drop_path: stochastic depth; None for the default of the name.
        img_size: height and width of learned position embeddings; None for 224; unused with window positions.
    """

    def __init__(
        self,
        row: Row,
        *,
        pretrained: bool = False,
        drop_path: float | None = None,
        img_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if pretrained and row.args:
            raise WeightsError(
                "timm has no published weights for a Hiera with window positions; give a --backbone-tag, or train one"
            )
        args: dict[str, Any] = {"drop_path_rate": row.drop_path if drop_path is None else drop_path}
        if img_size:
            args["img_size"] = (height, width) = (img_size[0], img_size[1])
            unit_grid((height, width))
        self.net = create(row, pretrained, args)
        self.maps = tuple(MapInfo(f["num_chs"], f["reduction"]) for f in self.net.feature_info)
        self.width = self.net.num_features
        if pretrained:
            published = self.net.pretrained_cfg
            self.pixels = PixelStats(tuple(published["mean"]), tuple(published["std"]))

    def forward_features(self, x: Tensor) -> list[Tensor]:
        rows, cols = unit_grid(x.shape[-2:])
        return [spread_out(tokens, rows, cols) for tokens in forward_units(self, x)]

    def forward(self, x: Tensor) -> Tensor:
        return self.net.head(forward_units(self, x)[-1].flatten(1, 3))

    def stages(self) -> list[list[nn.Parameter]]:
        steps, ends = self.blocks(), [-1, 0, *(end + 1 for end in self.net.stage_ends)]
        return [[p for step in steps[a + 1 : b + 1] for p in step] for a, b in pairwise(ends)]

    def blocks(self) -> list[list[nn.Parameter]]:
        stem = [p for name, p in self.net.named_parameters() if not name.startswith(("blocks.", "head."))]
        steps = [stem, *(list(block.parameters()) for block in self.net.blocks)]
        steps[-1] += self.net.head.parameters()
        return steps


def has_units(backbone: Backbone) -> bool:
    """True for a Hiera of this module or of timm."""
    from timm.models.hiera import Hiera as TimmHiera

    return isinstance(getattr(backbone, "net", None), TimmHiera)


def hiera_of(backbone: Backbone) -> Any:
    """timm's Hiera module of a backbone.

    Raises:
        UsageError: it is not a Hiera.
    """
    if not has_units(backbone):
        raise UsageError("this method needs the mask units of a Hiera; use one such as hiera_abswin_base")
    return backbone.net


def unit_grid(size: tuple[int, int] | torch.Size) -> tuple[int, int]:
    """Rows and columns of mask units in an image of (height, width).

    Raises:
        UsageError: the size is not a multiple of the unit.
    """
    height, width = size
    if height % UNIT or width % UNIT:
        near = [max(1, round(side / UNIT)) * UNIT for side in (height, width)]
        raise UsageError(
            f"mask units of {UNIT} pixels do not divide an image of {height}x{width}; take --size {near[0]} {near[1]}"
        )
    return height // UNIT, width // UNIT


def forward_units(backbone: Backbone, x: Tensor, keep: Tensor | None = None, *, poolings: int = LEVELS) -> list[Tensor]:
    """Features of each stage for all mask units, or for those in `keep`.

    Other units are set to 0 before the first convolution, whose kernel overlaps unit borders, and are dropped after it.

    Args:
        x: (B, 3, H, W).
        keep: (B, M) indices of the visible units, row by row; None for all U.
        poolings: number of stage transitions that halve a unit's side: 3, or 2 for masked pretraining.

    Returns:
        Four tensors (B, M, s, s, C), s = 8, 4, 2 and 1, or 8, 4, 2 and 2 with two poolings.
    """
    net, (rows, cols) = hiera_of(backbone), unit_grid(x.shape[-2:])
    if keep is not None:
        shown = x.new_zeros(len(x), rows * cols).scatter_(1, keep, 1).view(-1, 1, rows, cols)
        x = x * shown.repeat_interleave(UNIT, 2).repeat_interleave(UNIT, 3)
    tokens = net.patch_embed(x) + positions(net, rows, cols)
    tokens = in_units(tokens, rows, cols)  # (B, U, 64, C)
    if keep is not None:
        tokens = tokens.gather(1, keep[..., None, None].expand(-1, -1, *tokens.shape[2:]))
    units, x = tokens.shape[1], tokens.transpose(1, 2).flatten(1, 2)
    outs: list[Tensor] = []
    for i, block in enumerate(net.blocks):
        pools = len(outs) <= poolings or i - 1 not in net.stage_ends
        x = block(x) if pools else unpooled(block, x)
        if i in net.stage_ends:
            outs.append(in_squares(x, units, LEVELS - min(len(outs), poolings)))
    return outs


def positions(net: Any, rows: int, cols: int) -> Tensor:
    """(1, N, C) position embeddings for a grid of units, row by row; resized from the learned size."""
    size = (8 * rows, 8 * cols)
    if net.pos_embed_win is not None:
        everywhere = F.interpolate(net.pos_embed, size, mode="bicubic", antialias=True)
        return (everywhere + net.pos_embed_win.tile(1, 1, rows, cols)).flatten(2).transpose(1, 2)
    if size == tuple(net.tokens_spatial_shape):
        return net.pos_embed
    learned = net.pos_embed.transpose(1, 2).unflatten(2, tuple(net.tokens_spatial_shape))
    return F.interpolate(learned, size, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)


def unpooled(block: Any, x: Tensor) -> Tensor:
    """Run a pooling block without its pooling; through __call__, so that FSDP hooks run."""
    stride, block.attn.q_stride = block.attn.q_stride, 1
    x = block(x)
    block.attn.q_stride = stride
    return x


def in_units(x: Tensor, rows: int, cols: int) -> Tensor:
    """(B, N, C) row by row -> (B, U, 64, C), ordered by the lowest bits of y and x within a unit, as pooling needs."""
    bits = x.view(len(x), rows, 2, 2, 2, cols, 2, 2, 2, -1)
    return bits.permute(0, 1, 5, 4, 8, 3, 7, 2, 6, 9).flatten(3, 8).flatten(1, 2)


def in_squares(x: Tensor, units: int, levels: int) -> Tensor:
    """(B, 4 ** levels * M, C) in block order -> (B, M, s, s, C) in image order, s = 2 ** levels."""
    bits = x.view(len(x), *[2] * (2 * levels), units, -1)
    down = [1 + 2 * level for level in reversed(range(levels))]
    unit = 2 * levels + 1
    squares = bits.permute(0, unit, *down, *(axis + 1 for axis in down), unit + 1)
    return squares.reshape(len(x), units, 2**levels, 2**levels, -1)


def spread_out(squares: Tensor, rows: int, cols: int) -> Tensor:
    """(B, U, s, s, C) -> (B, C, rows * s, cols * s)"""
    return squares.unflatten(1, (rows, cols)).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


for name, row in ROWS.items():
    backbone(name)(partial(Hiera, row))
