"""Masks between file and batch: compressed while the image is transformed, rasterized once at the end.

    Outlines -> Silhouettes: the rows and columns of each mask that an image shows -> transforms
             -> pixels(): each kept mask is rasterized once, and its visible part copied into place

A flip, a crop, a nearest-pixel resize and a larger canvas each map output rows and columns to input rows and
columns; a chain of them is one such map, so N full masks need not be transformed at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from detection.data.masks.encoding import encoded
from detection.data.masks.outlines import Outlines
from detection.data.masks.rle import coco_mask, columns_of, run_lengths
from shared.feeding.columns import ends


@dataclass(frozen=True)
class Silhouettes:
    """The masks of N objects in one image.

    Args:
        outlines: the stored segmentations.
        numbers: (N,) indices into them.
        size: height and width of the stored image.
        rows, columns: (H,), (W,) int64: stored row and column of each output row and column; -1 is outside.
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
        """(N,) bool -> only these."""
        return replace(self, numbers=self.numbers[keep.numpy()])

    def seen(self, rows: Tensor, columns: Tensor) -> Silhouettes:
        """Apply a transform, given the old row and column of each new one, -1 for none."""
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


def _chained(old: Tensor, new: Tensor) -> Tensor:
    return torch.where(new < 0, -1, old[new])


def _between(places: np.ndarray, low: int, high: int) -> slice:
    """The slice of monotonic `places` (with -1 at the ends) that lies in [low, high)."""
    inside = np.flatnonzero((places >= low) & (places < high))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
