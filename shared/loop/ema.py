"""Exponential moving average (EMA) of weights and buffers."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class Average(nn.Module):
    """An exponential moving average of a module, buffers included.

    Args:
        module: the module to average; copied at construction.
        decay: from 0 to 1; the first steps use min(decay, (1 + t) / (10 + t)), so that initial weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(module).requires_grad_(False).eval()
        self.decay, self.steps = decay, 0

    def get_extra_state(self) -> int:
        return self.steps

    def set_extra_state(self, state: int) -> None:
        self.steps = state

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """Update the average with the module's current weights."""
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine, theirs = tensors_of(self.module), tensors_of(module)
        moving = [i for i, value in enumerate(mine) if value.is_floating_point()]
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage]
            [mine[i] for i in moving], [theirs[i].to(mine[i].dtype) for i in moving], share
        )
        for value, new in zip(mine, theirs, strict=True):
            if not value.is_floating_point():
                value.copy_(new)
        self.steps += 1


def tensors_of(module: nn.Module) -> list[torch.Tensor]:
    """Weights and buffers; what else a state has, such as how far a training is, is not averaged."""
    return [value for value in module.state_dict().values() if isinstance(value, torch.Tensor)]
