"""MAE: a vision transformer encodes a quarter of the patches; a small decoder predicts the pixels of the others.

He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022.

    patches -> [keep some] -> + positions -> (class token, registers) + blocks -> norm -> decoder -> hidden pixels

Shape letters: B images, N patches, M visible, K masked, T tokens besides patches, E channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.tokens import fix_sincos_positions, freeze_beyond_tokens, sincos_positions, token_grid, vit_of
from pretrain.masked.decoder import Decoder, draw_weights
from pretrain.masked.places import count_seen, patches_of, pixel_loss, split_places, taken


class MAE(nn.Module):
    """A plain ViT and a decoder, both with fixed sine-cosine positions.

    Args:
        backbone: with or without class token and registers, which are encoded and decoded with the patches.
        size: (height, width) of the images.
        ratio: fraction of masked patches.
        width, depth, heads: of the decoder.
        norm_pixels: normalize the target pixels of each patch by their own mean and standard deviation.
        fresh: initialize the backbone's weights as in the paper, instead of keeping them.

    Raises:
        UsageError: not a plain ViT, an image size that is not a multiple of the patch, or an invalid ratio.
    """

    def __init__(
        self,
        backbone: Backbone,
        size: tuple[int, int],
        *,
        ratio: float = 0.75,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        norm_pixels: bool = True,
        fresh: bool = False,
    ) -> None:
        super().__init__()
        net = vit_of(backbone)
        self.grid = token_grid(backbone, size)
        self.seen = count_seen(self.grid[0] * self.grid[1], ratio)
        self.tall, self.wide = net.patch_embed.patch_size
        self.backbone, self.norm_pixels = backbone, norm_pixels
        if backbone.pixels is None:  # published weights keep their own positions
            fix_sincos_positions(backbone)
        freeze_beyond_tokens(backbone)
        if fresh:
            draw_weights(net)
        positions = sincos_positions(*self.grid, width)
        self.decoder = Decoder(net.embed_dim, positions, 3 * self.tall * self.wide, depth=depth, heads=heads)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, 3, H, W), noise (B, N) whose smallest values are visible, random if None -> loss ()"""
        patches = patches_of(x, self.tall, self.wide)
        noise = torch.rand(patches.shape[:2], device=x.device) if noise is None else noise
        seen, hidden = split_places(noise, self.seen)
        return pixel_loss(self.predict(patches, seen, hidden), taken(patches, hidden), normalize=self.norm_pixels)

    def predict(self, patches: Tensor, seen: Tensor, hidden: Tensor) -> Tensor:
        """Pixels (B, N, P), indices (B, M) and (B, K) -> predicted pixels (B, K, P) of the masked patches"""
        return self.decoder(self.encode(taken(patches, seen), seen), seen, hidden)

    def encode(self, patches: Tensor, places: Tensor) -> Tensor:
        """Pixels (B, M, P), indices (B, M) -> (B, T + M, E); masked patches are not embedded."""
        net = vit_of(self.backbone)
        proj = net.patch_embed.proj
        x = net.patch_embed.norm(F.linear(patches, proj.weight.flatten(1), proj.bias))
        # what the ViT makes of an empty image: its class token and registers, and the position of each patch; of two,
        # since a sum over images lays the gradient of the class token out as several processes want to exchange it
        empty = x.new_zeros(2, *self.grid, x.shape[-1])
        empty = net._pos_embed(empty if net.dynamic_img_size else empty.flatten(1, 2))[:1]
        free = net.num_prefix_tokens
        x = x + F.embedding(places, empty[0, free:])
        x = torch.cat((empty[:, :free].expand(len(x), -1, -1), x), 1)
        return net.norm(net.blocks(net.norm_pre(x)))
