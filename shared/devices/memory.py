"""The memory of a device: how much a process may use, and how much its steps took at most.

    begin -> steps -> peak    bytes, as the allocator holds them: what is freed inside counts, since it is kept

A GPU's is exact. A process on a CPU knows only the peak of its whole life (`shared.host`), which nothing can reset.
"""

from __future__ import annotations

import gc
from typing import Protocol

import torch

GB = 1e9


class Memory(Protocol):
    """What steps of a training are measured with."""

    name: str

    def room(self) -> int:
        """Bytes that this process may use; other programs' are not in it."""
        ...

    def begin(self) -> None:
        """Forget the peak so far, and give back what is not used."""
        ...

    def peak(self) -> int:
        """The most bytes that were held since `begin`."""
        ...


class GpuMemory:
    """A CUDA device, by torch's allocator; what other programs hold of it is not counted as room."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.name = device, str(device)

    def room(self) -> int:
        return torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)

    def begin(self) -> None:
        release(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_reserved(self.device)


def memory_of(device: torch.device) -> Memory | None:
    """The memory of a device; None where it cannot be measured, as of a CPU."""
    return GpuMemory(device) if device.type == "cuda" else None


def release(device: torch.device) -> None:
    """Give what is not used any more back to the device."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def ran_out(error: BaseException) -> bool:
    """Whether an error says that a GPU has no memory left; cuBLAS and cuDNN say it in words of their own."""
    said = "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA out of memory"
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)


def gigabytes(count: int) -> str:
    """9_800_000_000 -> '9.8'; less than a tenth keeps two digits."""
    return f"{count / GB:.2g}" if count < 0.1 * GB else f"{count / GB:.1f}"
