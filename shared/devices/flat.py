"""A batch in one buffer, so that handing it over costs one tensor however many it holds.

    batch: nest of dicts, lists, tuples with tensors --flatten--> Flat(buffer (bytes,) uint8, layout)
    Flat on any device                               --opened---> the same nest; its tensors are views of the buffer

A tensor that is sent from a loading worker, pinned or copied to a GPU costs the same fixed time whether it holds two
boxes or a photograph, and a batch of detection has some fifty. In the buffer, tensors of one list lie in one column:
the pixels of all images, all boxes, all labels. So does each field of a list of dicts, such as targets, also one that
only some of them have. The layout says where; it is of plain Python values, so opening makes no device wait. Large
tensors of 0 and 1, such as masks, take one bit for each value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ALIGNED = 64  # bytes; every column starts at a multiple of it
LARGE = 1 << 12  # values; fewer are not worth being packed as bits


class Flat(NamedTuple):
    """A batch in one buffer."""

    buffer: Tensor  # (bytes,) uint8
    layout: Layout


@dataclass(frozen=True, slots=True)
class Layout:
    """The nest, with a column in place of its tensors. To DataLoader's pin_memory it is one value."""

    nest: Any


@dataclass(frozen=True, slots=True)
class Column:
    """Where the values of one or several tensors are.

    dtype: of the tensors.
    start, stop: bytes of the buffer.
    shapes: of each tensor.
    single: it stands for one tensor, not for a list.
    bits: eight values in a byte.
    """

    dtype: torch.dtype
    start: int
    stop: int
    shapes: list[tuple[int, ...]]
    single: bool = False
    bits: bool = False


@dataclass(frozen=True, slots=True)
class Records:
    """A list of dicts, by field; `having` are the positions of the dicts that have it, None if all have."""

    count: int
    fields: dict[Any, tuple[list[int] | None, Any]]


def flatten(batch: Any, empty: Callable[[int], Tensor] | None = None) -> Flat:
    """A nest of dicts, lists, tuples and named tuples -> one buffer; what is no tensor is kept as it is.

    Args:
        empty: makes the buffer, (bytes,) uint8 of any content; by default ordinary memory.
    """
    plan = _Plan()
    nest = plan.laid_out(batch)
    buffer = (empty or _ordinary)(plan.size)
    for column, tensors in plan.columns:
        _write(buffer[column.start : column.stop], column, tensors)
    return Flat(buffer, Layout(nest))


def opened(batch: Any) -> Any:
    """The nest of a `Flat`, or of each one in a list; anything else as it is."""
    if isinstance(batch, Flat):
        return _opened(batch.layout.nest, batch.buffer)
    return [opened(part) for part in batch] if isinstance(batch, list) else batch


def shared_memory(count: int) -> Tensor:
    """(count,) uint8 in memory that other processes can open; what a worker writes there is not copied to be sent."""
    return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(count))


def pinned_memory(count: int) -> Tensor:
    """(count,) uint8 that a GPU copies without waiting; torch keeps freed blocks and hands them out again."""
    return torch.empty(count, dtype=torch.uint8, pin_memory=True)


def _ordinary(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8)


# -- closing --------------------------------------------------------------------------------------


class _Plan:
    """Columns in the order in which they are found, and the size of the buffer."""

    def __init__(self) -> None:
        self.size = 0
        self.columns: list[tuple[Column, Sequence[Tensor]]] = []

    def laid_out(self, part: Any) -> Any:
        """The part with columns in place of tensors."""
        if isinstance(part, Tensor):
            return self.column([part], single=True)
        if isinstance(part, dict):
            return {key: self.laid_out(value) for key, value in part.items()}
        if isinstance(part, tuple) and hasattr(part, "_fields"):
            return type(part)(*(self.laid_out(value) for value in part))
        if isinstance(part, tuple):
            return tuple(self.laid_out(value) for value in part)
        if not isinstance(part, list):
            return part
        if part and all(type(value) is dict for value in part):
            return self.records(part)
        if part and isinstance(part[0], Tensor) and len({getattr(value, "dtype", None) for value in part}) == 1:
            return self.column(part)
        return [self.laid_out(value) for value in part]

    def records(self, dicts: list[dict[Any, Any]]) -> Records:
        fields = {}
        for key in dict.fromkeys(key for each in dicts for key in each):
            having = [place for place, each in enumerate(dicts) if key in each]
            values = self.laid_out([dicts[place][key] for place in having])
            fields[key] = (None if len(having) == len(dicts) else having, values)
        return Records(len(dicts), fields)

    def column(self, tensors: Sequence[Tensor], *, single: bool = False) -> Column:
        count = sum(tensor.numel() for tensor in tensors)
        bits = count >= LARGE and all(map(_is_binary, tensors))
        length = -(-count // 8) if bits else count * tensors[0].element_size()
        shapes = [tuple(tensor.shape) for tensor in tensors]
        column = Column(tensors[0].dtype, self.size, self.size + length, shapes, single, bits)
        self.columns.append((column, tensors))
        self.size += -(-length // ALIGNED) * ALIGNED
        return column


def _is_binary(tensor: Tensor) -> bool:
    """Whether it has 0 and 1 alone; for most others a few values tell."""
    if tensor.dtype is not torch.uint8:
        return tensor.dtype is torch.bool
    values = tensor.reshape(-1)
    return not tensor.numel() or (int(values[:: 1 + len(values) // 256].max()) < 2 and int(values.max()) < 2)


def _write(room: Tensor, column: Column, tensors: Sequence[Tensor]) -> None:
    if column.bits:
        values = [tensor.reshape(-1).numpy() for tensor in tensors]
        room.numpy()[:] = np.packbits(values[0] if len(values) == 1 else np.concatenate(values))
        return
    for part, tensor in zip(_views(room.view(column.dtype), column.shapes), tensors, strict=True):
        part.copy_(tensor)


# -- opening --------------------------------------------------------------------------------------


def _opened(part: Any, buffer: Tensor) -> Any:
    if isinstance(part, Column):
        values = buffer[part.start : part.stop]
        values = (_unpacked(values, _length(part.shapes)) if part.bits else values).view(part.dtype)
        views = _views(values, part.shapes)
        return views[0] if part.single else views
    if isinstance(part, Records):
        dicts: list[dict[Any, Any]] = [{} for _ in range(part.count)]
        for key, (having, values) in part.fields.items():
            owners = dicts if having is None else [dicts[place] for place in having]
            for each, value in zip(owners, _opened(values, buffer), strict=True):
                each[key] = value
        return dicts
    if isinstance(part, dict):
        return {key: _opened(value, buffer) for key, value in part.items()}
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(_opened(value, buffer) for value in part))
    if isinstance(part, list | tuple):
        return type(part)(_opened(value, buffer) for value in part)
    return part


def _length(shapes: list[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


def _views(values: Tensor, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """(T,) values -> one view for each shape, one after another."""
    if len(shapes) == 1:
        return [values.view(shapes[0])]
    if all(shape == shapes[0] for shape in shapes):
        return list(values.view(len(shapes), *shapes[0]).unbind())
    parts = values.split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _unpacked(packed: Tensor, count: int) -> Tensor:
    """(ceil(count / 8),) uint8 -> (count,) uint8 of 0 and 1, on the same device."""
    if packed.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(packed.numpy(), count=count))
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return (packed[:, None] >> places).bitwise_and_(1).flatten()[:count]
