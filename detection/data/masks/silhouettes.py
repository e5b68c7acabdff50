"""Masks between the file and the batch: still compressed while the photograph is moved, pixels once and at the end.

    Outlines -> Silhouettes: which rows and columns of each mask an image shows -> move, move, drop, move
             -> pixels(): each kept mask is rasterized once, and what of it is seen is copied to its place

A mirror image, a crop, a nearest-pixel resize and a larger canvas all say, row by row and column by column, where a
pixel comes from; so a chain of them is one such table, and nobody moves N full masks at every link of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.data.masks.outlines import Outlines
from detection.data.masks.rle import coco_mask, columns_of, run_lengths
from shared.feeding.columns import ends


@dataclass(frozen=True)
class Silhouettes:
    """The masks of N objects of one photograph.

    Args:
        outlines: where they are kept.
        numbers: (N,) which of them.
        size: height and width of the stored photograph.
        rows, columns: (H,), (W,) int64: what of it the image shows; -1 is beyond it, where no object is.
    """

    outlines: Outlines
    numbers: np.ndarray
    size: tuple[int, int]
    rows: Tensor
    columns: Tensor

    @classmethod
    def whole(cls, outlines: Outlines, numbers: np.ndarray, size: tuple[int, int]) -> Silhouettes:
        """As stored."""
        return cls(outlines, numbers, size, torch.arange(size[0]), torch.arange(size[1]))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, keep: Tensor) -> Silhouettes:
        """(N,) bool -> these alone."""
        return replace(self, numbers=self.numbers[keep.numpy()])

    def seen(self, rows: Tensor, columns: Tensor) -> Silhouettes:
        """After a move: the old row and column of each new one, -1 for none."""
        return replace(self, rows=_chained(self.rows, rows), columns=_chained(self.columns, columns))

    def pixels(self) -> Tensor:
        """(N, H, W) uint8, 1 where the object is."""
        rows, columns = self.rows.numpy(), self.columns.numpy()
        masks = np.zeros((len(self), len(rows), len(columns)), np.uint8)
        codes = [encoded(self.outlines, int(number), self.size) for number in self.numbers]
        if not codes:
            return torch.from_numpy(masks)
        strings = [code["counts"] for code in codes]
        counts, first = run_lengths(
            np.frombuffer(b"".join(strings), np.uint8), ends(np.array([len(t) for t in strings]))
        )
        boxes = coco_mask.toBbox(codes).astype(np.int64).tolist()
        for canvas, (x, y, width, height), runs in zip(masks, boxes, np.split(counts, first[1:-1]), strict=True):
            across, down = _between(columns, x, x + width), _between(rows, y, y + height)
            if across.stop > across.start and down.stop > down.start:
                object_alone = columns_of(runs, self.size[0], x, x + width)
                canvas[down, across] = object_alone.take(columns[across] - x, axis=0).take(rows[down], axis=1).T
        return torch.from_numpy(masks)


def encoded(outlines: Outlines, number: int, size: tuple[int, int]) -> dict[str, Any]:
    """One mask as compressed RLE; polygons are rasterized, and joined where there are several."""
    if code := outlines.code(number):
        return {"size": list(size), "counts": code}
    rings = coco_mask.frPyObjects(outlines.polygons(number), *size)
    return rings[0] if len(rings) == 1 else coco_mask.merge(rings)


def empty(outlines: Outlines, sizes: np.ndarray) -> np.ndarray:
    """(A,) bool: masks without a pixel in their image.

    Only those are rasterized that look like it: outside, narrower than a pixel, or of hardly any area.

    Args:
        sizes: (A, 2) height and width of each one's image.
    """
    limit = sizes[:, ::-1]
    extents, areas = outlines.extents(), outlines.areas()
    low, high = np.clip(extents[:, :2], 0, limit), np.clip(extents[:, 2:], 0, limit)
    there = (outlines.rings > 0) | (outlines.in_code > 0)
    suspects = there & ((areas < 2) | (high - low < 1).any(axis=1))  # nan, of RLE, is no suspect
    found = np.zeros(len(outlines), dtype=bool)
    for number in np.flatnonzero(suspects).tolist():
        height, width = sizes[number].tolist()
        found[number] = coco_mask.area(encoded(outlines, number, (height, width))) == 0
    return found


def _chained(old: Tensor, new: Tensor) -> Tensor:
    return torch.where(new < 0, -1, old[new])


def _between(places: np.ndarray, low: int, high: int) -> slice:
    """Where places, which rise or fall but for the -1 around them, are in [low, high)."""
    inside = np.flatnonzero((places >= low) & (places < high))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
