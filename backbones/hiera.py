"""Hiera: a transformer in four stages over mask units, squares of 8x8 tokens that can be left out one by one.

Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles", 2023; window positions as in
Bolya et al., "Window Attention is Bugged", 2023 (the `abswin` rows: what HieraDet starts from).

    image -> tokens of 4x4 pixels + positions -> [keep some units] -> stages of 8x8, 4x4, 2x2, 1 tokens per unit

Weights and blocks are timm's, whose walk through them knows one image size; the walk here takes any that 32 divides.
Tokens lie as the blocks want them: pooling 2x2 of them is a maximum over the first of their axes.

Shape letters: B images, U mask units of an image, M of them seen, s tokens along a unit.
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

UNIT = 32  # pixels along a mask unit
LEVELS = 3  # times that its 8 tokens a side can be halved

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
    """A Hiera over images of any size that 32 divides, square or not.

    Args:
        row: which, and how it differs from timm's.
        pretrained: fetch timm's published weights.
        drop_path: stochastic depth; None takes what comes with the name.
        img_size: height and width that learned positions are made for; None takes 224, and window positions need none.
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
                "nobody publishes timm weights for a Hiera with window positions; name a --backbone-tag, or train one"
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
    """Is it a Hiera, made here or by timm?"""
    from timm.models.hiera import Hiera as TimmHiera

    return isinstance(getattr(backbone, "net", None), TimmHiera)


def hiera_of(backbone: Backbone) -> Any:
    """timm's Hiera inside a backbone.

    Raises:
        UsageError: it is none.
    """
    if not has_units(backbone):
        raise UsageError("this method works on the mask units of a Hiera; take one such as hiera_abswin_base")
    return backbone.net


def unit_grid(size: tuple[int, int] | torch.Size) -> tuple[int, int]:
    """Mask units down and across an image of (height, width).

    Raises:
        UsageError: they do not divide it.
    """
    height, width = size
    if height % UNIT or width % UNIT:
        near = [max(1, round(side / UNIT)) * UNIT for side in (height, width)]
        raise UsageError(
            f"mask units of {UNIT} pixels do not divide an image of {height}x{width}; take --size {near[0]} {near[1]}"
        )
    return height // UNIT, width // UNIT


def forward_units(backbone: Backbone, x: Tensor, keep: Tensor | None = None, *, poolings: int = LEVELS) -> list[Tensor]:
    """What each stage makes of the mask units of an image, or of those that are kept.

    Units left out are blanked before the first convolution, whose kernel looks over their edges, and cost nothing from
    there on. The weights of a stage are the same whether its tokens are pooled or not.

    Args:
        x: (B, 3, H, W).
        keep: (B, M) numbers of the units to see, counted row by row; all U of them without.
        poolings: how many stage borders halve a unit's side: 3, or 2 for masked pretraining.

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
    """(1, N, C) of the tokens of so many units, row by row: learned for one size, resampled for another."""
    size = (8 * rows, 8 * cols)
    if net.pos_embed_win is not None:
        everywhere = F.interpolate(net.pos_embed, size, mode="bicubic", antialias=True)
        return (everywhere + net.pos_embed_win.tile(1, 1, rows, cols)).flatten(2).transpose(1, 2)
    if size == tuple(net.tokens_spatial_shape):
        return net.pos_embed
    learned = net.pos_embed.transpose(1, 2).unflatten(2, tuple(net.tokens_spatial_shape))
    return F.interpolate(learned, size, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)


def unpooled(block: Any, x: Tensor) -> Tensor:
    """A block that would pool its tokens, without pooling; through its own call, which sharded weights hear."""
    stride, block.attn.q_stride = block.attn.q_stride, 1
    x = block(x)
    block.attn.q_stride = stride
    return x


def in_units(x: Tensor, rows: int, cols: int) -> Tensor:
    """(B, N, C) row by row -> (B, U, 64, C): the least bits of y and x inside a unit first, as pooling wants them."""
    bits = x.view(len(x), rows, 2, 2, 2, cols, 2, 2, 2, -1)
    return bits.permute(0, 1, 5, 4, 8, 3, 7, 2, 6, 9).flatten(3, 8).flatten(1, 2)


def in_squares(x: Tensor, units: int, levels: int) -> Tensor:
    """(B, 4 ** levels * M, C) as the blocks hold it -> (B, M, s, s, C), s = 2 ** levels, in the order of the image."""
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
