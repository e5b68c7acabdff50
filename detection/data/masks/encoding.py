"""Stored masks as COCO's compressed RLE, and what is counted in it: areas, and masks without a pixel. Needs no torch.

polygons [[x, y, ...], ...] or RLE -> encoded -> {"size": [height, width], "counts": bytes} -> pixel_areas, empty
"""

from __future__ import annotations

from typing import Any

import numpy as np

from detection.data.masks.outlines import OutlineRows, Outlines
from detection.data.masks.rle import coco_mask


def encoded(outlines: Outlines, number: int, size: tuple[int, int]) -> dict[str, Any]:
    """One mask as compressed RLE; polygons are rasterized and merged."""
    if code := outlines.code(number):
        return {"size": list(size), "counts": code}
    rings = coco_mask.frPyObjects(outlines.polygons(number), *size)
    return rings[0] if len(rings) == 1 else coco_mask.merge(rings)


def read_polygons(segmentation: list[Any], size: tuple[int, int]) -> bytes | None:
    """Polygons [[x, y, ...], ...] -> compressed RLE of (height, width); None if they are none."""
    rows, refused = OutlineRows(), []
    try:
        rows.take(segmentation)
    except (TypeError, ValueError, OverflowError):
        return None
    outlines = rows.outlines(np.array([size]), lambda wrong, say: refused.extend(wrong[wrong]))
    return None if refused else encoded(outlines, 0, size)["counts"]


def empty(outlines: Outlines, sizes: np.ndarray) -> np.ndarray:
    """(A,) bool: masks without any pixel in their image.

    Only candidates are rasterized: outside the image, narrower than a pixel, or of area below 2.

    Args:
        sizes: (A, 2) height and width of each mask's image.
    """
    limit = sizes[:, ::-1]
    extents, areas = outlines.extents(), outlines.areas()
    low, high = np.clip(extents[:, :2], 0, limit), np.clip(extents[:, 2:], 0, limit)
    there = (outlines.rings > 0) | (outlines.in_code > 0)
    suspects = there & ((areas < 2) | (high - low < 1).any(axis=1))  # nan, of RLE, is no candidate
    found = np.zeros(len(outlines), dtype=bool)
    for number in np.flatnonzero(suspects).tolist():
        height, width = sizes[number].tolist()
        found[number] = coco_mask.area(encoded(outlines, number, (height, width))) == 0
    return found


def pixel_areas(outlines: Outlines, sizes: np.ndarray) -> np.ndarray:
    """(A,) float64: pixels of each mask in its image, counted as pycocotools does; 0 without a mask.

    Args:
        sizes: (A, 2) height and width of each mask's image.
    """
    found = np.zeros(len(outlines))
    for number in np.flatnonzero((outlines.rings > 0) | (outlines.in_code > 0)).tolist():
        height, width = sizes[number].tolist()
        found[number] = coco_mask.area(encoded(outlines, number, (height, width)))
    return found
