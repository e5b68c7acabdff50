"""Masks on boxes become masks of photographs as torchvision pastes them and pycocotools writes them down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detection.data.masks.paste import Patch, encode, merged, paste, read_run_lengths

theirs: Any = pycocotools.mask.encode


def blobs(count: int, side: int, seed: int) -> torch.Tensor:
    """(count, side, side) probabilities with smooth edges, some all object."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:side, :side] / (side - 1) - 0.5
    radii, shifts = rng.uniform(0.1, 0.9, (count, 1, 1)), rng.uniform(-0.3, 0.3, (2, count, 1, 1))
    distance = np.hypot(down - shifts[0], across - shifts[1])
    return torch.from_numpy(1 / (1 + np.exp((distance - radii) * 15 + rng.normal(0, 0.7, distance.shape)))).float()


def boxes_in(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """Boxes anywhere in the image, some touching its sides, some all of it, some thinner than a pixel."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, 2, 2)) * (size[1], size[0]), axis=1).reshape(count, 4)
    corners[: count // 4, :2] = 0
    corners[count // 8 : count // 3, 2:] = size[1], size[0]
    corners[-2:, 2:] = corners[-2:, :2] + 0.3
    return torch.from_numpy(corners).float()


def whole(patch: Patch, size: tuple[int, int]) -> np.ndarray:
    """(height, width) uint8."""
    full = np.zeros(size, np.uint8)
    down, across = patch.inside.shape
    full[patch.top : patch.top + down, patch.left : patch.left + across] = patch.inside
    return full


@pytest.mark.parametrize("side", [28, 14, 7])
@pytest.mark.parametrize("size", [(97, 130), (60, 31), (1, 5)])
def test_masks_are_torchvisions_and_run_lengths_are_pycocotools(side: int, size: tuple[int, int]) -> None:
    count = 48
    masks, boxes = blobs(count, side, seed=side), boxes_in(count, size, seed=size[0])
    expected = (paste_masks_in_image(masks[:, None], boxes, size)[:, 0] > 0.5).numpy().astype(np.uint8)
    assert 0 < expected.mean() < 1
    patches = list(paste(masks, boxes, size))
    assert len(patches) == count
    for patch, mask in zip(patches, expected, strict=True):
        assert np.array_equal(whole(patch, size), mask)
        assert encode(patch, size) == theirs(np.asfortranarray(mask))["counts"]


def test_nothing_of_a_mask_is_outside_the_photograph() -> None:
    boxes = torch.tensor([[-30.0, -20, 15, 12], [10, 10, 90, 70], [200, 5, 220, 9], [-9, -9, -4, -4]])
    size = (40, 50)
    patches = list(paste(torch.ones(4, 28, 28), boxes, size))
    assert [int(whole(patch, size).sum()) > 0 for patch in patches] == [True, True, False, False]
    for patch in patches:
        assert encode(patch, size) == theirs(np.asfortranarray(whole(patch, size)))["counts"]


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_any_patch_is_written_as_pycocotools_writes_the_whole(seed: int, height: int, width: int, high: bool) -> None:
    rng = np.random.default_rng(seed)
    top, left = 0 if high else int(rng.integers(height)), int(rng.integers(width))
    down = height if high else int(rng.integers(height - top + 1))
    patch = Patch(
        left, top, rng.random((down, int(rng.integers(width - left + 1)))) < rng.choice([0.1, 0.5, 0.95, 1.1])
    )
    runs = encode(patch, (height, width))
    assert runs == theirs(np.asfortranarray(whole(patch, (height, width))))["counts"]
    assert read_run_lengths({"size": [height, width], "counts": runs}, (height, width)) == runs


@given(st.integers(0, 10_000))
def test_run_lengths_of_another_size_cut_short_or_spoilt_are_told(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(2, 300)), int(rng.integers(2, 300)))
    runs = encode(Patch(0, 0, rng.random(size) < rng.choice([0.01, 0.5])), size)
    assert read_run_lengths({"size": [*size], "counts": runs}, size) == runs
    larger = (size[0] + 1, size[1])
    assert read_run_lengths({"size": [*larger], "counts": runs}, larger) is None
    for spoilt in (runs[:-1], runs + b"1", b"", runs + b"\xff", b"o" * 9 + b"0", b" " + runs):
        assert read_run_lengths({"size": [*size], "counts": spoilt}, size) is None


def test_segmentations_in_every_spelling_are_the_same_mask() -> None:
    size = (20, 30)
    square = np.zeros(size, np.uint8)
    square[5:15, 4:12] = 1
    runs = theirs(np.asfortranarray(square))["counts"]
    flat = np.flatnonzero(np.diff(square.T.ravel(), prepend=0, append=0))
    counts = np.diff(flat, prepend=0, append=600).tolist()
    polygon = [[4.0, 5, 12, 5, 12, 15, 4, 15]]
    for told in ({"size": [20, 30], "counts": runs.decode()}, {"size": [20, 30], "counts": counts}, polygon):
        assert merged(told, size) == runs
    assert read_run_lengths({"size": [20, 30], "counts": runs}, size) == runs


@pytest.mark.parametrize(
    "told",
    [
        None,
        [[1, 2, 3, 4, 5, 6]],
        {"counts": "T3"},
        {"size": [30, 20], "counts": "h2"},
        {"size": [20, 30], "counts": "T3"},
        {"size": [20, 30], "counts": [10, 20]},
        {"size": [20, 30], "counts": [700, -100]},
        {"size": [20, 30], "counts": ["a"]},
        {"size": [20, 30], "counts": "\u00e9"},
        {"size": [20, 30], "counts": 5},
        {"size": [20, 30]},
    ],
)
def test_what_is_no_mask_of_the_image_is_none(told: object) -> None:
    assert read_run_lengths(told, (20, 30)) is None
