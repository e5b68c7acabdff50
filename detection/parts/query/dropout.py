"""Dropout with a cost proportional to the number of dropped values on a CPU; PyTorch draws a number for every value.

Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout", 2014.

    flat values -> gaps between dropped values (geometric distribution) -> their indices -> set to 0

Each value is dropped independently with the same probability. On a GPU, PyTorch's kernel is used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shared.errors import UsageError


class Dropout(nn.Module):
    """(...) -> (...): in training, values are set to 0 with probability `share`, and the others scaled up."""

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise UsageError(f"dropout is {share}; give a probability from 0 to below 1")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.share) if self.training and self.share else x


def dropout(x: Tensor, share: float) -> Tensor:
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, share)
    return Dropped.apply(x, share)  # type: ignore[return-value]


class Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.share = share
        kept, where = drop(x, share)
        ctx.save_for_backward(where)
        return kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return without(gradient, ctx.saved_tensors[0], ctx.share), None


@torch.library.custom_op("chordate::drop", mutates_args=(), schema="(Tensor x, float share) -> (Tensor, Tensor)")
def drop(x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """(...) -> (...), and the flat indices of the values that are 0; a single operation, on a CPU."""
    where = drawn(x.numel(), share)
    return without(x, where, share), where


def without(x: Tensor, where: Tensor, share: float) -> Tensor:
    """(...) -> (...): 0 at these flat indices, and the others scaled up."""
    kept = (x * (1 / (1 - share))).contiguous()
    kept.view(-1).index_fill_(0, where, 0)
    return kept


def drawn(count: int, share: float) -> Tensor:
    """-> (about count * share,) int64, ascending: indices of the dropped values."""
    enough = int(count * share + 8 * math.sqrt(count * share)) + 16  # eight standard deviations more than expected
    kept_between = torch.rand(enough).neg_().log1p_().mul_(1 / math.log1p(-share)).long()
    places = kept_between.add_(1).cumsum(0).sub_(1)
    return places[: int(torch.searchsorted(places, count))]
