"""Process group: rank, world size and collectives; with a single process they do nothing.

Rank and address come from the environment variables of torchrun. gloo is used on CPUs and NCCL on GPUs; a gloo group
besides NCCL exchanges small objects (flags, lists), so that the GPU does not wait for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_side_group: Any = None
_apart = False


def start(device_type: str) -> None:
    """Initialize the process group if a launcher set the environment and it is not initialized yet."""
    global _side_group
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if device_type == "cuda":
        torch.cuda.set_device(local_rank())
    wait = timedelta(seconds=600 if device_type == "cuda" else 120)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=wait)
    _side_group = dist.new_group(backend="gloo", timeout=wait) if device_type == "cuda" else dist.group.WORLD


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() and not _apart else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() and not _apart else 1


@contextmanager
def apart() -> Iterator[None]:
    """This process as if it were the only one: what it computes inside waits for no other."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    return rank() == 0


def launched_rank() -> int:
    """The rank from the environment, known before the process group is initialized."""
    return int(os.environ.get("RANK", "0"))


def any_of(flags: list[bool]) -> list[bool]:
    """For each flag: True if it is set in any process."""
    if world() == 1:
        return flags
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, dist.ReduceOp.MAX, group=_side_group)
    return [bool(flag) for flag in raised]


def gather(thing: Any) -> list[Any]:
    """Objects of all processes, in the order of ranks; plain data only."""
    if world() == 1:
        return [thing]
    things: list[Any] = [None] * world()
    dist.all_gather_object(things, thing, group=_side_group)
    return things


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """(B, ...) of every process, with the same B -> (world * B, ...), in the order of ranks.

    Differentiable: the gradients of all processes' losses for a process's rows are summed. Since DDP averages weight
    gradients over processes, the mean of the processes' losses is minimized.
    """
    return x if world() == 1 else _Gathered.apply(x)  # type: ignore[return-value]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        rows = x.new_empty(world() * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(rows, x.contiguous())
        return rows

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.chunk(world())[rank()]


def from_main(thing: Any) -> Any:
    """Broadcast an object from the main process."""
    if world() == 1:
        return thing
    box = [thing]
    dist.broadcast_object_list(box, src=0, group=_side_group)
    return box[0]


def copy_from_main(tensors: Iterable[torch.Tensor]) -> None:
    """Broadcast tensors in place from the main process."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def wait() -> None:
    if world() > 1:
        dist.barrier(group=_side_group)
