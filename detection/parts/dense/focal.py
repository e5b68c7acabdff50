"""Focal and varifocal loss from labels, without a one-hot target.

Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", 2017.
Zhang, Wang, Dayoub, Suenderhauf, "VarifocalNet: An IoU-aware Dense Object Detector", 2021.

With p = sigmoid(x), the loss of a negative is (1 - alpha) p^gamma softplus(x), and of a positive
alpha (1 - p)^gamma softplus(-x). Positives are rare, so the first is computed everywhere and replaced by the second
at the labels. The gradient is computed with the loss: one tensor is saved for the backward pass.

Nothing is selected by a mask, so a GPU never waits. Shape letters: K classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NOTHING, IGNORED = -1, -2


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Logits (..., K), labels (...), a class or NOTHING or IGNORED -> (): sum over places and classes."""
    return focal_losses(logits, labels, alpha=alpha, gamma=gamma).sum()


def focal_losses(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Logits (..., K), labels (...), a class or NOTHING or IGNORED -> (...): sum over classes."""
    losses: Tensor = FocalLoss.apply(logits, labels, alpha, gamma)  # type: ignore[assignment]
    return losses.masked_fill(labels == IGNORED, 0.0)


def varifocal_losses(
    logits: Tensor, labels: Tensor, quality: Tensor, *, alpha: float = 0.75, gamma: float = 2.0
) -> Tensor:
    """Logits (..., K), labels (...), a class or NOTHING, quality of the labels (...) from 0 to 1 -> (...): sum over
    classes.

    The target of a label is its quality q, and its cross-entropy is weighted with q; that of a negative with
    alpha p^gamma, which has no gradient.
    """
    there, at = (labels >= 0)[..., None], labels.clamp(min=0)[..., None]
    wanted = torch.where(there, quality[..., None].to(logits.dtype), 0.0)
    weight = logits.detach().sigmoid().pow_(gamma).mul_(alpha)
    weight.scatter_(-1, at, torch.where(there, wanted, weight.gather(-1, at)))
    targets = torch.zeros_like(logits).scatter_(-1, at, wanted)
    return F.binary_cross_entropy_with_logits(logits, targets, weight, reduction="none").sum(-1)


class FocalLoss(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        loss, slope = false_alarm(logits, gamma, 1 - alpha)
        there, at = (labels >= 0)[..., None], labels.clamp(min=0)[..., None]
        caught, downwards = false_alarm(-logits.gather(-1, at), gamma, alpha)
        for filled, value in ((loss, caught), (slope, -downwards)):
            filled.scatter_(-1, at, torch.where(there, value, filled.gather(-1, at)))
        ctx.save_for_backward(slope)
        return loss.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *received: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * received[0][..., None], None, None, None


def false_alarm(x: Tensor, gamma: float, weight: float) -> tuple[Tensor, Tensor]:
    """weight * p^gamma * softplus(x) and its derivative, each of the shape of `x`."""
    p, surprise = x.sigmoid(), F.softplus(x)
    share = p.pow(gamma).mul_(weight)
    slope = (1 - p).mul_(surprise).mul_(gamma).add_(p).mul_(share)
    return surprise.mul_(share), slope
