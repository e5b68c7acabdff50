"""Windows: drawn as the papers say, around objects where they must be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.data.augment import windows as W
from detection.data.augment.geometry import Part

SIZES = st.tuples(st.integers(20, 700), st.integers(20, 700))
KEYS = st.integers(0, 9999)


def boxes_in(size: tuple[int, int], seed: int, count: int = 5) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * 0.6
    high = low + 0.1 + rng.random((count, 2)) * 0.3
    return torch.from_numpy(np.concatenate((low, high), 1) * (size[1], size[0], size[1], size[0])).float()


def lies_in(inner: Part, outer: Part) -> bool:
    bottom, right = outer.down + outer.height, outer.across + outer.width
    fits = inner.down + inner.height <= bottom and inner.across + inner.width <= right
    return fits and inner.down >= outer.down and inner.across >= outer.across


@given(SIZES, KEYS, st.booleans())
@settings(max_examples=80, deadline=None)
def test_ssds_crop_holds_the_objects_whose_centre_it_holds(size: tuple[int, int], seed: int, zoom: bool) -> None:
    rng, boxes = np.random.default_rng(seed), boxes_in(size, seed)
    window = W.zoomed_out(size, rng) if zoom else W.whole(size)
    part, inside = W.overlapping(boxes, window, rng)
    assert lies_in(part, window) and inside.any()
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 - torch.tensor([part.across, part.down])
    held = ((centers > 0) & (centers < torch.tensor([part.width, part.height]))).all(1)
    assert torch.equal(held, inside) or (part == window and inside.all())
    if part != window:
        assert part.height >= 0.3 * window.height - 1 and part.width >= 0.3 * window.width - 1
        assert 0.5 <= part.width / part.height <= 2


def test_ssds_crop_reaches_the_overlap_it_drew_and_draws_every_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.tensor([[20.0, 20, 60, 70]])
    best = []
    for overlap in (0.1, 0.5, 0.9):
        monkeypatch.setattr(W, "OVERLAPS", (overlap,))
        for seed in range(20):
            part, _ = W.overlapping(boxes, W.whole((90, 80)), np.random.default_rng(seed))
            corners = np.array([[part.across, part.down, part.across + part.width, part.down + part.height]])
            best.append((overlap, float(W._iou(corners, boxes.numpy())[0, 0])))
    assert all(reached >= overlap for overlap, reached in best)
    assert min(reached for overlap, reached in best if overlap == 0.1) < 0.5


def test_without_an_object_the_window_stays() -> None:
    window = Part(-3, -4, 50, 60)
    part, inside = W.overlapping(torch.zeros(0, 4), window, np.random.default_rng(0))
    assert part == window and inside.shape == (0,)


@given(SIZES, KEYS)
def test_zooming_out_shows_the_whole_image_on_a_canvas_of_up_to_four_times_its_sides(
    size: tuple[int, int], seed: int
) -> None:
    window = W.zoomed_out(size, np.random.default_rng(seed))
    assert lies_in(W.whole(size), window)
    assert window.height <= 4 * size[0] + 1 and window.width <= 4 * size[1] + 1
    assert window.height / size[0] == pytest.approx(window.width / size[1], abs=1 / min(size) + 1e-6)


@given(SIZES, KEYS, st.sampled_from([1.0, 0.4]))
def test_detrs_crop_is_384_to_600_pixels_of_an_image_at_a_short_side_of_400_to_600(
    size: tuple[int, int], seed: int, factor: float
) -> None:
    part = W.cropped(size, factor, np.random.default_rng(seed))
    assert lies_in(part, W.whole(size))
    sides = np.array([part.height, part.width])
    possible = [sides * short / min(size) for short in (400, 500, 600)]
    slack = 600 / min(size)  # a pixel of the image in pixels of the resized one
    assert any(((scaled >= 384 - slack) & (scaled <= 600 + slack)).all() for scaled in possible)


def test_detrs_crop_does_not_depend_on_the_unit_of_length() -> None:
    parts = [W.cropped((480, 640), factor, np.random.default_rng(3)) for factor in (1.0, 0.25)]
    assert parts[0] == parts[1]


@given(SIZES, st.tuples(st.integers(64, 640), st.integers(64, 640)), KEYS)
def test_large_scale_jitter_draws_a_tenth_to_twice_what_fits(
    size: tuple[int, int], canvas: tuple[int, int], seed: int
) -> None:
    window = W.scaled(size, canvas, np.random.default_rng(seed))
    fits = min(canvas[0] / size[0], canvas[1] / size[1])
    for side, pixels in ((window.height, canvas[0]), (window.width, canvas[1])):
        assert pixels / (side + 0.5) / fits <= 2.001 and pixels / (side - 0.5) / fits >= 0.0999
    assert window.down >= 0 and window.across >= 0
    assert window.down == 0 or window.down + window.height <= size[0]
    assert window.across == 0 or window.across + window.width <= size[1]
