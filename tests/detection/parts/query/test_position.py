"""Where images lie on maps, and positions: a mask of pixels, resized and counted, says the same."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detection.parts.query.position import Extent, extent, padding, sine_positions, sines
from detection.types import Images

SIZES = [(96, 160), (70, 100), (33, 160), (1, 1)]
SHAPES = [(12, 20), (6, 10), (3, 5), (2, 3)]


def lying(sizes: list[tuple[int, int]] = SIZES, shapes: list[tuple[int, int]] = SHAPES) -> tuple[Images, Extent]:
    images = Images(torch.zeros(len(sizes), 3, 96, 160), sizes)
    return images, extent(images, [torch.zeros(1, 1, *shape) for shape in shapes])


def masks(images: Images, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """(B, H, W) of each shape, true where there is image: the mask of pixels, resized to the nearest."""
    pixels = torch.zeros(len(images.sizes), *images.pixels.shape[-2:])
    for mask, (height, width) in zip(pixels, images.sizes, strict=True):
        mask[:height, :width] = 1
    return [F.interpolate(pixels[:, None], size=shape)[:, 0].bool() for shape in shapes]


def test_padding_is_where_the_resized_mask_of_pixels_is_empty() -> None:
    images, where = lying()
    expected = torch.cat([~mask.flatten(1) for mask in masks(images, SHAPES)], 1)
    hidden = padding(where)
    assert hidden is not None and torch.equal(hidden, expected) and hidden[1:].any(1).all()


@given(st.lists(st.tuples(st.integers(1, 96), st.integers(1, 160)), min_size=1, max_size=3), st.integers(0, 3))
def test_cells_and_shares_are_those_of_the_mask(sizes: list[tuple[int, int]], level: int) -> None:
    images, where = lying(sizes)
    mask = masks(images, SHAPES)[level]
    height, width = SHAPES[level]
    columns, rows = mask[:, 0].sum(1), mask[:, :, 0].sum(1)
    assert torch.equal(where.cells[:, level].long(), torch.stack((columns, rows), 1))
    torch.testing.assert_close(where.shares[:, level], torch.stack((columns / width, rows / height), 1))


def test_nothing_is_padding_when_every_place_holds_image() -> None:
    _, where = lying([(96, 160), (80, 129)], [(3, 5), (6, 5)])
    assert padding(where) is not None
    _, where = lying([(96, 160), (65, 129)], [(3, 5)])  # the last row and column begin inside the image
    assert padding(where) is None and not where.padded
    assert sine_positions(where, 8).shape == (1, 15, 8)


@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_positions_are_those_of_the_paper_wherever_there_is_image(shift: float) -> None:
    """Running sums of the mask over rows and columns, as shares of the last, one place and channel at a time."""
    images, where = lying()
    width = 16
    found = sine_positions(where, width, shift=shift)
    expected, seen = [], []
    for mask in masks(images, SHAPES):
        y, x = mask.cumsum(1) + shift, mask.cumsum(2) + shift
        y, x = (s / (mask.sum(d + 1, keepdim=True) + 1e-6) * 2 * math.pi for d, s in enumerate((y, x)))
        channels = [
            (torch.sin if k % 2 == 0 else torch.cos)(way / 10000 ** (2 * (k // 2) / (width // 2)))
            for way in (y, x)
            for k in range(width // 2)
        ]
        expected.append(torch.stack(channels, -1).flatten(1, 2))
        seen.append(mask.flatten(1))
    seen = torch.cat(seen, 1)
    torch.testing.assert_close(found[seen], torch.cat(expected, 1)[seen], rtol=1e-4, atol=1e-5)
    assert found.shape == (4, 12 * 20 + 60 + 15 + 6, width)


def test_sines_tell_places_apart() -> None:
    told = sines(torch.linspace(0, 1, 500), 32)
    distance = torch.cdist(told, told) + torch.eye(500) * 9
    assert distance.min() > 1e-3 and told.abs().max() <= 1
    assert told[0].tolist() == [0, 1] * 16
