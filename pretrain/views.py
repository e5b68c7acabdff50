"""How one image becomes one view: transforms of (3, H, W) uint8 pixels, each with the random numbers it is handed.

    Compose([RandomResizedCrop(224), HorizontalFlip(0.5)])(image, rng) -> (3, 224, 224) uint8, contiguous

Pixels stay uint8 to the end: crops and resizes of bytes are several times cheaper than of floats, and normalising
belongs on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

View = Callable[[Tensor, np.random.Generator], Tensor]


class Compose:
    """One transform after another."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = list(views)

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        for view in self.views:
            image = view(image, rng)
        return image.contiguous()


class RandomResizedCrop:
    """A box of random area and shape, resized: what networks for ImageNet are trained on.

    Args:
        size: of the result, one side or (height, width).
        scale: least and greatest share of the image's area.
        ratio: least and greatest width / height of the box, drawn evenly in the logarithm.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        self.size, self.scale, self.ratio = pair(size), scale, ratio

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        return crop_resize(image, self.box(image.shape[-2], image.shape[-1], rng), self.size)

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Size of an image -> (top, left, height, width) inside it, distributed as torchvision's."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            shape = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        return self.middle(height, width)

    def middle(self, height: int, width: int) -> tuple[int, int, int, int]:
        """For images too narrow for the dice: the largest box of an allowed shape, centred."""
        w, h = width, height
        if width / height < self.ratio[0]:
            h = max(1, min(height, round(width / self.ratio[0])))
        elif width / height > self.ratio[1]:
            w = max(1, min(width, round(height * self.ratio[1])))
        return (height - h) // 2, (width - w) // 2, h, w


class HorizontalFlip:
    """Left and right change places with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        return image.flip(-1) if rng.random() < self.p else image


class ResizeCenterCrop:
    """The middle of the image, for evaluation: the same as resizing to size / share and cropping the centre.

    Args:
        size: of the result, one side or (height, width).
        share: of the image that stays, along the side that limits.
    """

    def __init__(self, size: int | tuple[int, int], *, share: float = 0.875) -> None:
        self.size, self.share = pair(size), share

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        height, width = image.shape[-2:]
        # cropping first touches fewer pixels; the box is what the centre crop of the resized image would show
        grow = max(self.size[0] / height, self.size[1] / width) / self.share
        h = min(height, max(1, round(self.size[0] / grow)))
        w = min(width, max(1, round(self.size[1] / grow)))
        return crop_resize(image, (round((height - h) / 2), round((width - w) / 2), h, w), self.size)


def crop_resize(image: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8, (top, left, height, width) inside it -> (3, *size) uint8: bilinear, filtered when shrinking."""
    top, left, height, width = box
    crop = image[None, :, top : top + height, left : left + width]
    if (height, width) != size:
        # colours side by side is the layout in which bytes are resized fastest
        crop = crop.contiguous(memory_format=torch.channels_last)
        crop = F.interpolate(crop, size, mode="bilinear", antialias=True)
    return crop[0].contiguous()


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
