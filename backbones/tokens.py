"""Tokens of vision transformers: one vector per patch, computed from all patches or from a subset.

    image -> patches -> + positions -> [keep some] -> (registers, class token) + blocks -> norm -> tokens

Used by masked pretraining: the network's own weights, run on the visible tokens only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backbones.base import Backbone
from shared.errors import UsageError

MAKES_TOKENS = ("cls_token", "reg_token", "dist_token", "patch_embed", "pos_embed", "norm_pre", "blocks", "norm")


def forward_tokens(backbone: Backbone, x: Tensor, keep: Tensor | None = None) -> Tensor:
    """(B, 3, H, W), indices (B, M) of visible patches, row by row -> (B, M, width); all N patches if None.

    Other patches are dropped before the first block.
    """
    net = vit_of(backbone)
    x = net._pos_embed(net.patch_embed(x))
    if keep is not None:
        prefix = net.num_prefix_tokens
        x = torch.cat((x[:, :prefix], take_tokens(x[:, prefix:], keep)), 1)
    x = net.norm(net.blocks(net.norm_pre(x)))
    return x[:, net.num_prefix_tokens :]


def take_tokens(x: Tensor, indices: Tensor) -> Tensor:
    """(B, N, D), indices (B, M) -> (B, M, D)"""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[-1]))


def token_grid(backbone: Backbone, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches in an image of (height, width).

    Raises:
        UsageError: the backbone has no tokens, or the patch does not divide the image.
    """
    tall, wide = vit_of(backbone).patch_embed.patch_size
    if size[0] % tall or size[1] % wide:
        raise UsageError(
            f"patches of {tall}x{wide} pixels do not divide an image of {size[0]}x{size[1]}; "
            f"take --size {max(1, round(size[0] / tall)) * tall} {max(1, round(size[1] / wide)) * wide}"
        )
    return size[0] // tall, size[1] // wide


def has_tokens(backbone: Backbone) -> bool:
    """True for a vision transformer whose patches are embedded independently."""
    from timm.layers.patch_embed import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    net = getattr(backbone, "net", None)
    return isinstance(net, VisionTransformer) and isinstance(net.patch_embed, PatchEmbed)


def vit_of(backbone: Backbone) -> Any:
    """timm's plain vision transformer of a backbone.

    Raises:
        UsageError: it is not one.
    """
    if not has_tokens(backbone):
        raise UsageError(
            "this method needs a plain vision transformer, and this backbone is not one; "
            "use one such as vit_reg4_m16_rms_avg or vit_base_patch16_224"
        )
    return backbone.net


def freeze_beyond_tokens(backbone: Backbone) -> list[str]:
    """Freeze parameters that no token depends on, such as a pooling head; returns their names."""
    idle = [name for name, _ in vit_of(backbone).named_parameters() if name.split(".")[0] not in MAKES_TOKENS]
    for name in idle:
        backbone.get_parameter(f"net.{name}").requires_grad_(False)
    return idle


def fix_sincos_positions(backbone: Backbone) -> None:
    """Replace a ViT's learned positions by fixed sine-cosine ones, half the channels for rows, half for columns.

    A ViT without learned absolute positions is left unchanged.
    """
    net = vit_of(backbone)
    if net.pos_embed is None:
        return
    rows, cols = net.patch_embed.grid_size
    patches = sincos_positions(rows, cols, net.embed_dim)
    prefix = net.pos_embed.shape[1] - len(patches)
    with torch.no_grad():
        net.pos_embed.zero_()
        net.pos_embed[0, prefix:] = patches.to(net.pos_embed)
    net.pos_embed.requires_grad_(False)


def sincos_positions(rows: int, cols: int, width: int) -> Tensor:
    """(rows * cols, width): sines then cosines of the column, then of the row, at width / 4 frequencies from 1 to 1e-4.

    Vaswani et al., 2017, in two dimensions. Raises UsageError when 4 does not divide the width.
    """
    if width % 4:
        raise UsageError(f"sine-cosine positions need a width divisible by 4, not {width}")
    frequencies = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (x, y)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()
