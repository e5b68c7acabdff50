"""Batches: images keep their pixels, padding is the mean color."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detection.data.batch import collate, pad_batch
from detection.types import Target


def image_of(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalize(image: Tensor) -> Tensor:
    return (image.float() - 100) / 50


def test_images_lie_top_left_and_the_rest_is_zero() -> None:
    images = [image_of(40, 70), image_of(33, 20)]
    pixels, sizes, _, held = pad_batch(images, normalize)
    assert sizes == [(40, 70), (33, 20)] and held is not None and held.tolist() == [[40, 70], [33, 20]]
    assert pixels.shape == (2, 3, 64, 96) and pixels.dtype == torch.float32
    for canvas, image, (height, width) in zip(pixels, images, sizes, strict=True):
        assert torch.equal(canvas[:, :height, :width], normalize(image))
        assert canvas[:, height:].eq(0).all() and canvas[:, :, width:].eq(0).all()


@pytest.mark.parametrize(("side", "multiple", "expected"), [(64, 32, 64), (65, 32, 96), (65, 1, 65), (1, 128, 128)])
def test_shapes_are_rounded_up_to_the_multiple(side: int, multiple: int, expected: int) -> None:
    assert pad_batch([image_of(side, side)], normalize, multiple).pixels.shape == (1, 3, expected, expected)


def test_collate_keeps_images_and_targets_in_order() -> None:
    targets = [Target(boxes=torch.zeros(n, 4), labels=torch.zeros(n, dtype=torch.int64)) for n in (0, 2)]
    images = [image_of(4, 5), image_of(6, 7)]
    batch_images, batch_targets = collate(list(zip(images, targets, strict=True)))
    assert batch_images[1] is images[1] and batch_targets[1] is targets[1]
    assert [len(t["boxes"]) for t in batch_targets] == [0, 2]
