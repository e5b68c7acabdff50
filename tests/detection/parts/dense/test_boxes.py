"""Box arithmetic against what the words say."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detection.parts.dense import boxes as box

NUMBERS = st.floats(-50, 150, width=32)


@st.composite
def some_boxes(draw: st.DrawFn) -> Tensor:
    rows = draw(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=6))
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


@given(some_boxes())
def test_clipped_boxes_lie_inside_the_image(boxes: Tensor) -> None:
    clipped = box.clip(boxes, (60, 100))
    assert (clipped >= 0).all()
    assert (clipped[:, 0::2] <= 100).all() and (clipped[:, 1::2] <= 60).all()
    assert torch.equal(box.clip(clipped, (60, 100)), clipped)


def test_clipping_leaves_a_box_inside_alone_and_cuts_one_that_reaches_out() -> None:
    boxes = torch.tensor([[1.0, 2, 30, 40], [-5, 50, 120, 70]])
    assert box.clip(boxes, (60, 100)).tolist() == [[1, 2, 30, 40], [0, 50, 100, 60]]


@given(some_boxes(), st.floats(0.25, 4), st.floats(0.25, 4))
def test_areas_follow_the_scale(boxes: Tensor, down: float, across: float) -> None:
    torch.testing.assert_close(
        box.areas(box.scaled(boxes, (down, across))), box.areas(boxes) * down * across, rtol=1e-3, atol=0.05
    )


def test_down_is_y_and_across_is_x() -> None:
    boxes = torch.tensor([[1.0, 2, 3, 5]])
    assert box.scaled(boxes, (10, 100)).tolist() == [[100, 20, 300, 50]]
    assert box.shifted(boxes, (10, 100)).tolist() == [[101, 12, 103, 15]]
    assert box.areas(boxes).tolist() == [6]


@given(some_boxes())
def test_mirroring_twice_changes_nothing(boxes: Tensor) -> None:
    torch.testing.assert_close(box.mirrored(box.mirrored(boxes, 100), 100), boxes, rtol=0, atol=1e-4)


def test_a_mirrored_box_is_as_far_from_the_other_side() -> None:
    assert box.mirrored(torch.tensor([[10.0, 5, 30, 6]]), 100).tolist() == [[70, 5, 90, 6]]


def test_thin_inverted_and_nan_boxes_are_not_usable() -> None:
    nan = float("nan")
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 0.9, 9], [5, 5, 2, 9], [0, 0, nan, 9]])
    assert box.usable(boxes).tolist() == [True, False, False, False]
    assert box.areas(boxes)[2] == 0
