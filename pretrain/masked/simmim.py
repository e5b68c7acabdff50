"""SimMIM: any backbone sees an image with masked squares; one linear layer predicts their pixels.

Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", 2022.

    image -> [mask token in the masked cells] -> backbone -> coarsest map -> 1x1 convolution, pixel shuffle -> pixels

The mask token replaces patch embeddings (plain ViTs and Swin), or pixels in any other network, where it is a learned
color.

Shape letters: B images, R x S cells, C channels and h x w cells of the coarsest map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.freeze import freeze_unreached
from backbones.tokens import freeze_beyond_tokens, has_tokens
from pretrain.masked.places import count_seen, split_places
from shared.errors import UsageError

CELL, LEAST = 32, 6  # pixels along a cell, and the fewest cells along an image: the paper's 192 pixels


class SimMIM(nn.Module):
    """Any backbone and its prediction head.

    Args:
        backbone: any.
        size: (height, width) of the images.
        ratio: fraction of masked cells.
        cell: side of a cell in pixels; 0 for 32, or less for images with fewer than six cells per side.

    Raises:
        UsageError: cells, patches or strides that do not divide the image, or an invalid ratio.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], *, ratio: float = 0.6, cell: int = 0) -> None:
        super().__init__()
        self.backbone, self.patched = backbone, has_tokens(backbone) or is_swin(backbone)
        self.backbone_calls = () if self.patched else ("forward_features",)
        channels, stride = backbone.maps[-1]
        if size[0] % stride or size[1] % stride:
            near = [max(1, round(side / stride)) * stride for side in size]
            raise UsageError(
                f"the coarsest map, of stride {stride}, does not divide an image of {size[0]}x{size[1]}; "
                f"take --size {near[0]} {near[1]}"
            )
        net: Any = getattr(backbone, "net", None)
        unit, width = (net.patch_embed.patch_size[0], net.embed_dim) if self.patched else (1, 3)
        self.cell = choose_cell(cell, size, unit)
        self.cells = (size[0] // self.cell, size[1] // self.cell)
        self.seen = count_seen(self.cells[0] * self.cells[1], ratio)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.predict = nn.Sequential(nn.Conv2d(channels, 3 * stride**2, 1), nn.PixelShuffle(stride))
        if self.patched:
            nn.init.trunc_normal_(self.mask_token, std=0.02)
        if has_tokens(backbone):
            freeze_beyond_tokens(backbone)
        elif not self.patched:
            freeze_unreached(backbone, [len(backbone.maps) - 1])

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W), noise (B, R * S) whose smallest values are visible, random if None -> loss ()"""
        noise = torch.rand(len(x), self.cells[0] * self.cells[1], device=x.device) if noise is None else noise
        _, hidden = split_places(noise, self.seen)
        mask = torch.zeros_like(noise).scatter_(1, hidden, 1).view(-1, 1, *self.cells)
        distance = (self.fill(x, mask).float() - x).abs() * grown(mask, x.shape[-2:])
        return distance.sum() / (3 * hidden.numel() * self.cell**2)

    def fill(self, x: Tensor, mask: Tensor) -> Tensor:
        """Images (B, 3, H, W), mask (B, 1, R, S) with 1 for masked -> predicted pixels (B, 3, H, W)"""
        if not self.patched:
            mask = grown(mask, x.shape[-2:])
            x = x * (1 - mask) + self.mask_token[:, None, None] * mask
            return self.predict(self.backbone.forward_features(x)[-1])
        net: Any = self.backbone.net
        x = net.patch_embed(x)  # (B, h, w, C) or (B, N, C)
        patch = net.patch_embed.patch_size[0]
        grid = (self.cells[0] * self.cell // patch, self.cells[1] * self.cell // patch)
        mask = grown(mask, grid).view(len(x), *x.shape[1:-1], 1)
        x = x * (1 - mask) + self.mask_token * mask
        return self.predict(swin_map(net, x) if is_swin(self.backbone) else vit_map(net, x, grid))


def vit_map(net: Any, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Embedded patches -> (B, C, h, w)"""
    tokens = net.norm(net.blocks(net.norm_pre(net._pos_embed(x))))
    return tokens[:, net.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid)


def swin_map(net: Any, x: Tensor) -> Tensor:
    """Embedded patches (B, H, W, C) -> (B, C', h, w)"""
    return net.norm(net.layers(x)).permute(0, 3, 1, 2)


def is_swin(backbone: Backbone) -> bool:
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    return isinstance(getattr(backbone, "net", None), SwinTransformer | SwinTransformerV2)


def grown(mask: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(B, 1, R, S) -> (B, 1, *size), nearest neighbor."""
    return F.interpolate(mask, tuple(size), mode="nearest")


def choose_cell(asked: int, size: tuple[int, int], unit: int) -> int:
    """Side of a cell: the requested one, or the largest up to 32 pixels with at least six per image side."""
    fitting = [side for side in range(unit, min(size) + 1, unit) if size[0] % side == 0 == size[1] % side]
    if not asked:
        return max((side for side in fitting if side <= CELL and min(size) // side >= LEAST), default=fitting[0])
    if asked not in fitting:
        raise UsageError(
            f"mask cells of {asked} pixels do not divide an image of {size[0]}x{size[1]} into whole patches of {unit}; "
            f"take --mask-size {' or '.join(map(str, fitting))}"
        )
    return asked
