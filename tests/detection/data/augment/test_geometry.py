"""Geometry: every field of a target goes where its pixels go, and what leaves the image leaves it whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.data.augment import geometry as G
from detection.data.augment.geometry import Part, Sample
from detection.parts.dense import boxes as box
from detection.types import Target

SIZES = st.tuples(st.integers(20, 90), st.integers(20, 90))
KEYS = st.integers(0, 999)


def scene(size: tuple[int, int], seed: int, count: int = 5) -> Sample:
    """A noisy picture, `count` boxes, the masks that fill them, and at keypoints 0 and 1 two of their corners."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = torch.from_numpy(rng.integers(0, 256, (height, width, 3), np.uint8)).permute(2, 0, 1)
    low = rng.random((count, 2)) * 0.6
    high = low + 0.1 + rng.random((count, 2)) * 0.3
    corners = np.concatenate((low, high), 1) * (width, height, width, height)
    boxes = torch.from_numpy(corners.round()).float()
    masks = torch.zeros((count, height, width), dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    points = torch.cat((boxes.reshape(-1, 2, 2), torch.full((count, 2, 1), 2.0)), dim=-1)
    points = torch.cat((points, torch.zeros(count, 1, 3)), dim=1)  # a third one that is not labeled
    return image, Target(boxes=boxes, labels=torch.arange(count), masks=masks, keypoints=points)


def any_move(image: Any, target: Target, seed: int) -> Sample:
    """One of the moves, with numbers of its own."""
    rng = np.random.default_rng(seed)
    height, width = G.size_of(image)
    down, across = int(rng.integers(height // 2)), int(rng.integers(width // 2))
    choice = rng.integers(5)
    if choice == 0:
        return G.hflip(image, target)
    if choice == 1:
        return G.resize(image, target, (int(rng.integers(10, 120)), int(rng.integers(10, 120))))
    if choice == 2:
        return G.crop(image, target, Part(down, across, height // 2, width // 2))
    if choice == 3:
        return G.paste(image, target, (down, across), (height + down + 3, width + across + 5))
    return G.through(image, target, Part(down - 10, across - 10, height, width), (64, 48))


@given(SIZES, KEYS)
def test_flipping_twice_is_the_identity(size: tuple[int, int], seed: int) -> None:
    image, target = scene(size, seed)
    twice, again = G.hflip(*G.hflip(image, target))
    assert torch.equal(twice, image) and again.keys() == target.keys()
    for name in target:
        torch.testing.assert_close(again[name], target[name], rtol=0, atol=1e-4)


@given(SIZES, KEYS)
@settings(max_examples=80, deadline=None)
def test_no_move_leaves_a_box_outside_or_changes_what_it_was_given(size: tuple[int, int], seed: int) -> None:
    image, target = scene(size, seed)
    before = image.clone(), {name: value.clone() for name, value in target.items()}  # pyright: ignore
    out, moved = any_move(image, target, seed)
    boxes, there = moved["boxes"], G.size_of(out)
    assert out.dtype == torch.uint8
    assert torch.equal(boxes, box.clip(boxes, there)) and bool(box.usable(boxes).all())
    assert moved["masks"].shape == (len(boxes), *there) and moved["keypoints"].shape == (len(boxes), 3, 3)  # pyright: ignore
    assert torch.equal(image, before[0]) and all(torch.equal(target[n], v) for n, v in before[1].items())


@given(SIZES, KEYS)
@settings(max_examples=80, deadline=None)
def test_masks_and_keypoints_stay_with_their_boxes_and_labels(size: tuple[int, int], seed: int) -> None:
    _, target = scene(size, seed)
    out, moved = any_move(*scene(size, seed), seed)
    assert set(moved["labels"].tolist()) <= set(target["labels"].tolist())
    rows = zip(moved["boxes"].tolist(), moved["masks"], moved["keypoints"], moved["labels"].tolist(), strict=True)  # pyright: ignore
    for (x0, y0, x1, y1), mask, points, label in rows:
        down, across = np.nonzero(mask.numpy())
        assert len(down), f"box {label} has lost its pixels"
        found = (across.min(), down.min(), across.max() + 1, down.max() + 1)
        grown = max(1.0, out.shape[-1] / size[1], out.shape[-2] / size[0])
        assert np.abs(np.array(found) - (x0, y0, x1, y1)).max() <= grown
        assert mask.sum() == pytest.approx((x1 - x0) * (y1 - y0), abs=grown * (x1 - x0 + y1 - y0 + grown))
        for x, y, seen in points.tolist():
            assert (seen == 2 and any(abs(x - side) < 0.01 for side in (x0, x1)) and y0 - 0.01 <= y <= y1 + 0.01) or (
                (x, y, seen) == (0, 0, 0)
            )
        assert points[2].tolist() == [0, 0, 0]


@given(SIZES, KEYS)
@settings(max_examples=40, deadline=None)
def test_an_empty_target_passes_through_every_move(size: tuple[int, int], seed: int) -> None:
    out, moved = any_move(*scene(size, seed, count=0), seed)
    assert moved["boxes"].shape == (0, 4) and moved["labels"].shape == (0,) and moved["labels"].dtype == torch.int64
    assert moved["masks"].shape == (0, *G.size_of(out)) and moved["keypoints"].shape == (0, 3, 3)  # pyright: ignore


def test_keypoints_that_leave_the_image_are_no_longer_labeled() -> None:
    image, target = scene((40, 40), 0, count=1)
    target["boxes"] = torch.tensor([[4.0, 4, 30, 30]])
    target["keypoints"] = torch.tensor([[[5.0, 5, 2], [25, 25, 1], [0, 0, 0]]])
    _, moved = G.crop(image, target, Part(10, 10, 30, 30))
    assert moved["keypoints"].tolist() == [[[0, 0, 0], [15, 15, 1], [0, 0, 0]]]  # pyright: ignore


def test_a_mirror_image_swaps_the_sides_that_the_target_names() -> None:
    image, target = scene((40, 50), 0, count=1)
    target["boxes"] = torch.tensor([[4.0, 4, 40, 30]])
    target["keypoints"] = torch.tensor([[[5.0, 5, 2], [25, 6, 1], [0, 0, 0]]])
    target["mirrored"] = (1, 0, 2)
    _, moved = G.hflip(image, target)
    assert moved["keypoints"].tolist() == [[[25, 6, 1], [45, 5, 2], [0, 0, 0]]]  # pyright: ignore
    assert moved["mirrored"] == (1, 0, 2)  # pyright: ignore
    del target["mirrored"]
    assert G.hflip(image, target)[1]["keypoints"].tolist() == [[[45, 5, 2], [25, 6, 1], [0, 0, 0]]]  # pyright: ignore


def test_a_mask_of_booleans_stays_one() -> None:
    image, target = scene((40, 40), 0, count=2)
    target["masks"] = target["masks"].bool()  # pyright: ignore
    assert G.resize(image, target, (30, 20))[1]["masks"].dtype == torch.bool  # pyright: ignore


def test_fields_of_the_image_travel_and_fields_of_objects_are_dropped_with_them() -> None:
    image, target = scene((40, 40), 0, count=2)
    target: Any = {**target, "image_id": 9}
    target["boxes"][1] = torch.tensor([39.5, 0, 40, 40])
    moved: Any = G.crop(image, target, Part(0, 0, 40, 40))[1]
    assert moved["image_id"] == 9
    assert len(moved["keypoints"]) == len(moved["labels"]) == len(moved["masks"]) == len(moved["boxes"]) == 1


@given(SIZES, KEYS)
@settings(max_examples=60, deadline=None)
def test_a_window_shows_what_resizing_the_padded_image_would(size: tuple[int, int], seed: int) -> None:
    """Pixels through a window equal those of cutting the same window out of a large canvas, at scale 1 exactly."""
    rng = np.random.default_rng(seed)
    image, target = scene(size, seed)
    height, width = size
    window = Part(int(rng.integers(-20, height - 5)), int(rng.integers(-20, width - 5)), 30, 25)
    out, moved = G.through(image, target, window, (30, 25))
    canvas, far = G.paste(image, target, (40, 40), (height + 80, width + 80))
    expected, boxes = G.crop(canvas, far, Part(window.down + 40, window.across + 40, 30, 25))
    assert torch.equal(out, expected)
    torch.testing.assert_close(moved["boxes"], boxes["boxes"])
    assert torch.equal(moved["labels"], boxes["labels"])


@given(SIZES, KEYS, st.floats(0.2, 3))
@settings(max_examples=60, deadline=None)
def test_a_window_scales_what_it_shows_by_one_factor_a_side(size: tuple[int, int], seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    image, target = scene(size, seed)
    window = Part(int(rng.integers(-40, 10)), int(rng.integers(-40, 10)), size[0] + 20, size[1] + 30)
    out = max(8, round(window.height * scale)), max(8, round(window.width * scale))
    moved = G.through(image, target, window, out)[1]
    factor = out[0] / window.height, out[1] / window.width
    boxes = box.scaled(box.shifted(target["boxes"], (-window.down, -window.across)), factor)
    expected = box.clip(boxes, out)[moved["labels"]]
    assert (moved["boxes"] - expected).abs().max() <= 1 if len(expected) else True


@given(SIZES, KEYS, st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_proposals_move_with_equal_boxes_and_fields_of_the_image_stay_whole(
    size: tuple[int, int], seed: int, more: int
) -> None:
    """Proposals that equal the objects' boxes end where these end; they are as many as the objects, or more."""
    image, target = scene(size, seed)
    boxes = target["boxes"]
    scores = torch.linspace(1, 0, len(boxes) + more)[:, None]
    target["proposals"] = torch.cat((torch.cat((boxes, boxes.new_tensor([[0, 0, 2, 2]]).repeat(more, 1))), scores), 1)
    target["absent"], target["known"] = torch.arange(len(boxes)), torch.arange(len(boxes)) % 2 == 0
    _, moved = any_move(image, target, seed)
    with_object = moved["proposals"][moved["proposals"][:, 4] > float(scores[len(boxes)]) + 1e-6]  # pyright: ignore
    assert torch.equal(with_object[:, :4], moved["boxes"])
    assert torch.equal(with_object[:, 4], scores[moved["labels"], 0])
    assert torch.equal(moved["absent"], target["absent"]) and torch.equal(moved["known"], target["known"])  # pyright: ignore
    assert bool(box.usable(moved["proposals"][:, :4]).all())  # pyright: ignore


def test_proposals_are_not_filtered_by_the_objects_that_are_kept() -> None:
    _, target = scene((40, 60), 3)
    target["proposals"] = torch.cat((target["boxes"], torch.ones(5, 1)), 1)
    left = G.kept(target, torch.tensor([True, False, False, False, True]))
    assert left["labels"].tolist() == [0, 4] and len(left["masks"]) == len(left["keypoints"]) == 2  # pyright: ignore
    assert torch.equal(left["proposals"], target["proposals"])  # pyright: ignore
