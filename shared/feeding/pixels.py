"""Pixel mean and standard deviation by name, and the module that applies them on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared.errors import UsageError
from shared.recipes.registry import suggest


class PixelStats(NamedTuple):
    """Mean and standard deviation of R, G and B, for pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PIXEL_STATS = {
    "imagenet": PixelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": PixelStats((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "birder": PixelStats((0.5191, 0.5306, 0.4877), (0.2316, 0.2304, 0.2588)),
    "centered": PixelStats((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "neutral": PixelStats((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
PIXEL_STATS["none"] = PIXEL_STATS["centered"]  # birder's older name


def pixel_stats(name: str) -> PixelStats:
    if name not in PIXEL_STATS:
        raise UsageError(
            f"no pixel statistics '{name}'{suggest(name, list(PIXEL_STATS))}; give one of {', '.join(PIXEL_STATS)}"
        )
    return PIXEL_STATS[name]


class Normalize(nn.Module):
    """(..., 3, H, W) uint8 -> (..., 3, H, W) float32, normalized by mean and std.

    The statistics are buffers: they move with the module and are saved with it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stats: PixelStats) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(stats.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(stats.std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        # two passes in place instead of three with new memory each: x / 255 - mean, over std
        return pixels.to(torch.float32, copy=True).sub_(self.mean * 255).mul_(1 / (255 * self.std))
