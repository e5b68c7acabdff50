"""The focal loss over many places and classes, from labels: no target of the size of the scores is ever made.

Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017.

With p = sigmoid(x), a class that is absent costs (1 - alpha) p^gamma softplus(x), and one that is there
alpha (1 - p)^gamma softplus(-x). Hardly any class is there, so the first is computed everywhere and the second put in
its place where a label says so. The slope is found along with the loss: one tensor is kept for the backward pass.

Shape letters: P places, K classes.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NOTHING, IGNORED = -1, -2


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """(P, K) scores and (P,) labels, a class or NOTHING or IGNORED -> (): the sum over places and classes."""
    loss: Tensor = FocalLoss.apply(logits, labels, alpha, gamma)  # type: ignore[assignment]
    return loss


class FocalLoss(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        loss, slope = false_alarm(logits, gamma, 1 - alpha)
        ignored, there = (rows.nonzero()[:, 0] for rows in (labels == IGNORED, labels >= 0))
        for filled in (loss, slope):
            filled.index_fill_(0, ignored, 0.0)
        at = (there, labels[there])
        loss[at], downwards = false_alarm(-logits[at], gamma, alpha)
        slope[at] = -downwards
        ctx.save_for_backward(slope)
        return loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * received[0], None, None, None


def false_alarm(x: Tensor, gamma: float, weight: float) -> tuple[Tensor, Tensor]:
    """weight * p^gamma * softplus(x) and its slope, each of the shape of `x`."""
    p, surprise = x.sigmoid(), F.softplus(x)
    share = p.pow(gamma).mul_(weight)
    slope = (1 - p).mul_(surprise).mul_(gamma).add_(p).mul_(share)
    return surprise.mul_(share), slope
