"""Sides of squares: encoding is undone by decoding, centerness is that of the drawing, IoU is torchvision's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from detection.parts.dense.sides import as_sides, centerness, from_sides, inside, overlap_of_pairs, squares

SEEDS = st.integers(0, 999)


def boxes_of(seed: int, count: int = 20) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 300
    return torch.cat((corners.amin(1), corners.amax(1) + 1), 1)


@given(SEEDS)
def test_boxes_are_the_same_after_a_round_trip(seed: int) -> None:
    anchors = squares([(4, 5)], [16], torch.device("cpu"))[0]
    boxes = boxes_of(seed)
    torch.testing.assert_close(from_sides(as_sides(boxes, anchors), anchors), boxes, rtol=1e-5, atol=1e-3)


def test_an_anchor_is_a_square_of_eight_strides_around_each_multiple_of_the_stride() -> None:
    fine, coarse = squares([(2, 3), (1, 2)], [4, 8], torch.device("cpu"))
    assert fine.shape == (6, 4) and fine[0].tolist() == [-16, -16, 16, 16] and fine[4].tolist() == [-12, -12, 20, 20]
    assert coarse.tolist() == [[-32, -32, 32, 32], [-24, -32, 40, 32]]


def test_half_a_side_each_way_is_the_anchor_itself() -> None:
    anchors = squares([(3, 3)], [8], torch.device("cpu"))[0]
    assert torch.equal(from_sides(torch.full((9, 4), 0.5), anchors), anchors)


def test_an_anchor_that_touches_the_border_is_inside_and_one_that_crosses_it_is_not() -> None:
    anchors = torch.tensor([[0.0, 0, 32, 32], [-1, 0, 31, 32], [8, 8, 40, 40], [9, 8, 41, 40], [8, 9, 40, 41]])
    assert inside(anchors, (40, 40)).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((1.0, 1, 1, 1), 1.0),
        ((1.0, 4, 1, 1), 0.5),
        ((1.0, 4, 4, 1), 0.25),
        ((0.0, 4, 1, 1), 0.0),
        ((-1.0, 3, 1, 1), 0.0),
        ((-1.0, 3, -2, 5), 0.0),  # outside in both directions: two negative ratios are no positive one
        ((0.0, 0, 0, 0), 0.0),
    ],
)
def test_centerness_is_one_in_the_middle_and_zero_on_the_border_and_outside(sides: tuple, expected: float) -> None:
    assert centerness(torch.tensor(sides)).item() == pytest.approx(expected)


@given(SEEDS)
def test_overlap_of_pairs_is_the_diagonal_of_torchvisions(seed: int) -> None:
    boxes, others = boxes_of(seed), boxes_of(seed + 1)
    torch.testing.assert_close(overlap_of_pairs(boxes, others), box_iou(boxes, others).diagonal())


def test_a_box_turned_inside_out_overlaps_with_nothing_and_gives_finite_gradients() -> None:
    box = torch.tensor([[20.0, 20, 10, 10], [0, 0, 0, 0]], requires_grad=True)
    overlap = overlap_of_pairs(box, torch.tensor([[0.0, 0, 30, 30], [0, 0, 0, 0]]))
    overlap.sum().backward()
    assert overlap.tolist() == [0, 0] and box.grad is not None and bool(box.grad.isfinite().all())
