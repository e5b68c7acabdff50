"""`--grad-checkpointing`: the blocks of a network are computed again in the backward pass instead of being kept.

Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016. Only what goes into a block is kept,
for about a third more computation; losses, gradients and batch norm's statistics are the same numbers.

A block is a part that is repeated: a residual block, a layer of a transformer. They are found by their place, as
members of a list or sequence of one class, so no network has to know about this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from shared.errors import UsageError


def recompute_blocks(net: nn.Module) -> int:
    """Recompute the blocks of a network from now on, in training only; returns their number.

    Names, weights and class relations of the modules stay as they are.

    Raises:
        UsageError: it has no blocks.
    """
    found = list(blocks_of(net))
    if not found:
        raise UsageError("this network has no repeated blocks to compute again; remove --grad-checkpointing")
    for block in found:
        kind = type(block)
        block.__class__ = type(kind.__name__, (Recomputed, kind), {"__module__": kind.__module__})
    return len(found)


def blocks_of(net: nn.Module) -> Iterator[nn.Module]:
    """The innermost members of lists and sequences whose members are all of one class and have parts of their own."""
    for container in net.modules():
        if not isinstance(container, nn.Sequential | nn.ModuleList):
            continue
        members = list(container)
        alike = len({type(member) for member in members}) == 1 and type(members[0]) not in (
            nn.Sequential,
            nn.ModuleList,
        )
        if alike and all(any(True for _ in member.children()) for member in members):
            yield from (member for member in members if next(blocks_of(member), None) is None)


class Recomputed(nn.Module):
    """A block whose activations are not kept."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        block = super().forward
        if not (self.training and torch.is_grad_enabled()):
            return block(*args, **kwargs)

        def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
            return nullcontext(), statistics_stand(self)

        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts, **kwargs)


@contextmanager
def statistics_stand(block: nn.Module) -> Iterator[None]:
    """Batch norm learns nothing inside: it has seen these activations in the forward pass."""
    norms = [layer for layer in block.modules() if isinstance(layer, _BatchNorm) and layer.training]
    usual = [layer.momentum for layer in norms]
    counts = [None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone() for layer in norms]
    try:
        for layer in norms:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum, count in zip(norms, usual, counts, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)
