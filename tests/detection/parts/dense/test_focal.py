"""The focal loss from labels is torchvision's from a target of zeros and ones, and so is its slope."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from detection.parts.dense.focal import IGNORED, NOTHING, focal_loss


def usual(logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
    """Every class of every place against zero or one, but for places to be ignored."""
    wanted = torch.zeros_like(logits)
    there = labels >= 0
    wanted[there, labels[there]] = 1.0
    loss = sigmoid_focal_loss(logits, wanted, alpha, gamma, reduction="none")
    return loss[labels != IGNORED].sum()


@pytest.mark.parametrize("gamma", [1.5, 2.0])
@pytest.mark.parametrize("alpha", [0.25, 0.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_slope_are_those_of_torchvision(gamma: float, alpha: float, dtype: torch.dtype) -> None:
    labels = torch.tensor([0, NOTHING, 3, IGNORED, NOTHING, 2, IGNORED] * 40)
    logits = (4 * torch.randn(len(labels), 4, dtype=dtype)).requires_grad_()
    (ours,) = torch.autograd.grad(3 * focal_loss(logits, labels, alpha=alpha, gamma=gamma), logits)
    (theirs,) = torch.autograd.grad(3 * usual(logits, labels, alpha, gamma), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        focal_loss(logits, labels, alpha=alpha, gamma=gamma), usual(logits, labels, alpha, gamma)
    )
    assert (ours[labels == IGNORED] == 0).all() and ours.abs().sum() > 1


@pytest.mark.parametrize("label", [NOTHING, IGNORED, 1])
def test_places_that_all_show_the_same_are_ordinary(label: int) -> None:
    logits = torch.randn(6, 3, requires_grad=True)
    labels = torch.full((6,), label)
    torch.testing.assert_close(focal_loss(logits, labels), usual(logits, labels, 0.25, 2.0))


def test_no_places_cost_nothing() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = focal_loss(logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0 and logits.grad is not None


def test_sure_scores_stay_finite() -> None:
    """Of whichever sign: neither the loss nor the slope of an exp overflows."""
    logits = torch.tensor([[-200.0, 200.0], [200.0, -200.0], [0.0, 0.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1, 1, NOTHING]))
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
    assert loss > 200 * 0.25 and logits.grad[0].abs().max() == 0


def test_nothing_of_the_scores_is_changed() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    before = logits.detach().clone()
    focal_loss(logits, torch.tensor([0, 1, 2, NOTHING, IGNORED])).backward()
    assert torch.equal(logits, before)
