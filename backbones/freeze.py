"""Freezing of stages, whole backbones, batch norm, and parameters that no loss depends on.

Frozen parameters get no gradient, and frozen modules stay in eval mode, so that running statistics, dropout and
stochastic depth do not change either.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from backbones.base import Backbone
from backbones.reach import map_reach
from shared.errors import UsageError


def freeze(backbone: Backbone) -> None:
    backbone.requires_grad_(False)


def freeze_stages(backbone: Backbone, count: int) -> None:
    """Freeze the stem and `count` stages; stage k ends with the k-th map.

    Raises:
        UsageError: the backbone has fewer stages.
    """
    stages = backbone.stages()
    if count >= len(stages):
        raise UsageError(f"--freeze-backbone-stages {count}: this backbone has a stem and {len(stages) - 1} stages")
    for stage in stages[: count + 1]:
        for parameter in stage:
            parameter.requires_grad_(False)


def freeze_batch_norm(module: nn.Module) -> None:
    """Freeze scale, shift and running statistics of every batch norm."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.requires_grad_(False)


def hold_statistics(module: nn.Module) -> None:
    """Call after `module.train()`: batch norms keep their running statistics, while scale and shift learn."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


def freeze_unreached(backbone: Backbone, used: Sequence[int]) -> list[str]:
    """Freeze parameters that no used map depends on, such as a MobileNet's head convolution; returns their names."""
    reach = map_reach(backbone)
    reached = set().union(*(reach[i] for i in used))
    idle = [name for name, _ in backbone.named_parameters() if name not in reached]
    for name in idle:
        backbone.get_parameter(name).requires_grad_(False)
    return idle


def keep_frozen_in_eval(module: nn.Module) -> None:
    """Call after `module.train()`: puts modules whose parameters are all frozen back to eval mode."""
    for layer in module.modules():
        own = list(layer.parameters())
        if own and not any(p.requires_grad for p in own):
            layer.eval()
