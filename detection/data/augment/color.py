"""Random color augmentation: uint8 (3, H, W) in and out.

    a chain of changes -> one table of 17 x 17 x 17 colors -> one pass over the pixels

Howard, "Some Improvements on Deep Convolutional Neural Network Based Image Classification", 2013; SSD's set of changes
is from Liu et al., "SSD: Single Shot MultiBox Detector", 2016.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as F

TABLE = 17  # size of the color table along each axis


def by_table(image: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a color transform through a 17 x 17 x 17 lookup table with linear interpolation.

    One pass over the pixels for any chain of transforms: three to four times faster, with a mean error of about one
    level of 255.

    Args:
        change: colors (3, N, 17) from 0 to 1 -> the same shape.
    """
    table = change(_all_colors()).permute(1, 2, 0).reshape(-1).tolist()
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(pixels.filter(ImageFilter.Color3DLUT(TABLE, table)))).permute(2, 0, 1)


def _all_colors() -> Tensor:
    """(3, 17 * 17, 17): a regular RGB grid, red fastest."""
    steps = torch.linspace(0, 1, TABLE)
    blue, green, red = torch.meshgrid(steps, steps, steps, indexing="ij")
    return torch.stack((red, green, blue)).reshape(3, TABLE * TABLE, TABLE)


def mean_gray(image: Tensor) -> float:
    """uint8 (3, H, W) -> 0 to 1, from every fourth row and column, the reference of contrast."""
    return float(F.rgb_to_grayscale(image[:, ::4, ::4].float()).mean()) / 255


def with_contrast(colors: Tensor, factor: float, gray: float) -> Tensor:
    return (gray + factor * (colors - gray)).clamp(0, 1)


def jitter_colors(image: Tensor, level: int, rng: np.random.Generator) -> Tensor:
    """Random brightness, contrast and hue, stronger at higher levels."""
    by = np.array((0.1 + 0.0125 * level, 0.015 * level, max(0.0, 0.01 * level - 0.025)))
    brightness, contrast, hue = rng.uniform(-by, by)
    gray = min(1.0, mean_gray(image) * (1 + brightness))

    def change(colors: Tensor) -> Tensor:
        colors = F.adjust_brightness(colors, 1 + brightness)
        return F.adjust_hue(with_contrast(colors, 1 + contrast, gray), hue)

    return by_table(image, change)


def distort_colors(image: Tensor, rng: np.random.Generator, share: float = 1.0) -> Tensor:
    """SSD's colors: brightness, contrast (early or late), saturation, hue, and the channels in any order.

    Args:
        share: probability of each of the five, independently.
    """
    by_brightness, by_contrast, by_saturation, by_hue, by_order = rng.random(5) < share
    brightness, hue = rng.uniform(0.875, 1.125), rng.uniform(-0.05, 0.05) * by_hue
    contrast, saturation = rng.uniform(0.5, 1.5, size=2)
    brightness, saturation = brightness if by_brightness else 1.0, saturation if by_saturation else 1.0
    late, order = rng.random() < 0.5, rng.permutation(3).tolist() if by_order else [0, 1, 2]
    gray = min(1.0, mean_gray(image) * brightness)

    def contrasted(colors: Tensor, now: bool) -> Tensor:
        return with_contrast(colors, contrast, gray) if by_contrast and now else colors

    def change(colors: Tensor) -> Tensor:
        colors = contrasted(F.adjust_brightness(colors, brightness), not late)
        colors = F.adjust_hue(F.adjust_saturation(colors, saturation), hue)
        return contrasted(colors, late)[order]

    return by_table(image, change)


def recolor(image: Tensor, level: int, rng: np.random.Generator) -> Tensor:
    """The color augmentation of a level: nothing below 4, more from 6 on."""
    if level >= 4:
        choice = rng.integers(3)
        if choice == 0:
            image = jitter_colors(image, level, rng)
        elif choice == 1:
            image = distort_colors(image, rng)
    if level >= 6:
        gray, apply = rng.random(2) < 0.5
        if apply:
            image = F.rgb_to_grayscale(image, 3) if gray else F.solarize(image, 255 - 10 * level)
    return image
