"""Focal loss from labels, without a one-hot target.

Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017.

With p = sigmoid(x), the loss of a negative is (1 - alpha) p^gamma softplus(x), and of a positive
alpha (1 - p)^gamma softplus(-x). Positives are rare, so the first is computed everywhere and replaced by the second
at the labels. The gradient is computed with the loss: one tensor is saved for the backward pass.

Shape letters: P points, K classes.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NOTHING, IGNORED = -1, -2


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Logits (P, K), labels (P,), a class or NOTHING or IGNORED -> (): sum over points and classes."""
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
    """weight * p^gamma * softplus(x) and its derivative, each of the shape of `x`."""
    p, surprise = x.sigmoid(), F.softplus(x)
    share = p.pow(gamma).mul_(weight)
    slope = (1 - p).mul_(surprise).mul_(gamma).add_(p).mul_(share)
    return surprise.mul_(share), slope
