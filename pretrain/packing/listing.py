"""A text file of `path label` lines -> its entries in columns, since 14 million of them have to fit in memory.

    lines -> paths, labels, sizes and times -> keys, made unique -> split by a hash of the keys, and in its order

Lines are separated by a tab if they have one, else by the last blank; `#` starts a comment line. Labels are numbers if
all are, else names. An entry takes about 45 bytes beside its path, and becomes an `Entry` when it is looked at.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NamedTuple, overload

import numpy as np

from pretrain.data.layout import IMAGES, LEFT_OUT, OTHER_IMAGES, key_of
from pretrain.data.tfrecord import MAX_CLASSES
from pretrain.packing.elsewhere import is_address
from shared.errors import DataError

CHUNK = 1 << 22  # characters read at a time


class Entry(NamedTuple):
    """One image to pack.

    name: for messages. key: in the shard. label: from 0; None if it is in the record. file, begin, size: location of
        its
    bytes, or of its record. changed: modification time of the file, in nanoseconds.
    """

    name: str
    key: str
    label: int | None
    file: str
    begin: int
    size: int
    changed: int


@dataclass(frozen=True, eq=False)
class Listed(Sequence[Entry]):
    """Some entries of a list, in any order; pickled as a list of entries.

    root: of relative paths, with a slash at its end. paths: of all N entries, in utf-8, one after the other. ends: (N)
    int64. labels: (N) int32. sizes, changed: (N) int64, 0 for a file that is not there. hashes: (N) uint64 of the keys.
    renamed: keys that are not those of their paths, by row. rows: (K) uint32 of these entries.
    """

    root: str
    paths: memoryview
    ends: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    changed: np.ndarray
    hashes: np.ndarray
    rows: np.ndarray
    renamed: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Listed: ...
    def __getitem__(self, at: int | slice) -> Entry | Listed:
        if isinstance(at, slice):
            return self.of(self.rows[at])
        row = int(self.rows[at])
        path = self.path(row)
        label, size, changed = (int(column[row]) for column in (self.labels, self.sizes, self.changed))
        return Entry(
            path, self.renamed.get(row) or key_of(path), label, os.path.join(self.root, path), 0, size, changed
        )

    def __iter__(self) -> Iterator[Entry]:
        return (self[at] for at in range(len(self)))

    def __reduce__(self) -> tuple:
        return list, (list(self),)

    def digested(self) -> bytes:
        """What tells these entries from others: hashes of their keys, and labels."""
        return self.hashes[self.rows].astype("<u8").tobytes() + self.labels[self.rows].astype("<i4").tobytes()

    def of(self, rows: np.ndarray) -> Listed:
        """Other rows of the same list."""
        return replace(self, rows=rows)

    def path(self, row: int) -> str:
        first = int(self.ends[row - 1]) if row else 0
        return bytes(self.paths[first : int(self.ends[row])]).decode("utf-8", "surrogateescape")


class Listing(NamedTuple):
    """The entries of a list in the order of its lines; class names by label; what shards cannot contain, with why."""

    entries: Listed
    classes: list[str]
    skipped: list[tuple[str, str]]


def read_listing(place: Path, root: Path | str | None) -> Listing:
    """Read a list, and size and time of each file; of files at an address, none is asked for.

    Raises:
        DataError: there is no list, or no image in it; a line that is none, a path that is repeated, a file of another
            kind, or a class number out of range.
    """
    if not place.is_file():
        raise DataError(f"there is no list {place}; check the path")
    reader = Reader(place, os.path.join(place.parent if root is None else root, ""))
    with place.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        while lines := file.readlines(CHUNK):
            reader.add(lines)
    if again := next((path for path, count in Counter(path for path, _ in reader.skipped).items() if count > 1), None):
        raise repeated(again, place)
    if not reader.count:
        raise DataError(f"{place} lists no {', '.join(IMAGES)} file; write a line `path label` for every image")
    entries = reader.entries()
    classes = numbered(reader.words, entries.labels, place)
    return Listing(with_unique_keys(entries, place), classes, reader.skipped)


class Reader:
    """Columns that are filled line by line. They are as long as the file may need, and memory only where they are full.

    Args:
        base: folder of relative paths, with a slash at its end.
    """

    def __init__(self, place: Path, base: str) -> None:
        self.place, self.base, self.number, self.count = place, base, 0, 0
        self.elsewhere = is_address(base)
        size = place.stat().st_size
        with place.open("rb") as file:
            most = 1 + sum(part.count(b"\n") + part.count(b"\r") for part in iter(lambda: file.read(CHUNK), b""))
        self.paths = np.empty(size, np.uint8)
        self.ends = np.empty(most, np.uint32 if size < 2**32 else np.int64)
        self.labels, self.hashes = np.empty(most, np.int32), np.empty(most, np.uint64)
        self.sizes, self.changed = np.empty(most, np.int64), np.empty(most, np.int64)
        self.words: dict[str, int] = {}  # labels as written -> number, in the order of the file
        self.kinds: dict[str, bool] = {}  # file extension as written -> whether shards can contain it
        self.skipped: list[tuple[str, str]] = []

    def add(self, lines: list[str]) -> None:
        paths: list[str] = []
        labels: list[int] = []
        words, kinds, first = self.words, self.kinds, self.number + 1
        for number, line in enumerate(lines, start=first):
            parts = cut(line)
            if line[0] == "#" or line.isspace():
                continue
            path, label = parts[0].strip(), parts[-1].strip()
            if len(parts) < 2 or not path or not label:
                raise DataError(f"line {number} of {self.place} is '{line.strip()[:60]}'; write `path label`")
            dot = path.rfind(".")
            ending = path[dot + 1 :]
            named = dot > 0 and path[dot - 1] != "/"  # and is not hidden, as `.jpg` is
            if kinds[ending] if named and ending in kinds else self.kind(ending, path):
                paths.append(path)
                labels.append(words.setdefault(label, len(words)))
            else:
                self.skipped.append((path, LEFT_OUT))
        self.number += len(lines)
        self.put(paths, labels)

    def put(self, paths: list[str], labels: list[int]) -> None:
        encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
        start, here = int(self.ends[self.count - 1]) if self.count else 0, slice(self.count, self.count + len(paths))
        ends = start + np.cumsum([len(path) for path in encoded], dtype=np.int64)
        if here.stop > len(self.labels) or (len(ends) and ends[-1] > len(self.paths)):
            raise DataError(f"{self.place} was written while it was read; run the command again")
        self.paths[start : start + sum(map(len, encoded))] = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends[here], self.labels[here] = ends, labels
        self.hashes[here] = np.frombuffer(b"".join([hashed_bytes(key_of(path)) for path in paths]), ">u8")
        base, found = self.base, []
        for path in () if self.elsewhere else paths:
            try:
                status = os.stat(path if path[0] == "/" else base + path)
                found.append((status.st_size, status.st_mtime_ns))
            except (OSError, ValueError):  # reading it will raise the error
                found.append((0, 0))
        self.sizes[here], self.changed[here] = (0, 0) if self.elsewhere else np.array(found, np.int64).reshape(-1, 2).T
        self.count = here.stop

    def entries(self) -> Listed:
        columns = (self.ends, self.labels, self.sizes, self.changed, self.hashes)
        ends, labels, sizes, changed, hashes = (column[: self.count] for column in columns)
        rows = np.arange(self.count, dtype=np.uint32)
        return Listed(self.base, self.paths.data, ends, labels, sizes, changed, hashes, rows)

    def kind(self, ending: str, path: str) -> bool:
        """Whether shards can contain files of this extension. Raises DataError for what is no image."""
        known = PurePosixPath(path).suffix[1:].lower()
        if known not in IMAGES and known not in OTHER_IMAGES:
            raise DataError(f"'{path}' in {self.place} is not a {', '.join(IMAGES)} file; a line is `path label`")
        if known == ending.lower():  # and not the end of a name without one, such as `a.b/c` or `.jpg`
            self.kinds[ending] = known in IMAGES
        return known in IMAGES


def cut(line: str) -> list[str]:
    """The path and the label of a line, or what there is of them."""
    return line.rsplit("\t" if "\t" in line else None, 1)


def hashed_bytes(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]


def with_unique_keys(entries: Listed, place: Path) -> Listed:
    """Rename the second and further entries of a key, `a.jpg` and `a.png`. Raises DataError for a repeated path."""
    ordered = np.sort(entries.hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return entries
    rows: dict[str, int] = {}
    for row in np.flatnonzero(np.isin(entries.hashes, twice)).tolist():
        path = entries.path(row)
        if path in rows:
            raise repeated(path, place)
        rows[path] = row
    counts = Counter(map(key_of, rows))
    new, hashes = dict(renamed(entries, {key for key, count in counts.items() if count > 1})), entries.hashes.copy()
    for row, key in new.items():
        hashes[row] = int.from_bytes(hashed_bytes(key))
    return replace(entries, renamed=new, hashes=hashes)


def renamed(entries: Listed, twice: set[str]) -> Iterator[tuple[int, str]]:
    """(row, key) of the rows whose key an earlier one has; `twice` are the keys that several paths have."""
    taken: set[str] = set()  # of those that the new keys may meet: `a`, and `a-2` of `a-2.jpg`
    for row in range(len(entries)) if twice else ():
        key = base = key_of(entries.path(row))
        if twice.isdisjoint(stems(base)):
            continue
        count = 1
        while key in taken:
            key, count = f"{base}-{count + 1}", count + 1
        taken.add(key)
        if key != base:
            yield row, key


def stems(key: str) -> Iterator[str]:
    """'a-2-3' -> 'a-2-3', 'a-2', 'a'"""
    yield key
    while (parts := key.rpartition("-"))[2].isdigit():
        key = parts[0]
        yield key


def repeated(path: str, place: Path) -> DataError:
    with place.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = [n for n, line in enumerate(file, start=1) if line[0] != "#" and "".join(cut(line)[:1]).strip() == path]
    return DataError(f"line {lines[1]} of {place} repeats '{path}' of line {lines[0]}; keep one")


def numbered(words: dict[str, int], labels: np.ndarray, place: Path) -> list[str]:
    """Class names in order. Labels as written that are all numbers are kept, others are numbered by name.

    Args:
        words: labels as written, with the numbers that `labels` has for them until now.
        labels: (N) int32, changed in place.
    """
    if all(word.isascii() and word.isdigit() for word in words):
        numbers = [int(word) for word in words]
        if max(numbers) >= MAX_CLASSES:
            raise DataError(
                f"{place} has a class {max(numbers)}; numbers count from 0; write names to number them automatically"
            )
        classes = [str(n) for n in range(max(numbers) + 1)]
    else:
        classes = sorted(words)
        number = {name: n for n, name in enumerate(classes)}
        numbers = [number[word] for word in words]
    new = np.array(numbers, np.int32)
    for at in range(0, len(labels), CHUNK):  # the whole at once would be there twice
        labels[at : at + CHUNK] = new[labels[at : at + CHUNK]]
    return classes


def split_listed(entries: Listed, val_share: float) -> dict[str, Listed]:
    """Train and val by a hash of the keys, each in the order of another, as `shared_out` and `shuffled` have it."""
    ordered = entries.of(np.argsort(entries.hashes, kind="stable").astype(np.uint32))
    if not val_share:
        return {"train": ordered, "val": ordered[:0]}
    limit = math.ceil(val_share * 2**64)
    of_val = np.array([int.from_bytes(hashed_bytes(f"val {entry.key}")) < limit for entry in ordered])
    return {"train": ordered.of(ordered.rows[~of_val]), "val": ordered.of(ordered.rows[of_val])}
