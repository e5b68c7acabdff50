"""The objects of a batch as one tensor each, padded to the most of an image, so that nothing is done image by image.

    targets -> boxes (B, N, 4), labels (B, N), and which of them are objects

Shape letters: B images, N objects of the most crowded image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.parts.dense.focal import NOTHING
from detection.types import Target
from shared.devices.device import sent


class Objects(NamedTuple):
    """Padding has boxes of zeros and the label NOTHING; N is at least 2, since compiled code for 1 is another."""

    boxes: Tensor  # (B, N, 4) as x0 y0 x1 y1
    labels: Tensor  # (B, N)
    there: Tensor  # (B, N) bool: an object, not padding

    def of(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of objects (B, P), negative ones for none -> labels (B, P), boxes (B, P, 4).

        Labels are the negative index where there is none, boxes arbitrary ones.
        """
        index = which.clamp(min=0)
        labels = torch.where(which >= 0, self.labels.gather(1, index), which)
        return labels, self.boxes.gather(1, index[..., None].expand(-1, -1, 4))


def padded(targets: Sequence[Target]) -> Objects:
    """Targets of B images -> their objects; the number of operations does not depend on B."""
    boxes = [target["boxes"] for target in targets]
    some = boxes[0]
    index = sent(padded_index([len(each) for each in boxes]), some.device)
    flat = torch.cat([*boxes, some.new_zeros(1, 4)])  # the last row is padding
    labels = torch.cat([*(target["labels"] for target in targets), index.new_full((1,), NOTHING)])[index]
    return Objects(flat[index].float(), labels, labels >= 0)


def padded_index(counts: Sequence[int]) -> np.ndarray:
    """Rows of each image, one after the other -> (B, N): the row of each object, and the row after all for padding."""
    place = np.arange(max(2, *counts))
    many = np.asarray(counts, dtype=np.int64)[:, None]
    return np.where(place < many, many.cumsum(0) - many + place, many.sum())
