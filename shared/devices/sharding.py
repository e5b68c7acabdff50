"""`--fsdp`: weights sharded over the processes, for models that do not fit on one device.

Each block's weights are sharded over the processes and gathered while they are used. A saved state holds full tensors,
so a run can be resumed by any number of processes, and exports are the same as without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from shared.devices import dist
from shared.errors import UsageError
from shared.recipes.recipe import RuntimeConfig

WORTHWHILE = 100_000  # layers with at least so many parameters are sharded on their own


def check_sharding(runtime: RuntimeConfig) -> None:
    """Raise UsageError for options that cannot be combined with --fsdp."""
    if runtime.model_ema:
        raise UsageError("--fsdp cannot be combined with --model-ema; remove one of them")
    if runtime.amp and runtime.amp_dtype == "float16" and runtime.device != "cpu":
        raise UsageError("--fsdp needs bfloat16, since it has no loss scaling; give --amp-dtype bfloat16")


def shard(task: nn.Module, device: torch.device) -> nn.Module:
    """Shard a task: every large layer on its own, the rest together. Zhao et al., "PyTorch FSDP", 2023."""
    from torch.distributed.fsdp import fully_shard

    scalar = next((name for name, p in task.named_parameters() if p.dim() == 0), None)
    if scalar:
        raise UsageError(f"--fsdp cannot shard the scalar parameter {scalar}; train without --fsdp")
    mesh = init_device_mesh(device.type, (dist.world(),))
    for layer in layers(task):
        fully_shard(layer, mesh=mesh)
    fully_shard(task, mesh=mesh)
    return task


def layers(module: nn.Module, listed: bool = False) -> list[nn.Module]:
    """Large members of Sequential and ModuleList containers, none inside another."""
    container = isinstance(module, nn.Sequential | nn.ModuleList)
    if listed and not container and sum(p.numel() for p in module.parameters()) >= WORTHWHILE:
        return [module]
    return [found for child in module.children() for found in layers(child, container)]


def slices(task: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in task.modules() if isinstance(module, FSDPModule)]


@contextmanager
def put_together(task: nn.Module) -> Iterator[None]:
    """Context with full weights in every process, so that processes may run different numbers of batches."""
    parts = slices(task)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()


def accumulate(task: nn.Module, last: bool) -> None:
    """Reduce gradients after this backward pass only if it is the last of its step."""
    for part in slices(task)[:1]:
        part.set_requires_gradient_sync(last)


def whole_state(task: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and optimizer state as full tensors on the CPU; empty in all processes but the main one."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    return get_state_dict(task, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def whole_weights(task: nn.Module) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(task, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def fill(task: nn.Module, optimizer: torch.optim.Optimizer, weights: dict[str, Any], moments: dict[str, Any]) -> None:
    """Load a state of `whole_state`, which every process has read."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_state_dict(task, optimizer, model_state_dict=weights, optim_state_dict=moments, options=options)


def syncing(task: nn.Module, model: nn.Module, *, sharded: bool, last: bool) -> Any:
    """Context of a backward pass: gradients are reduced only after the last one of a step.

    Args:
        model: the task, or DDP around it.
    """
    if sharded:
        accumulate(task, last)
        return nullcontext()
    return nullcontext() if last or model is task else model.no_sync()  # type: ignore[operator]
