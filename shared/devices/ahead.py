"""Batches on the device: each is copied there while the one before is used.

    loader -> Flat in pinned memory --one copy, on a stream of its own--> Flat on the GPU -> opened -> the step
                                      while the step before still runs

On a CPU nothing is fetched ahead: the workers of the loader do that, and a batch is opened where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from shared.devices.device import to_device
from shared.devices.flat import Flat


def ahead(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """The batches, or lists of batches, opened on the device. On a GPU one is always on its way there."""
    if device.type != "cuda":
        yield from (to_device(batch, device) for batch in batches)
        return
    stream, coming = torch.cuda.Stream(device), None
    for batch in batches:
        now, coming = coming, Sent(batch, device, stream)
        if now is not None:
            yield now.arrived()
    if coming is not None:
        yield coming.arrived()


class Sent:
    """A batch on its way to a GPU.

    Args:
        stream: of the copy; its memory is pinned, or the copy waits.
    """

    def __init__(self, batch: Any, device: torch.device, stream: torch.cuda.Stream) -> None:
        self.device = device
        with torch.cuda.stream(stream):
            self.batch = moved(batch, device)
            self.done = stream.record_event()

    def arrived(self) -> Any:
        """The batch opened; what is run on it waits for the copy, the process does not."""
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self.done)
        for buffer in buffers(self.batch):
            buffer.record_stream(current)  # its memory is free when the step has ended, not the copy
        return to_device(self.batch, self.device)


def moved(batch: Any, device: torch.device) -> Any:
    """The same with its buffers on the device, still closed."""
    if isinstance(batch, Flat):
        return Flat(batch.buffer.to(device, non_blocking=True), batch.layout)
    return [moved(part, device) for part in batch] if isinstance(batch, list) else batch


def buffers(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, Flat):
        yield batch.buffer
    elif isinstance(batch, list):
        for part in batch:
            yield from buffers(part)
