"""Pairs of views of an image, for methods that compare them: crops in the loader, colors on the device.

    image -> two crops with flips (uint8, in the loader) -> colors of the first | colors of the second -> x, y

The colors of BYOL, VICReg and Barlow Twins are those of Grill et al., "Bootstrap Your Own Latent", 2020, appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pretrain.views.color import Color, Finish
from pretrain.views.crops import Compose, HorizontalFlip, RandomResizedCrop, Several, View
from shared.devices import dist
from shared.errors import UsageError

SIDE = 224  # image size that the blur's pixels refer to


@dataclass(frozen=True)
class Pair:
    """Two random views.

    Args:
        size: (height, width) of both.
        first, second: their colors.
        crop_scale: smallest area of a view as a fraction of the image.
        hflip: probability of a horizontal flip.
    """

    size: tuple[int, int]
    first: Color
    second: Color
    crop_scale: float
    hflip: float

    def crops(self) -> Any:
        """The view of a sample: (3, H, W) uint8 -> two (3, *size) uint8."""
        return Several(cropped(self.size, (self.crop_scale, 1.0), self.hflip), 2)

    def __call__(self, crops: tuple[Tensor, Tensor], finish: Finish) -> tuple[Tensor, Tensor]:
        """Two (B, 3, H, W) uint8 -> two (B, 3, H, W) float32, colored and finished, such as by Normalize."""
        return self.first(crops[0], finish), self.second(crops[1], finish)


def cropped(size: tuple[int, int], scale: tuple[float, float], hflip: float) -> View:
    """A random crop with an area in `scale`, flipped with probability `hflip`."""
    return Compose([RandomResizedCrop(size, scale=scale, bicubic=True), HorizontalFlip(hflip)])


def blur_range(size: tuple[int, int]) -> tuple[float, float]:
    """Standard deviations of the blur, in pixels: 0.1 to 2 at 224 pixels, and in proportion at other sizes."""
    small = min(size) / SIDE
    return 0.1 * small, 2.0 * small


def insist_on_two(method: str, count: int, *, alone: bool) -> None:
    """Raise UsageError if there is one image to compare.

    Args:
        count: images of a micro batch of this process.
        alone: each process has statistics of its own.
    """
    if count * (1 if alone else dist.world()) < 2:
        raise UsageError(f"{method} needs at least two images in a batch; give --batch-size 2 or more")


def has_batch_norm(module: nn.Module) -> bool:
    """Whether the module has a batch norm whose statistics are of this process's images alone."""
    return any(type(layer) is nn.BatchNorm1d for layer in module.modules())
