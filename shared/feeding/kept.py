"""What was read from a large file, kept in columns beside it, and believed as long as the file is the same.

    file -> columns beside it or in the cache, of the digest that the file has now -> the same value, unparsed
                                                                         otherwise -> read, and kept for the next time

The value is a dataclass of arrays, plain values and other dataclasses. Columns hold numbers and text alone, so reading
them runs nothing. They are of one digest, of one version of the classes, and written whole; others are not looked at.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from shared.feeding.tar import index_places, write_first
from shared.feeding.unchanged import content_digest, times_of

log = logging.getLogger(__name__)
Value = TypeVar("Value")

VERSION = 1  # to be raised when a reader gives another value for the same file
ENDING = ".columns"
SMALL = 4 << 20  # bytes of a file that is read again as quickly
MAGIC = b"chordate columns\n"


def kept(source: Path, name: str, read: Callable[[], Value], kinds: Sequence[type]) -> Value:
    """The value that `read` makes of a file, or its columns.

    Args:
        source: the file.
        name: of the value, where several are made of one file; part of a file name.
        read: raises whatever is wrong with the file; nothing is kept then.
        kinds: the dataclasses that the value is made of.
    """
    try:
        before = times_of(source)
        if int(before.split()[0]) < SMALL or not source.is_file():
            return read()
        digest = content_digest(source)
    except OSError:  # the reader says it better
        return read()
    places = index_places(source, f"{source.suffix}.{name}{ENDING}")
    about = {"version": VERSION, "digest": digest, "kinds": {kind.__name__: _names(kind) for kind in kinds}}
    for place in places:
        if (found := _loaded(place, about, kinds)) is not None:
            return found
    value = read()
    try:
        if times_of(source) == before:  # else it may be of two contents
            write_first(places, lambda aside: _save(aside, about, value, kinds))
    except (OSError, TypeError) as error:
        log.debug("%s is not kept in columns: %s", source, error)
    return value


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


# -- a value as text and arrays -------------------------------------------------------------------


def _save(place: Path, about: dict[str, Any], value: Any, kinds: Sequence[type]) -> None:
    arrays: list[np.ndarray] = []
    tree = _taken_apart(value, arrays, kinds)
    with place.open("wb") as file:
        file.write(MAGIC)
        for text in (about, tree):
            np.save(file, np.frombuffer(json.dumps(text).encode(), np.uint8))
        for array in arrays:
            np.save(file, array, allow_pickle=False)


def _loaded(place: Path, about: dict[str, Any], kinds: Sequence[type]) -> Any:
    """The value of these columns; None if there are none, or they are of another file or version, or damaged."""
    try:
        with place.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC or json.loads(_array(file).tobytes()) != about:
                return None
            tree = json.loads(_array(file).tobytes())
            return _put_together(tree, lambda: _array(file), {kind.__name__: kind for kind in kinds})
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _array(file: BinaryIO) -> np.ndarray:
    return np.load(file, allow_pickle=False)


def _taken_apart(value: Any, arrays: list[np.ndarray], kinds: Sequence[type]) -> Any:
    """A value -> JSON in which arrays, in order, and all that JSON lacks are marked: [kind, content]."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return ["array", None]
    if is_dataclass(value) and type(value) in kinds:
        parts = [_taken_apart(getattr(value, name), arrays, kinds) for name in _names(type(value))]
        return ["made", [type(value).__name__, parts]]
    if isinstance(value, dict):
        return ["dict", [[_taken_apart(part, arrays, kinds) for part in pair] for pair in value.items()]]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_taken_apart(part, arrays, kinds) for part in value]]
    if isinstance(value, Path):
        return ["path", str(value)]
    if value is None or isinstance(value, str | int | float):
        return ["plain", value]
    raise TypeError(f"{type(value).__name__} cannot be kept in columns")


def _put_together(tree: Any, array: Callable[[], np.ndarray], kinds: dict[str, type]) -> Any:
    kind, content = tree
    if kind == "array":
        return array()
    if kind == "made":
        name, parts = content
        made = kinds[name]
        values = [_put_together(part, array, kinds) for part in parts]
        return made(**dict(zip(_names(made), values, strict=True)))
    if kind == "dict":
        return {_put_together(key, array, kinds): _put_together(part, array, kinds) for key, part in content}
    if kind in ("list", "tuple"):
        parts = [_put_together(part, array, kinds) for part in content]
        return parts if kind == "list" else tuple(parts)
    return Path(content) if kind == "path" else content
