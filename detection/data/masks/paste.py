"""A mask over a box becomes a mask of the image: resized to the box, thresholded at 0.5, encoded as COCO RLE.

    (S, S) from 0 to 1, box -> paste -> Patch: bool (h, w) at left, top -> encode -> bytes, RLE of the whole image

Equal pixel for pixel to torchvision's paste_masks_in_image (He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017,
section 3.1), and byte for byte to pycocotools' encoding of its masks. Only the pixels of the box are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask
import torch
import torch.nn.functional as F
from torch import Tensor

from detection.data.masks.rle import compressed, run_lengths

codec: Any = pycocotools.mask  # its type annotations are incomplete
THRESHOLD = 0.5  # a pixel belongs to the object above this probability


class Patch(NamedTuple):
    """The part of an image that a mask may cover."""

    left: int
    top: int
    inside: np.ndarray  # (h, w) bool


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Iterator[Patch]:
    """(M, S, S) in [0, 1] over boxes (M, 4), in pixels of an image of (height, width) `size` -> M patches.

    Each mask is padded by a pixel of zeros and its box enlarged to match, so that edges are not cut off.
    """
    height, width = size
    side = masks.shape[-1]
    grown = F.pad(masks.detach().float().cpu(), (1, 1, 1, 1))
    for mask, (x0, y0, x1, y1) in zip(grown, grow(boxes.detach().float().cpu(), (side + 2) / side), strict=True):
        across, down = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
        large = F.interpolate(mask[None, None], size=(down, across), mode="bilinear", align_corners=False)[0, 0]
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1 + 1, width), min(y1 + 1, height)
        part = large[top - y0 : max(bottom - y0, 0), left - x0 : max(right - x0, 0)]
        yield Patch(left, top, (part > THRESHOLD).numpy())


def grow(boxes: Tensor, scale: float) -> list[list[int]]:
    """(M, 4) -> M integer boxes with the same centers, `scale` times as wide and high."""
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    center = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return torch.cat((center - half, center + half), 1).long().tolist()


def encode(patch: Patch, size: tuple[int, int]) -> bytes:
    """COCO's compressed RLE of a (height, width) mask that is False outside the patch."""
    height, width = size
    down, across = patch.inside.shape
    columns = np.zeros((across, down + 2), dtype=bool)
    columns[:, 1:-1] = patch.inside.T
    change = np.flatnonzero(columns[:, 1:] != columns[:, :-1])  # (down + 1) entries per column
    places = change + change // (down + 1) * (height - down - 1) + patch.left * height + patch.top
    if down == height:  # a run may continue in the next column
        goes_on = 1 + 2 * np.flatnonzero(places[1:-1:2] == places[2::2])
        places = np.delete(places, np.concatenate((goes_on, goes_on + 1)))
    counts = np.diff(places, prepend=0, append=height * width)
    whole = counts[: len(counts) - (counts[-1] == 0)]
    return codec.frPyObjects({"size": [height, width], "counts": whole.tolist()}, height, width)["counts"]


def merged(segmentation: Any, size: tuple[int, int]) -> bytes:
    """A validated COCO segmentation, polygons or RLE -> compressed RLE of (height, width)."""
    if isinstance(segmentation, list):
        return codec.merge(codec.frPyObjects(segmentation, *size))["counts"]
    runs = read_run_lengths(segmentation, size)
    assert runs is not None, "annotations are checked when they are opened"
    return runs


def read_run_lengths(segmentation: Any, size: tuple[int, int]) -> bytes | None:
    """A COCO RLE segmentation, compressed or not -> compressed; None if it does not fit (height, width).

    pycocotools reads past the end of run lengths that do not cover their image.
    """
    if not isinstance(segmentation, dict) or segmentation.get("size") != [*size]:
        return None
    runs = segmentation.get("counts")
    try:
        if isinstance(runs, list):
            runs = compressed(runs, size)
        runs = runs.encode("ascii") if isinstance(runs, str) else runs
    except (TypeError, ValueError, OverflowError):
        return None
    if not isinstance(runs, bytes) or not runs:
        return None
    counts, _ = run_lengths(np.frombuffer(runs, np.uint8), np.array([0, len(runs)]))
    return runs if counts.min() >= 0 and counts.sum() == size[0] * size[1] else None
