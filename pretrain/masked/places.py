"""Random masking of patches, mask units or cells, and the pixel loss.

A place is a patch, a mask unit or a cell; places are numbered row by row. The places with the smallest noise are
visible, so passing the noise determines the mask.

Shape letters: B images, N places, M visible, K masked, P values of a place (3 colors, then rows, then columns).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from shared.errors import UsageError


def count_seen(places: int, ratio: float) -> int:
    """Number of visible places for a mask ratio, rounded down.

    Raises:
        UsageError: no visible or no masked place is left.
    """
    hidden = math.ceil(round(places * ratio, 6))  # 0.55 * 100 is slightly more than 55
    if not 0 < hidden < places:
        left = "nothing to predict" if hidden <= 0 else "nothing to see"
        raise UsageError(
            f"mask_ratio {ratio} of {places} places leaves {left}; take one between 0 and 1, or larger images"
        )
    return places - hidden


def split_places(noise: Tensor, seen: int) -> tuple[Tensor, Tensor]:
    """Noise (B, N) -> indices (B, M) of the `seen` places with the smallest noise, and (B, K) of the others."""
    order = noise.argsort(1)
    return order[:, :seen], order[:, seen:]


def patches_of(x: Tensor, tall: int, wide: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, P), the pixels of each place, in the order of a convolution's weights."""
    squares = x.unflatten(2, (-1, tall)).unflatten(4, (-1, wide))
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def taken(x: Tensor, places: Tensor) -> Tensor:
    """(B, N, ...), indices (B, M) -> (B, M, ...), by rows, which is fast forward and backward."""
    first = x.shape[1] * places.new_tensor(range(len(x)))[:, None]
    return x.flatten(0, 1).index_select(0, (places + first).flatten()).unflatten(0, places.shape)


def pixel_loss(predicted: Tensor, pixels: Tensor, *, normalize: bool) -> Tensor:
    """(B, K, P), (B, K, P) -> (): mean squared error; targets are normalized per place if `normalize`."""
    if normalize:
        variance, mean = pixels.var(-1, keepdim=True), pixels.mean(-1, keepdim=True)
        pixels = (pixels - mean) / (variance + 1e-6).sqrt()
    return F.mse_loss(predicted.float(), pixels)
