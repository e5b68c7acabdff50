"""Outlines of pixel masks cover exactly these pixels."""

from __future__ import annotations

import numpy as np
import pytest

from detection.data.masks.borders import borders
from detection.data.masks.rle import coco_mask, from_pixels


def drawn(rings: list[list[float]], height: int, width: int) -> np.ndarray:
    """Pixels whose center is inside an odd number of rings."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    for ring in rings:
        xs, ys = np.array(ring[0::2]), np.array(ring[1::2])
        for x0, y0, y1 in zip(xs, ys, np.roll(ys, -1), strict=True):
            if y0 != y1:  # sides are along the axes
                inside ^= (np.minimum(y0, y1) <= y) & (y < np.maximum(y0, y1)) & (x < x0)
    return inside


@pytest.mark.parametrize("seed", range(20))
def test_outlines_of_any_mask_cover_its_pixels_and_no_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 12, 2))
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    code = coco_mask.encode(np.asfortranarray(mask))
    rings = borders({"size": [height, width], "counts": code["counts"]})
    assert (drawn(rings, height, width) == (mask > 0)).all() and (len(rings) > 0) == bool(mask.any())
    for ring in rings:
        points = list(zip(ring[0::2], ring[1::2], strict=True))
        assert points.count(points[0]) == 1  # no ring closes before its end


def test_holes_and_run_lengths_as_a_list() -> None:
    mask = np.ones((5, 5), np.uint8)
    mask[2, 2] = 0
    rings = borders(from_pixels(mask)[1])
    assert sorted(map(len, rings)) == [8, 8]
    assert borders({"size": [2, 2], "counts": [0, 4]}) == [[0, 0, 2, 0, 2, 2, 0, 2]]
