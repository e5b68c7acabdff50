"""Results of fixed shape, for exported networks: a graph for another runtime cannot drop what it does not keep.

    with fixed_shapes(): net.detect(images)      the same detections; where there are fewer than M, rows of score 0

    candidates    score at most the limit -> 0                instead of removed
    NMS           boxes moved apart by class; all but the kept ones -> 0
    M best        the best scores, or rows of zeros where there are fewer

What makes the number of rows depend on values asks `shapes_are_fixed`: parts that networks share, so that a network
made of them needs nothing more to be exported. A part without a fixed form calls `no_fixed_form`. Equal scores may
come in another order than without.
Shape letters: N candidates of an image, M detections.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from shared.errors import UsageError

MOST_CANDIDATES = 5000  # in one NMS; more than have a score of use in any photograph
NOWHERE = (-2.0, -2.0, -1.0, -1.0)  # a box outside every image, so that all that are none overlap only one another

_fixed = ContextVar("fixed", default=False)


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """In the block, parts give results whose shapes do not depend on values."""
    before = _fixed.set(True)
    try:
        yield
    finally:
        _fixed.reset(before)


def shapes_are_fixed() -> bool:
    return _fixed.get()


def no_fixed_form(what: str) -> NoReturn:
    """Refuse to be exported.

    Args:
        what: the end of a sentence about the network, such as "finds segments of any number".
    """
    raise UsageError(f"this network cannot be exported: it {what}; use `detect predict`, which runs it with torch")


def above(scores: Tensor, min_score: float) -> Tensor:
    """(...) -> (...): scores above a limit, 0 for the others."""
    return scores.where(scores > min_score, 0.0)


def best_after_nms(
    boxes: Tensor, labels: Tensor, scores: Tensor, iou: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """NMS within each class, of candidates of which those of score 0 are none.

    Args:
        boxes: (N, 4) clipped to the image.
        labels: (N,).
        scores: (N,), none below 0.
        most: M.

    Returns:
        (M, 4) boxes, (M,) labels, (M,) scores, best first; rows of zeros at the end.
    """
    if len(scores) > MOST_CANDIDATES:
        scores, index = scores.topk(MOST_CANDIDATES)
        boxes, labels = boxes[index], labels[index]
    apart = boxes + (labels.to(boxes.dtype) * (boxes.max() + 1))[:, None]  # no box of a class meets one of another
    nowhere = torch.tensor(NOWHERE, device=boxes.device, dtype=boxes.dtype)
    kept = nms(torch.where((scores > 0)[:, None], apart, nowhere), scores, iou)
    scores = scores * torch.zeros_like(scores).scatter(0, kept, torch.ones_like(kept, dtype=scores.dtype))
    return best_rows(boxes, labels, scores, most)


def best_rows(boxes: Tensor, labels: Tensor, scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 4), (N,), (N,) -> (most, 4), (most,), (most,): the best ones; rows of zeros where there are fewer."""
    lacking = max(0, most - len(scores))
    if lacking:
        boxes, labels, scores = (
            F.pad(boxes, (0, 0, 0, lacking)),
            F.pad(labels, (0, lacking)),
            F.pad(scores, (0, lacking)),
        )
    top, index = scores.topk(most)
    real = top > 0
    return boxes[index] * real[:, None], labels[index] * real, top
