"""How one image becomes one view: transforms of (3, H, W) uint8 pixels, each with the random numbers it is handed.

    Compose([RandomResizedCrop(224), HorizontalFlip(0.5)])(image, rng) -> (3, 224, 224) uint8, contiguous

Pixels stay uint8 to the end: crops and resizes of bytes are several times cheaper than of floats, and normalizing
belongs on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

View = Callable[[Tensor, np.random.Generator], Tensor]
Box = tuple[int, int, int, int]  # top, left, height, width


@runtime_checkable
class Framed(Protocol):
    """A view that says where it will look before it sees a pixel, so that only those rows need decoding.

    `view(image, rng)` is `view.inside(image, view.box(height, width, rng), rng)`, to the bit. `inside` may be given an
    image of fewer rows, with the box counted from its first.
    """

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor: ...
    def box(self, height: int, width: int, rng: np.random.Generator) -> Box | None:
        """Size of an image -> the box of it that is looked at; None, without a number drawn, for all of it."""
        ...

    def inside(self, image: Tensor, box: Box, rng: np.random.Generator) -> Tensor: ...


class Compose:
    """One transform after another; framed, if the first is."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = list(views)
        self.framed = self.views[0] if self.views and isinstance(self.views[0], Framed) else None

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        for view in self.views:
            image = view(image, rng)
        return image.contiguous()

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box | None:
        return self.framed.box(height, width, rng) if self.framed is not None else None

    def inside(self, image: Tensor, box: Box, rng: np.random.Generator) -> Tensor:
        assert self.framed is not None  # nobody else names a box
        image = self.framed.inside(image, box, rng)
        for view in self.views[1:]:
            image = view(image, rng)
        return image.contiguous()


class Several:
    """The same view several times over, each with its own luck: a tuple of tensors."""

    def __init__(self, view: View, count: int) -> None:
        self.view, self.count = view, count

    def __call__(self, image: Tensor, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return tuple(self.view(image, rng) for _ in range(self.count))


class RandomResizedCrop:
    """A box of random area and shape, resized: what networks for ImageNet are trained on.

    Args:
        size: of the result, one side or (height, width).
        scale: least and greatest share of the image's area.
        ratio: least and greatest width / height of the box, drawn evenly in the logarithm.
        bicubic: resize with cubic rather than linear interpolation, as most self-supervised papers do.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        bicubic: bool = False,
    ) -> None:
        self.size, self.scale, self.ratio, self.bicubic = pair(size), scale, ratio, bicubic

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        return self.inside(image, self.box(image.shape[-2], image.shape[-1], rng), rng)

    def inside(self, image: Tensor, box: Box, rng: np.random.Generator) -> Tensor:
        return crop_resize(image, box, self.size, bicubic=self.bicubic)

    def box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Size of an image -> (top, left, height, width) inside it, distributed as torchvision's."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            shape = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        return self.middle(height, width)

    def middle(self, height: int, width: int) -> Box:
        """For images too narrow for the dice: the largest box of an allowed shape, centered."""
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
    """The middle of the image, for evaluation: the same as resizing to size / share and cropping the center.

    Args:
        size: of the result, one side or (height, width).
        share: of the image that stays, along the side that limits.
    """

    def __init__(self, size: int | tuple[int, int], *, share: float = 0.875) -> None:
        self.size, self.share = pair(size), share

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        return self.inside(image, self.box(image.shape[-2], image.shape[-1]), rng)

    def inside(self, image: Tensor, box: Box, rng: np.random.Generator | None = None) -> Tensor:
        return crop_resize(image, box, self.size)

    def box(self, height: int, width: int, rng: np.random.Generator | None = None) -> Box:
        # cropping first touches fewer pixels; the box is what the center crop of the resized image would show
        grow = max(self.size[0] / height, self.size[1] / width) / self.share
        h = min(height, max(1, round(self.size[0] / grow)))
        w = min(width, max(1, round(self.size[1] / grow)))
        return round((height - h) / 2), round((width - w) / 2), h, w


def crop_resize(image: Tensor, box: Box, size: tuple[int, int], *, bicubic: bool = False) -> Tensor:
    """(3, H, W) uint8, (top, left, height, width) inside it -> (3, *size) uint8, filtered when shrinking."""
    top, left, height, width = box
    crop = image[None, :, top : top + height, left : left + width]
    if (height, width) != size:
        # colors side by side is the layout in which bytes are resized fastest
        crop = crop.contiguous(memory_format=torch.channels_last)
        crop = F.interpolate(crop, size, mode="bicubic" if bicubic else "bilinear", antialias=True)
    return crop[0].contiguous()


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
