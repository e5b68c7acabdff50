"""Batch norm over all processes: statistics of the global batch instead of each process's own."""

from __future__ import annotations

from typing import Any

from torch import nn


def join_batch_norms(module: nn.Module) -> Any:
    """Convert to synchronized batch norm with timm's converter; torch's drops the activations of timm's layers."""
    from timm.layers.norm_act import convert_sync_batchnorm

    return convert_sync_batchnorm(module)
