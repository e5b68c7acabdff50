"""Detections from query outputs, without NMS.

Shape letters: B images, Q queries, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.ops import box_convert, clip_boxes_to_image

from detection.parts.fixed import shapes_are_fixed
from detection.types import Detections
from shared.devices.device import sent


def best_pairs(scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, Q, K) -> scores, labels and queries of the best query-class pairs, (B, min(most, Q K)) each, best first."""
    classes = scores.shape[-1]
    flat = scores.flatten(1)
    top, index = flat.topk(min(most, flat.shape[1]))
    return top, index % classes, index // classes


def best_queries(scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, Q, K) -> scores, labels and indices of the best queries, (B, min(most, Q)) each, best first."""
    score, label = scores.max(-1)
    top, query = score.topk(min(most, score.shape[1]))
    return top, label.gather(1, query), query


def detections(
    best: tuple[Tensor, Tensor, Tensor], boxes: Tensor, sizes: Sequence[tuple[int, int]], min_score: float
) -> list[Detections]:
    """
    Args:
        best: scores, labels and queries, best first.
        boxes: (B, Q, 4) as cx cy w h relative to the unpadded images.
        sizes: (height, width) of each unpadded image.
        min_score: detections with a lower score are dropped.
    """
    found: list[Detections] = []
    for score, label, query, box, (height, width) in zip(*best, boxes, sizes, strict=True):
        sure = score >= min_score
        if shapes_are_fixed():
            score, sure = score * sure, slice(None)
        corners = box_convert(box[query[sure]], "cxcywh", "xyxy") * sent(
            (width, height, width, height), box.device, box.dtype
        )
        found.append(
            {"boxes": clip_boxes_to_image(corners, (height, width)), "labels": label[sure], "scores": score[sure]}
        )
    return found
