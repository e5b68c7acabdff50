"""LARS: layer-wise adaptive rate scaling for large batches.

You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, in VICReg's variant:

    g <- g + wd w;   g <- g * eta |w| / |g|;   m <- momentum m + g;   w <- w - lr m

Parameters with one dimension (biases and normalization weights) take a plain SGD step: no decay, no ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class LARS(torch.optim.Optimizer):
    """
    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum: momentum factor.
        weight_decay: for parameters with two or more dimensions; included in the gradient norm of the ratio.
        eta: trust coefficient.
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
                    # stays a tensor, so that the host does not wait for the GPU
                    size, length = w.norm(), step.norm()
                    step.mul_(torch.where((size > 0) & (length > 0), group["eta"] * size / length, 1.0))
                state = self.state[w]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(w)
                state["momentum"].mul_(group["momentum"]).add_(step)
                w.sub_(state["momentum"], alpha=group["lr"])
        return loss
