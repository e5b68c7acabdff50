"""Batches: lists of uint8 images in the loader, one padded float tensor on the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detection.types import Images, Target


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """B samples -> lists of B images uint8 (3, H, W) of any sizes, and B targets."""
    return [image for image, _ in samples], [target for _, target in samples]


def pad_batch(images: list[Tensor], normalize: Callable[[Tensor], Tensor], multiple: int = 32) -> Images:
    """B images uint8 (3, H, W), already on the device -> pixels (B, 3, H, W) float32, and their sizes.

    Images are at the top left; padding is 0, the mean color after normalization.

    Args:
        normalize: uint8 (3, H, W) -> float (3, H, W).
        multiple: height and width of the batch are rounded up to a multiple of it.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
    pixels = torch.zeros((len(images), 3, height, width), device=images[0].device)
    for canvas, image, (h, w) in zip(pixels, images, sizes, strict=True):
        canvas[:, :h, :w] = normalize(image)
    return Images(pixels, sizes)
