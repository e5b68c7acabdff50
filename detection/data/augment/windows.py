"""Random crop windows, computed before any pixel is processed.

    jittered    scale jitter: objects are scaled by a factor relative to a plain resize
    zoomed_out  SSD: the image on a canvas of up to four times its size
    overlapping SSD: a crop with a random minimum overlap with some object
    cropped     DETR: a crop of 384 to 600 pixels per side, at a short side of 400, 500 or 600
    scaled      LSJ: the image scaled by 0.1 to 2 of the size that fits, on a fixed canvas

A window may extend beyond its image. Liu et al., "SSD", 2016; Carion et al., "End-to-End Object Detection with
Transformers", 2020; Ghiasi et al., "Simple Copy-Paste", 2021 (large scale jitter).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detection.data.augment.geometry import Part, Size
from detection.parts.dense import boxes as box

OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)  # of SSD's crop; None for no crop
CROP_TRIALS = 40
DETR_SIDES, DETR_CROP = (400, 500, 600), (384, 600)


def whole(size: Size) -> Part:
    return Part(0, 0, *size)


def jittered(size: Size, scale: float, rng: np.random.Generator) -> Part:
    """For scale > 1 a random crop, for scale < 1 a canvas with the image at a random position."""
    height, width = (max(1, round(side / scale)) for side in size)
    return Part(_between(0, size[0] - height, rng), _between(0, size[1] - width, rng), height, width)


def _between(low: int, high: int, rng: np.random.Generator) -> int:
    return int(rng.integers(min(low, high), max(low, high), endpoint=True))


def zoomed_out(size: Size, rng: np.random.Generator) -> Part:
    return jittered(size, 1 / rng.uniform(1, 4), rng)


def scaled(size: Size, canvas: Size, rng: np.random.Generator) -> Part:
    """A random crop of an image larger than the canvas, or the image at its top left."""
    scale = rng.uniform(0.1, 2) * min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (max(1, round(side / scale)) for side in canvas)
    share = rng.random()  # one number for both axes, as in the reference
    return Part(round(share * max(0, size[0] - height)), round(share * max(0, size[1] - width)), height, width)


def cropped(size: Size, factor: float, rng: np.random.Generator) -> Part:
    """
    Args:
        factor: scale of all lengths, for smaller images than the paper's.
    """
    scale = factor * rng.choice(DETR_SIDES) / min(size)
    low, high = DETR_CROP
    height, width = (round(rng.uniform(factor * low, min(side * scale, factor * high)) / scale) for side in size)
    height, width = (min(max(1, part), side) for part, side in zip((height, width), size, strict=True))
    return Part(_between(0, size[0] - height, rng), _between(0, size[1] - width, rng), height, width)


# -- SSD's crop -----------------------------------------------------------------------------------


def overlapping(boxes: Tensor, window: Part, rng: np.random.Generator) -> tuple[Part, Tensor]:
    """A random part of a window with enough overlap with some object, and (N,) bool: objects with their center inside.

    Without objects, the window itself.
    """
    corners = box.shifted(boxes, (-window.down, -window.across)).numpy()
    while len(corners):
        overlap = OVERLAPS[rng.integers(len(OVERLAPS))]
        if overlap is None:
            break
        part = _part_overlapping(corners, (window.height, window.width), overlap, rng)
        if part is None:
            continue  # no trial succeeded: try another overlap, as in SSD
        x0, y0, x1, y1 = part.tolist()
        inside = torch.from_numpy(_centres_inside(corners, part[None])[0])
        return Part(window.down + y0, window.across + x0, y1 - y0, x1 - x0), inside
    return window, torch.ones(len(corners), dtype=torch.bool)


def _part_overlapping(boxes: np.ndarray, size: Size, overlap: float, rng: np.random.Generator) -> np.ndarray | None:
    """(N, 4) -> (4,) int, the first of T random parts with a center inside and enough overlap, or None."""
    height, width = size
    draws = rng.random((CROP_TRIALS, 4))
    sides = ((0.3 + 0.7 * draws[:, :2]) * (width, height)).astype(int)
    corners = ((np.array((width, height)) - sides) * draws[:, 2:]).astype(int)
    parts_T4 = np.concatenate((corners, corners + sides), axis=1)
    aspect = sides[:, 0] / np.maximum(sides[:, 1], 1)
    inside_TN = _centres_inside(boxes, parts_T4)
    reached = (np.where(inside_TN, _iou(parts_T4, boxes), -1).max(axis=1)) >= overlap
    good = (sides.min(axis=1) > 0) & (aspect >= 0.5) & (aspect <= 2) & reached
    return parts_T4[good.argmax()] if good.any() else None


def _centres_inside(boxes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(N, 4), (T, 4) -> (T, N) bool."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside: np.ndarray = (centers > parts[:, None, :2]) & (centers < parts[:, None, 2:])
    return np.all(inside, axis=2)


def _iou(parts: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(T, 4), (N, 4) -> (T, N)."""
    low = np.maximum(parts[:, None, :2], boxes[:, :2])
    high = np.minimum(parts[:, None, 2:], boxes[:, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    areas = (parts[:, 2:] - parts[:, :2]).prod(axis=1)[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return common / (areas - common)
