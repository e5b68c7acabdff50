"""Colours of a photograph, changed by chance: uint8 (3, H, W) in and out.

    a chain of changes -> one table of 17 x 17 x 17 colours -> one pass over the pixels

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

TABLE = 17  # colours along each axis of a colour table


def by_table(image: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change each pixel by its colour alone, through a table of 17 x 17 x 17 colours and linear in between.

    One pass over the pixels however long the chain, and no hue arithmetic on each: three to four times faster, and off
    by about one level of 255 in the mean.

    Args:
        change: colours (3, N, 17) from 0 to 1 -> the same shape.
    """
    table = change(_all_colours()).permute(1, 2, 0).reshape(-1).tolist()
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(pixels.filter(ImageFilter.Color3DLUT(TABLE, table)))).permute(2, 0, 1)


def _all_colours() -> Tensor:
    """(3, 17 * 17, 17): an even grid over red, green and blue, red fastest."""
    steps = torch.linspace(0, 1, TABLE)
    blue, green, red = torch.meshgrid(steps, steps, steps, indexing="ij")
    return torch.stack((red, green, blue)).reshape(3, TABLE * TABLE, TABLE)


def mean_grey(image: Tensor) -> float:
    """uint8 (3, H, W) -> 0 to 1, from every fourth row and column; what contrast is about."""
    return float(F.rgb_to_grayscale(image[:, ::4, ::4].float()).mean()) / 255


def with_contrast(colours: Tensor, factor: float, grey: float) -> Tensor:
    return (grey + factor * (colours - grey)).clamp(0, 1)


def jitter_colours(image: Tensor, level: int, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast and hue, further off at a higher level."""
    by = np.array((0.1 + 0.0125 * level, 0.015 * level, max(0.0, 0.01 * level - 0.025)))
    brightness, contrast, hue = rng.uniform(-by, by)
    grey = min(1.0, mean_grey(image) * (1 + brightness))

    def change(colours: Tensor) -> Tensor:
        colours = F.adjust_brightness(colours, 1 + brightness)
        return F.adjust_hue(with_contrast(colours, 1 + contrast, grey), hue)

    return by_table(image, change)


def distort_colours(image: Tensor, rng: np.random.Generator, share: float = 1.0) -> Tensor:
    """SSD's colours: brightness, contrast (early or late), saturation, hue, and the channels in any order.

    Args:
        share: of the images undergo each of the five, independently.
    """
    by_brightness, by_contrast, by_saturation, by_hue, by_order = rng.random(5) < share
    brightness, hue = rng.uniform(0.875, 1.125), rng.uniform(-0.05, 0.05) * by_hue
    contrast, saturation = rng.uniform(0.5, 1.5, size=2)
    brightness, saturation = brightness if by_brightness else 1.0, saturation if by_saturation else 1.0
    late, order = rng.random() < 0.5, rng.permutation(3).tolist() if by_order else [0, 1, 2]
    grey = min(1.0, mean_grey(image) * brightness)

    def contrasted(colours: Tensor, now: bool) -> Tensor:
        return with_contrast(colours, contrast, grey) if by_contrast and now else colours

    def change(colours: Tensor) -> Tensor:
        colours = contrasted(F.adjust_brightness(colours, brightness), not late)
        colours = F.adjust_hue(F.adjust_saturation(colours, saturation), hue)
        return contrasted(colours, late)[order]

    return by_table(image, change)


def recolour(image: Tensor, level: int, rng: np.random.Generator) -> Tensor:
    """The colours of a level: nothing below 4, more from 6 on."""
    if level >= 4:
        choice = rng.integers(3)
        if choice == 0:
            image = jitter_colours(image, level, rng)
        elif choice == 1:
            image = distort_colours(image, rng)
    if level >= 6:
        grey, apply = rng.random(2) < 0.5
        if apply:
            image = F.rgb_to_grayscale(image, 3) if grey else F.solarize(image, 255 - 10 * level)
    return image
