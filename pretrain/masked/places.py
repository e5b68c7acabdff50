"""Which places of an image are seen, which are hidden, and how far a prediction is from what was hidden there.

A place is a square of pixels: a patch, a mask unit, a cell; they are numbered row by row. Noise draws them, one number
each, of which the least are seen: who hands in the noise decides the mask.

Shape letters: B images, N places, M of them seen, K hidden, P values of a place (3 colors, then rows, then columns).
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from shared.errors import UsageError


def count_seen(places: int, ratio: float) -> int:
    """How many of an image's places are seen when this share is hidden, rounded so that more are hidden.

    Raises:
        UsageError: nothing is left to see, or nothing to tell.
    """
    hidden = math.ceil(round(places * ratio, 6))  # 0.55 * 100 is a little more than 55
    if not 0 < hidden < places:
        left = "nothing to predict" if hidden <= 0 else "nothing to see"
        raise UsageError(
            f"mask_ratio {ratio} of {places} places leaves {left}; take one between 0 and 1, or larger images"
        )
    return places - hidden


def split_places(noise: Tensor, seen: int) -> tuple[Tensor, Tensor]:
    """(B, N) noise -> (B, M) the `seen` places of least noise, (B, K) the others."""
    order = noise.argsort(1)
    return order[:, :seen], order[:, seen:]


def patches_of(x: Tensor, tall: int, wide: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, P), the pixels of each place, in the order in which a convolution holds its weights."""
    squares = x.unflatten(2, (-1, tall)).unflatten(4, (-1, wide))
    return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def taken(x: Tensor, places: Tensor) -> Tensor:
    """(B, N, ...), (B, M) -> (B, M, ...): whole rows at a time, which is quick in both directions."""
    first = x.shape[1] * places.new_tensor(range(len(x)))[:, None]
    return x.flatten(0, 1).index_select(0, (places + first).flatten()).unflatten(0, places.shape)


def pixel_loss(predicted: Tensor, pixels: Tensor, *, normalize: bool) -> Tensor:
    """(B, K, P), (B, K, P) -> (): mean squared distance, to each place's own zero mean and unit variance if asked."""
    if normalize:
        variance, mean = pixels.var(-1, keepdim=True), pixels.mean(-1, keepdim=True)
        pixels = (pixels - mean) / (variance + 1e-6).sqrt()
    return F.mse_loss(predicted.float(), pixels)
