"""COCO's run-length encoding (RLE): alternating lengths of background and object runs, column by column.

    [5, 3, 92] -> differences -> characters of five bits -> "53R2"

pycocotools encodes and rasterizes; this page decodes many strings at once, and survives malformed ones.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pycocotools.mask

coco_mask: Any = pycocotools.mask  # its type annotations are incomplete


def run_lengths(codes: np.ndarray, code_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decode COCO's compressed RLE strings at once: run lengths (N,), and the end of each string in them (M + 1,).

    A character has 5 bits, lowest first, and a continuation bit; from the fourth number on, the string stores
    the difference to the last but one. A truncated string, or one with an invalid run, gets the run length -1.
    """
    bits = codes.astype(np.int64) - 48
    last = (bits & 32) == 0
    cut = code_ends[1:] - 1
    open_ended = ~last[cut]
    last[cut] = True
    stops = np.flatnonzero(last)
    starts = np.append(0, stops[:-1] + 1)
    place = np.arange(len(bits)) - np.repeat(starts, stops - starts + 1)
    broken = open_ended | np.logical_or.reduceat((bits < 0) | (bits > 63) | (place > 6), code_ends[:-1])
    values = np.add.reduceat((bits & 31) << np.minimum(5 * place, 55), starts)
    negative = (bits[stops] & 16) != 0
    values -= negative.astype(np.int64) << np.minimum(5 * (place[stops] + 1), 60)
    first = np.append(np.searchsorted(starts, code_ends[:-1]), len(starts))
    order = np.arange(len(values)) - np.repeat(first[:-1], np.diff(first))
    counts = np.where(order == 0, values, 0)
    for mine in ((order % 2 == 1), (order % 2 == 0) & (order > 0)):
        summed = np.cumsum(np.where(mine, values, 0))
        before = np.append(0, summed)[first[:-1]]
        counts += np.where(mine, summed - np.repeat(before, np.diff(first)), 0)
    counts[first[1:][broken] - 1] = -1
    return counts, first


def columns_of(counts: np.ndarray, height: int, first: int, stop: int) -> np.ndarray:
    """Run lengths -> (stop - first, height) uint8: columns [first, stop) of the mask, one per row."""
    edges = np.cumsum(counts).clip(first * height, stop * height)
    lengths = np.diff(edges, prepend=first * height)
    return np.repeat((np.arange(len(counts)) & 1).astype(np.uint8), lengths).reshape(-1, height)


def compressed(counts: Any, size: tuple[int, int]) -> bytes:
    """Run lengths as a list of integers -> COCO's compressed RLE."""
    array("I", counts)  # other values would abort the process inside pycocotools
    return coco_mask.frPyObjects([{"counts": list(counts), "size": list(size)}], *size)[0]["counts"]


def from_pixels(mask: np.ndarray) -> tuple[tuple[float, float, float, float], dict[str, Any]]:
    """(H, W) uint8, 1 where the object is -> its box x y w h, and COCO's RLE with counts as text."""
    code = coco_mask.encode(np.asfortranarray(mask))
    x, y, w, h = coco_mask.toBbox(code).tolist()
    return (x, y, w, h), {"size": list(mask.shape), "counts": code["counts"].decode()}
