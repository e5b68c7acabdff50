"""The task as the loop calls it: compiled, and in DDP or FSDP if there are several processes.

    --compile-backbone   the calls that the task makes of its backbone, each as one graph
    --compile            the calls in `task.graphs`, each as one graph

A graph is made for the first shapes of a batch, and one more for all others, whose sizes then are unknowns in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import nn

from shared.devices import dist
from shared.devices.sharding import shard
from shared.errors import UsageError
from shared.loop.task import Task
from shared.recipes.recipe import RuntimeConfig


def wrapped(task: Task, runtime: RuntimeConfig, device: torch.device, *, sharded: bool) -> nn.Module:
    """The task itself, or what calls it, on this device.

    Raises:
        UsageError: as `compile_backbone` does.
    """
    if runtime.compile_backbone:
        compile_backbone(task, whole=not sharded)
    if runtime.compile:
        compile_task(task, whole=not sharded)
    if dist.world() == 1:
        return task
    if sharded:
        return shard(task, device)
    ids = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(task, device_ids=ids, gradient_as_bucket_view=True)


def compile_backbone(task: Task, *, whole: bool = True, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the calls in `task.backbone_calls`. Copies that follow the weights must have been made before.

    Args:
        whole: refuse a backbone that is not one graph; FSDP's own code between blocks is none.
        backend: of torch.compile.

    Raises:
        UsageError: the task calls parts of its backbone only, so nothing would be compiled.
    """
    if not task.backbone_calls:
        raise UsageError(
            "--compile-backbone compiles nothing here: this method calls the layers of its backbone one by one; "
            "use --compile"
        )
    for name in task.backbone_calls:
        # the instance's own attribute: detectors call `forward_features`, which `Module.compile` leaves as it is
        setattr(task.backbone, name, one_graph(getattr(task.backbone, name), whole, backend))


def compile_task(task: Task, *, whole: bool = True, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the calls in `task.graphs`. Arguments are those of `compile_backbone`."""
    for path in task.graphs:
        *modules, name = path.split(".")
        owner = reduce(getattr, modules, task)
        if owner is not None:  # a head that the network does without
            setattr(owner, name, one_graph(getattr(owner, name), whole, backend, path))


def one_graph(
    call: Callable[..., Any], whole: bool, backend: str | Callable[..., Any], path: str = ""
) -> Callable[..., Any]:
    """The compiled call; a break is refused in a sentence, in the first step.

    Args:
        path: of the call, for that sentence; none for a backbone.
    """
    from torch._dynamo.exc import Unsupported  # slow to import

    compiled: Any = torch.compile(call, fullgraph=whole, backend=backend)

    def run(*inputs: Any) -> Any:
        try:
            return compiled(*inputs)
        except Unsupported as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(
                f"--compile: {path} is not one graph ({reason}); remove the flag, or use --compile-backbone"
                if path
                else f"--compile-backbone: this backbone is not one graph ({reason}); remove the flag, or use --compile"
            ) from error

    return run
