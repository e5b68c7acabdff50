"""Crops and flips of (3, H, W) uint8 images, with explicit random generators.

    Compose([RandomResizedCrop(224), HorizontalFlip(0.5)])(image, rng) -> (3, 224, 224) uint8, contiguous

Pixels stay uint8: resizing bytes is several times faster than floats, and normalization is done on the device.
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
    """A view whose crop box is known before decoding, so that only its rows need to be decoded.

    `view(image, rng)` equals `view.inside(image, view.box(height, width, rng), rng)` exactly. `inside` may get an
    image with fewer rows, with the box relative to its first row.
    """

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor: ...
    def box(self, height: int, width: int, rng: np.random.Generator) -> Box | None:
        """Image size -> the crop box; None for the whole image, without using `rng`."""
        ...

    def inside(self, image: Tensor, box: Box, rng: np.random.Generator) -> Tensor: ...


class Compose:
    """Transforms in sequence; framed if the first is."""

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
        assert self.framed is not None  # only framed views have a box
        image = self.framed.inside(image, box, rng)
        for view in self.views[1:]:
            image = view(image, rng)
        return image.contiguous()


class Several:
    """Several independent random views of an image: a tuple of tensors."""

    def __init__(self, view: View, count: int) -> None:
        self.view, self.count = view, count

    def __call__(self, image: Tensor, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return tuple(self.view(image, rng) for _ in range(self.count))


class Joined:
    """The results of several views that each give a tuple, as one tuple."""

    def __init__(self, views: Sequence[Several]) -> None:
        self.views = list(views)

    def __call__(self, image: Tensor, rng: np.random.Generator) -> tuple[Tensor, ...]:
        return tuple(result for view in self.views for result in view(image, rng))


class RandomResizedCrop:
    """Random resized crop, as torchvision's.

    Args:
        size: of the result, one side or (height, width).
        scale: range of the crop's area as a fraction of the image.
        ratio: range of width / height of the crop, log-uniform.
        bicubic: bicubic instead of bilinear interpolation, as in most self-supervised papers.
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
        """Image size -> (top, left, height, width), with torchvision's distribution."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            shape = math.exp(rng.uniform(low, high))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        return self.middle(height, width)

    def middle(self, height: int, width: int) -> Box:
        """Fallback for narrow images: the largest centered box with an allowed ratio."""
        w, h = width, height
        if width / height < self.ratio[0]:
            h = max(1, min(height, round(width / self.ratio[0])))
        elif width / height > self.ratio[1]:
            w = max(1, min(width, round(height * self.ratio[1])))
        return (height - h) // 2, (width - w) // 2, h, w


class HorizontalFlip:
    """Flip horizontally with probability `p`."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        return image.flip(-1) if rng.random() < self.p else image


class ResizeCenterCrop:
    """Center crop for evaluation: equal to resizing to size / share and cropping the center.

    Args:
        size: of the result, one side or (height, width).
        share: fraction of the limiting side that is kept.
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
    """(3, H, W) uint8, box (top, left, height, width) -> (3, *size) uint8, with antialiasing."""
    top, left, height, width = box
    crop = image[None, :, top : top + height, left : left + width]
    if (height, width) != size:
        # uint8 resize is fastest in channels-last layout
        crop = crop.contiguous(memory_format=torch.channels_last)
        crop = F.interpolate(crop, size, mode="bicubic" if bicubic else "bilinear", antialias=True)
    return crop[0].contiguous()


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
