"""Gaussian soft NMS of all names at once: boxes that overlap a better one of the same name lose score.

Bodla, Singh, Chellappa, Davis, "Soft-NMS: Improving Object Detection With One Line of Code", 2017.

The boxes are the same for all names, so overlaps are computed once, and every name takes its best box in the same step.
A name's scores only fall, so it is left out once its best is below the last detection that will be kept.

Shape letters: N boxes, C names, T steps so far.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_iou

LOOK = 8  # steps between looks at who is left


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    *,
    most: int = 100,
    min_score: float = 1e-4,
    soft_floor: float = 1e-3,
    sigma: float = 0.5,
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 4) boxes, (N, C) scores -> (M,) numbers of boxes, (M,) labels, (M,) scores, best first; M <= `most`.

    Of each name the best box is taken again and again, and the score of every other one is multiplied by
    exp(-IoU^2 / sigma). Equal scores are in the order of labels, then of boxes. Boxes without area are dropped.

    Args:
        min_score: scores up to it are dropped before.
        soft_floor: scores below it are dropped after each step, so only a name's first box can have less.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    held = ((sides > 0).all(1)).nonzero()[:, 0]
    left_CN = scores[held].t().float().contiguous()
    left_CN = torch.where(left_CN > min_score, left_CN, 0.0)
    labels = (left_CN > 0).any(1).nonzero()[:, 0] if len(held) else held
    left_CN = left_CN[labels]
    kept_by_NN = (-box_iou(boxes[held].float(), boxes[held].float()).square() / sigma).exp()
    taken: list[tuple[Tensor, Tensor, Tensor]] = []  # labels, boxes and scores of a few steps, (C, T)
    bar = 0.0  # what is left below it cannot be among the best
    while len(labels):
        steps = [step(left_CN, kept_by_NN, soft_floor) for _ in range(min(LOOK, len(held)))]
        best_CT, which_CT = (torch.stack(parts, 1) for parts in zip(*steps, strict=True))
        taken.append((labels[:, None].expand_as(which_CT), which_CT, best_CT))
        so_far = torch.cat([best.flatten() for *_, best in taken])
        if len(so_far) >= most:
            bar = float(so_far.topk(most).values[-1])
        top = left_CN.amax(1)
        going = (top > 0) & (top >= bar)
        labels, left_CN = labels[going], left_CN[going]
    if not taken:
        nothing = held[:0]
        return nothing, nothing, scores.new_zeros(0)
    label, which, best = (torch.cat([part.flatten() for part in parts]) for parts in zip(*taken, strict=True))
    real = (best > 0).nonzero()[:, 0]
    label, which, best = label[real], which[real], best[real]
    order = label.sort(stable=True).indices  # of one label the steps are in order already
    order = order[best[order].sort(descending=True, stable=True).indices][:most]
    return held[which[order]], label[order], best[order]


def step(left_CN: Tensor, kept_by_NN: Tensor, soft_floor: float) -> tuple[Tensor, Tensor]:
    """Take the best of every name, in place: (C,) scores, 0 where nothing is left, and (C,) which boxes."""
    best, which = left_CN.max(1)
    left_CN *= kept_by_NN[which]
    left_CN.scatter_(1, which[:, None], 0.0)
    left_CN.masked_fill_(left_CN < soft_floor, 0.0)
    return best, which
