"""Post-processing of dense predictions."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from detection.parts.fixed import above, best_after_nms, shapes_are_fixed
from detection.types import Detections


def best_boxes(
    scores: list[Tensor],
    boxes: list[Tensor],
    size: tuple[int, int],
    *,
    min_score: float,
    nms_iou: float,
    per_level: int = 1000,
    per_class: int | None = None,
    most: int = 100,
) -> Detections:
    """Class-wise NMS of one image over its pyramid levels.

    Args:
        scores: per level, (P, K) class probabilities.
        boxes: per level, (P, 4) as x0 y0 x1 y1.
        size: (height, width) the boxes are clipped to.
        min_score: candidates with this score or less are dropped.
        per_level: candidates per level before NMS.
        per_class: candidates per class of a level, instead of per level.
        most: detections kept after NMS.
    """
    pick, count = (candidates, per_level) if per_class is None else (candidates_of_each_class, per_class)
    picked = [pick(s, b, min_score, count) for s, b in zip(scores, boxes, strict=True)]
    score, label, box = (torch.cat(parts) for parts in zip(*picked, strict=True))
    box = clip_boxes_to_image(box, size)
    if shapes_are_fixed():
        box, label, score = best_after_nms(box, label, score, nms_iou, most)
        return {"boxes": box, "labels": label, "scores": score}
    keep = batched_nms(box.float(), score.float(), label, nms_iou)[:most]
    return {"boxes": box[keep], "labels": label[keep], "scores": score[keep]}


def candidates(scores: Tensor, boxes: Tensor, min_score: float, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """(P, K) scores, (P, 4) boxes -> scores (M,), labels (M,), boxes (M, 4) of the best point-class pairs."""
    flat = scores.flatten()
    if shapes_are_fixed():
        top, index = flat.topk(min(most, len(flat)))
        return above(top, min_score), index % scores.shape[1], boxes[index // scores.shape[1]]
    index = (flat > min_score).nonzero()[:, 0]
    top, order = flat[index].topk(min(most, len(index)))
    index = index[order]
    return top, index % scores.shape[1], boxes[index // scores.shape[1]]


def candidates_of_each_class(
    scores: Tensor, boxes: Tensor, min_score: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(P, K) scores, (P, 4) boxes -> scores (M,), labels (M,), boxes (M, 4) of the best points of each class."""
    top_KM, place_KM = scores.t().topk(min(most, len(scores)))
    if shapes_are_fixed():
        labels = torch.arange(len(top_KM), device=top_KM.device)[:, None].expand_as(top_KM)
        return above(top_KM, min_score).flatten(), labels.flatten(), boxes[place_KM].flatten(0, 1)
    enough = top_KM > min_score
    return top_KM[enough], enough.nonzero()[:, 0], boxes[place_KM[enough]]
