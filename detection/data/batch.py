"""Batches: images uint8 of any sizes in the loader, one padded float tensor on the device.

samples --collate, in a worker--> images, targets --one buffer--> the device --pad_batch--> Images
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detection.types import Images, Target
from shared.devices.device import sent


def collate(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """B samples -> lists of B images uint8 (3, H, W) of any sizes, and B targets with any fields."""
    return [image for image, _ in samples], [target for _, target in samples]


def pad_batch(images: list[Tensor], normalize: Callable[[Tensor], Tensor], multiple: int = 32) -> Images:
    """B images uint8 (3, H, W), already on the device -> pixels (B, 3, H, W) float32, and their sizes.

    Images are at the top left; padding is 0, the mean color after normalization.

    Args:
        normalize: uint8 (B, 3, H, W) -> float (B, 3, H, W), each pixel for itself.
        multiple: height and width of the batch are rounded up to a multiple of it.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    height, width = (-(-max(side) // multiple) * multiple for side in zip(*sizes, strict=True))
    held = sent(sizes, images[0].device)
    if all(size == (height, width) for size in sizes):
        return Images(normalize(torch.stack(images)), sizes, held=held)
    stored = images[0].new_zeros((len(images), 3, height, width))
    for canvas, image, (h, w) in zip(stored, images, sizes, strict=True):
        canvas[:, :h, :w] = image
    pixels = normalize(stored)
    for canvas, (h, w) in zip(pixels, sizes, strict=True):
        canvas[:, h:], canvas[:, :h, w:] = 0, 0
    return Images(pixels, sizes, held=held)
