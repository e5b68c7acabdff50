"""Anchors stand where torchvision's stand, and offsets from them are the offsets of its coder."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from detection.parts.dense.anchors import MOST_GROWTH, Anchors, DefaultBoxes, as_offsets, from_offsets, middle_and_sides

SIZES = [(32, 40, 50), (64, 80, 101), (128, 161, 203)]


def of_torchvision(generator: Any, shapes: list[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    maps = [torch.zeros(1, 1, *shape) for shape in shapes]
    return generator(ImageList(torch.zeros(1, 3, *size), [size]), maps)[0]


def halvings(size: tuple[int, int], strides: list[int]) -> list[tuple[int, int]]:
    return [(-(-size[0] // s), -(-size[1] // s)) for s in strides]


sizes = st.tuples(st.integers(64, 400), st.integers(64, 400))


@settings(max_examples=15)
@given(size=sizes, ratios=st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=1, max_size=3, unique=True))
def test_anchors_are_those_of_torchvision(size: tuple[int, int], ratios: list[float]) -> None:
    shapes = halvings(size, [8, 16, 64])
    ours = Anchors(SIZES, ratios)(shapes, size)
    theirs = of_torchvision(AnchorGenerator(tuple(SIZES), (tuple(ratios),) * 3), shapes, size)
    assert [len(level) for level in ours] == [h * w * 3 * len(ratios) for h, w in shapes]
    assert torch.equal(torch.cat(ours), theirs)


@settings(max_examples=15)
@given(size=sizes, clear=st.booleans())
def test_default_boxes_are_those_of_torchvision(size: tuple[int, int], clear: bool) -> None:
    ratios = [[2], [2, 3], [2, 3], [2]]
    scales = [0.07, 0.33, 0.6, 0.87, 1.05 if clear else 2.0]
    shapes = halvings(size, [16, 32, 64, 256])
    ours = DefaultBoxes(scales, ratios)
    theirs = DefaultBoxGenerator(ratios, scales=scales)
    assert ours.per_place == theirs.num_anchors_per_location() == [4, 6, 6, 4]
    boxes = torch.cat(ours(shapes, size))
    torch.testing.assert_close(boxes, of_torchvision(theirs, shapes, size), rtol=1e-5, atol=1e-3)
    sides = middle_and_sides(boxes)[1]
    assert (sides <= torch.tensor([size[1], size[0]]) * 1.0001).all(), "no default box is larger than the image"


def test_anchors_may_stand_in_the_middle_of_their_cells_to_a_part_of_a_pixel() -> None:
    anchors = torch.cat(Anchors([[4.5]], [4.0], offset=0.5, rounded=False)([(2, 3)], (16, 24)))
    middles, sides = middle_and_sides(anchors)
    assert middles.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    torch.testing.assert_close(sides, torch.tensor([[2.25, 9.0]]).expand(6, 2))


def test_anchors_have_no_state_that_weights_would_hold() -> None:
    assert not Anchors(SIZES).state_dict() and not DefaultBoxes([0.1, 0.2], [[2]]).state_dict()


numbers = st.floats(0, 300, width=32)
box = st.tuples(numbers, numbers, st.floats(1, 200, width=32), st.floats(1, 200, width=32))
anchor = st.tuples(numbers, numbers, st.floats(8, 200, width=32), st.floats(8, 200, width=32))
pairs = st.lists(st.tuples(box, anchor), min_size=1, max_size=6)


def corners(boxes: list[tuple[float, float, float, float]]) -> Tensor:
    return torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes])


@settings(max_examples=40)
@given(pairs=pairs, weights=st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]))
def test_offsets_are_those_of_torchvision_and_lead_back_to_the_box(pairs: list, weights: Any) -> None:
    boxes, anchors = (corners(list(side)) for side in zip(*pairs, strict=True))
    coder = BoxCoder(weights)
    offsets = as_offsets(boxes, anchors, weights)
    torch.testing.assert_close(offsets, coder.encode_single(boxes, anchors), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(from_offsets(offsets, anchors, weights), boxes, rtol=1e-4, atol=1e-2)
    noise = torch.randn(len(boxes), 4)
    torch.testing.assert_close(
        from_offsets(noise, anchors, weights), coder.decode_single(noise, anchors), rtol=1e-4, atol=1e-3
    )


def test_offsets_of_a_batch_are_those_of_each_image() -> None:
    anchors, offsets = corners([(0, 0, 8, 8), (4, 4, 2, 9)]), torch.randn(3, 2, 4)
    together = from_offsets(offsets, anchors)
    torch.testing.assert_close(together, torch.stack([from_offsets(o, anchors) for o in offsets]))


def test_offset_without_bound_grows_a_box_to_a_bound() -> None:
    found = from_offsets(torch.full((1, 4), 1e6), torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    assert middle_and_sides(found)[1].tolist() == [pytest.approx([16 * math.exp(MOST_GROWTH)] * 2)]
