"""Device and precision."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.devices.flat import Flat, opened
from shared.errors import UsageError
from shared.recipes.recipe import RuntimeConfig

log = logging.getLogger(__name__)


def to_device(batch: Any, device: torch.device) -> Any:
    """Copy a nest of dicts, lists and tuples with its tensors moved to the device; a `Flat` is opened there."""
    if isinstance(batch, Flat):
        return opened(Flat(batch.buffer.to(device, non_blocking=True), batch.layout))
    if isinstance(batch, list):
        return [to_device(part, device) for part in batch]
    return changed(batch, lambda tensor: tensor.to(device, non_blocking=True))


def kept_apart(batch: Any) -> Any:
    """Copy a nest to the CPU, each tensor in memory of its own: views of one buffer cannot be saved together."""
    return changed(opened(batch), lambda tensor: tensor.detach().to("cpu", copy=True))


def changed(nest: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Copy a nest of dicts, lists and tuples with its tensors changed."""
    if isinstance(nest, Tensor):
        return change(nest)
    if isinstance(nest, dict):
        return {key: changed(value, change) for key, value in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(changed(value, change) for value in nest))
    if isinstance(nest, list | tuple):
        return type(nest)(changed(value, change) for value in nest)
    return nest


def sent(values: Any, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers known on the host, as a tensor on the device. A GPU does not wait for the copy, as it does for
    `torch.tensor(values, device=device)`.

    Args:
        values: a number, nested lists or tuples of them, or an array. Numbers may be sizes of an exported graph, which
            are known when it runs.
    """
    if torch.compiler.is_compiling():  # a constant of the graph, but for sizes
        if any(isinstance(number, torch.SymInt) for number in flat(values)):
            return of_sizes(values, device, dtype)
        return torch.tensor(values, device=device, dtype=dtype)
    values = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else torch.tensor(values)
    values = values if dtype is None else values.to(dtype)
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def flat(values: Any) -> Iterator[Any]:
    """The numbers of nested lists or tuples."""
    if isinstance(values, list | tuple):
        for part in values:
            yield from flat(part)
    else:
        yield values


def of_sizes(values: Any, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """Nested lists or tuples of numbers and sizes as operations of a graph."""
    if isinstance(values, list | tuple):
        return torch.stack([of_sizes(part, device, dtype) for part in values])
    return torch.scalar_tensor(values, device=device, dtype=dtype or torch.int64)


def at_hand(x: Tensor) -> bool:
    """Whether the values of a tensor can be looked at without waiting: on a CPU, outside a compiled graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def pick_device(name: str) -> torch.device:
    """The device of a recipe; `auto` is the GPU if there is one.

    Raises:
        UsageError: not a device, or CUDA is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device is {name!r}; give cpu, cuda, cuda:1 or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda, but no CUDA device was found; use --device cpu or auto")
    return device


def device_name(device: torch.device) -> str:
    """The model of a device, as its maker calls it: 'NVIDIA H200', 'Intel(R) Xeon(R) Processor'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or device.type


def precision(runtime: RuntimeConfig, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast, or None for float32. On a CPU without bfloat16, --amp is ignored with a warning."""
    if not runtime.amp:
        return None
    if device.type == "cuda":
        return getattr(torch, runtime.amp_dtype)
    if has_native_bfloat16():
        return torch.bfloat16
    log.warning("--amp is ignored: this CPU has no native bfloat16 and would be many times slower with it")
    return None


def has_native_bfloat16() -> bool:
    """True if the CPU has bfloat16 instructions. Emulated bfloat16 is up to 17 times slower than float32."""
    asks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, ask)() for ask in asks if hasattr(torch.cpu, ask))
