"""Region proposals of a whole batch: the best anchors of every level, moved, without those that overlap a better one.

    scores, offsets of each level -> the best ones -> NMS of each image and level -> the best of all levels

Ren, He, Girshick, Sun, "Faster R-CNN", 2015; on a pyramid as in Lin et al., 2017. The proposals are torchvision's.
Shape letters: B images, P anchors of a level, K boxes of a group, M proposals of an image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import nms

from detection.parts.dense.anchors import from_offsets
from detection.parts.fixed import shapes_are_fixed
from shared.devices.device import sent

TOGETHER = 2**15  # boxes in one NMS on a GPU, whose memory grows with their square
NONE = -1.0  # the score of no proposal


def propose(
    rpn: RegionProposalNetwork,
    scores: Sequence[Tensor],
    offsets: Sequence[Tensor],
    anchors: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Logits (B, P), offsets (B, P, 4) and anchors (P, 4) of each level -> boxes (B, M, 4), best first, and their
    scores (B, M), `NONE` for padding.

    Args:
        sizes: (height, width) of the images, to which boxes are clipped.
    """
    limit = sent([(width, height, width, height) for height, width in sizes], scores[0].device, torch.float32)[:, None]
    counts = [min(rpn.pre_nms_top_n(), score.shape[1]) for score in scores]
    best = [score.topk(count, 1) for score, count in zip(scores, counts, strict=True)]
    moves = [move.gather(1, each_of(index)) for move, (_, index) in zip(offsets, best, strict=True)]
    places = [anchor[index] for anchor, (_, index) in zip(anchors, best, strict=True)]
    boxes = from_offsets(torch.cat(moves, 1), torch.cat(places, 1)).clamp(min=0).minimum(limit)
    chances = torch.cat([top for top, _ in best], 1).sigmoid()
    usable = ((boxes[..., 2:] - boxes[..., :2]) >= rpn.min_size).all(-1) & (chances >= rpn.score_thresh)
    chances = chances.where(usable, NONE)  # worse than all others, so they drop none of them
    levels = zip(boxes.split(counts, 1), chances.split(counts, 1), strict=True)
    thin_out = one_by_one if shapes_are_fixed() else best_of_groups
    kept = torch.cat([thin_out(*level, rpn.nms_thresh) for level in levels], 1)
    left = chances.where(kept, NONE)
    if shapes_are_fixed():
        top, order = left.topk(min(rpn.post_nms_top_n(), left.shape[1]), 1)
        return boxes.gather(1, each_of(order)), top
    top, order = left.sort(dim=1, descending=True, stable=True)
    order = order[:, : rpn.post_nms_top_n()]
    return boxes.gather(1, each_of(order)), top[:, : order.shape[1]]


def each_of(index: Tensor) -> Tensor:
    """Indices of boxes (B, M) -> of all their numbers (B, M, 4)."""
    return index[..., None].expand(-1, -1, 4)


@torch.library.custom_op(
    "chordate::best_of_groups", mutates_args=(), schema="(Tensor boxes, Tensor scores, float iou) -> Tensor"
)
def best_of_groups(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """NMS in each group: boxes (B, K, 4), scores (B, K) -> (B, K) bool, those that are kept.

    A single operation, whose result has a known shape. On a CPU, groups are small one by one; a GPU waits for every
    NMS, so there they are moved apart and taken together.
    """
    if boxes.device.type == "cpu":
        return one_by_one(boxes, scores, iou)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    apart = torch.arange(len(boxes), device=boxes.device)[:, None, None] * (boxes.amax() + 1)
    step = max(1, TOGETHER // max(1, boxes.shape[1]))
    for start in range(0, len(boxes), step):
        some = slice(start, start + step)
        moved = (boxes[some] + apart[: len(boxes[some])]).flatten(0, 1)
        kept[some].view(-1).index_fill_(0, nms(moved, scores[some].flatten(), iou), True)
    return kept


def one_by_one(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """NMS of one group after the other: (B, K, 4), (B, K) -> (B, K) bool."""
    groups = [nms(*group, iou) for group in zip(boxes, scores, strict=True)]
    return torch.stack(
        [
            torch.zeros_like(score, dtype=torch.bool).index_fill(0, keep, True)
            for score, keep in zip(scores, groups, strict=True)
        ]
    )


@best_of_groups.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)
