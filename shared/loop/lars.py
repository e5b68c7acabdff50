"""LARS: every weight moves in proportion to its own size, so that batches of thousands train like small ones.

You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, in the form VICReg was trained with:

    g <- g + wd w;   g <- g * eta |w| / |g|;   m <- momentum m + g;   w <- w - lr m

Biases and the weights of normalization layers, which have one dimension, take the plain step whatever group they are
in: no decay, no ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class LARS(torch.optim.Optimizer):
    """
    Args:
        params: parameters, or groups of them with rates and decays of their own.
        lr: learning rate.
        momentum: share of the last step that is kept.
        weight_decay: of weights with two or more dimensions; it counts in the norm of the ratio.
        eta: length of a step as a share of the weight's, before lr.
    """

    def __init__(
        self, params: Any, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0, eta: float = 0.001
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is None:
                    continue
                step = w.grad
                if w.dim() > 1:
                    step = step.add(w, alpha=group["weight_decay"])
                    # a ratio of tensors, so that a GPU is never asked for a number
                    size, length = w.norm(), step.norm()
                    step.mul_(torch.where((size > 0) & (length > 0), group["eta"] * size / length, 1.0))
                state = self.state[w]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(w)
                state["momentum"].mul_(group["momentum"]).add_(step)
                w.sub_(state["momentum"], alpha=group["lr"])
        return loss
