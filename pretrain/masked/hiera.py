"""Masked Hiera: the stages of a Hiera see two fifths of the mask units; a small decoder tells the pixels of the others.

Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles", 2023.

    units -> [keep some] -> stages of 8x8, 4x4, 2x2, 2x2 tokens -> brought to 2x2, summed -> norm -> decoder -> pixels

The last stage is not pooled here, so that a unit is still four places of 16x16 pixels at the end; its weights are the
ones that see a single token per unit afterwards.

Shape letters: B images, U mask units, M seen, K hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.hiera import UNIT, forward_units, hiera_of, unit_grid
from pretrain.masked.decoder import Decoder, draw_weights
from pretrain.masked.places import count_seen, patches_of, pixel_loss, split_places, taken

SIDE = 2  # places along a unit, when its tokens have been pooled twice
PLACE = UNIT // SIDE  # pixels along a place


class MaskedHiera(nn.Module):
    """A Hiera and its decoder. The norm before the decoder is the one before the backbone's pooled vector.

    Args:
        backbone: a Hiera of any kind.
        size: (height, width) of the images.
        ratio: share of the mask units that are hidden.
        width, depth, heads: of the decoder.
        norm_pixels: predict each place less its own mean, over its own deviation.
        fresh: initialize the backbone's weights as in the paper, instead of keeping them.

    Raises:
        UsageError: no Hiera, mask units that do not divide the image, a ratio that leaves nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: tuple[int, int],
        *,
        ratio: float = 0.6,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        norm_pixels: bool = True,
        fresh: bool = False,
    ) -> None:
        super().__init__()
        net, (rows, cols) = hiera_of(backbone), unit_grid(size)
        self.seen = count_seen(rows * cols, ratio)
        self.backbone, self.norm_pixels = backbone, norm_pixels
        if fresh:
            draw_weights(net)
        channels = [info["num_chs"] for info in net.feature_info]
        self.fuse = nn.ModuleList(
            nn.Conv2d(c, channels[-1], side // SIDE, stride=side // SIDE)
            for c, side in zip(channels, (8, 4), strict=False)
        )
        numbers = torch.arange(rows * cols * SIDE**2).view(rows, SIDE, cols, SIDE)
        self.register_buffer("places", numbers.transpose(1, 2).reshape(rows * cols, -1), persistent=False)
        positions = nn.Parameter(torch.empty(numbers.numel(), width))
        nn.init.trunc_normal_(positions, std=0.02)
        self.decoder = Decoder(channels[-1], positions, 3 * PLACE**2, depth=depth, heads=heads)

    places: Tensor  # (U, 4): the places of each unit

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), (B, U) of which the least are seen, drawn when not given -> (), the loss"""
        noise = torch.rand(len(x), len(self.places), device=x.device) if noise is None else noise
        seen, hidden = split_places(noise, self.seen)
        truth = taken(patches_of(x, PLACE, PLACE), self.places[hidden].flatten(1))
        return pixel_loss(self.predict(x, seen, hidden), truth, normalize=self.norm_pixels)

    def predict(self, x: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """(B, 3, H, W), (B, M) and (B, K) units -> (B, 4 * K, 768) predicted pixels of the masked units"""
        at, asked = (self.places[units].flatten(1) for units in (seen, hidden))
        return self.decoder(self.encode(x, seen).flatten(1, 2), at, asked)

    def encode(self, x: Tensor, seen: Tensor) -> Tensor:
        """(B, 3, H, W), (B, M) units -> (B, M, 4, C): the four places of each, fused from all scales"""
        *finer, _, last = forward_units(self.backbone, x, seen, poolings=2)
        fused = last.flatten(2, 3)
        for conv, squares in zip(self.fuse, finer, strict=True):
            here = conv(squares.flatten(0, 1).permute(0, 3, 1, 2))  # (B * M, C, 2, 2)
            fused = fused + here.flatten(2).transpose(1, 2).unflatten(0, seen.shape)
        return hiera_of(self.backbone).head.norm(fused)
