"""Headers of many image files: size, EXIF orientation and a mark of the content; read by threads, kept in a cache.

    pictures -> length and modification time -> as in the cache: nothing is read
                                             -> else the first 4 KB, more where the size comes later

The cache is one file per folder; an entry holds as long as path, offset, length and modification time do. Only the
pixels of a header's picture are unknown: a file may be damaged behind it.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from shared.feeding.image_header import BadImage, check_size, image_header
from shared.feeding.orientation import BEYOND

FIRST, TAIL = 4096, 1 << 16  # bytes
LARGER = (1 << 16, 1 << 20)  # bytes, where the size comes after long metadata; then the whole
AT_FRONT = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM")  # formats whose first bytes suffice; others are read whole
THREADS = 16  # more than cores: reading waits for the disk
BATCH = 64  # pictures per task of a thread
QUICK = 0.005  # seconds for one batch, below which threads would only wait for each other
VERSION = 1
COLUMNS = {"lengths": np.int64, "times": np.int64, "sizes": np.int32, "orientations": np.int8, "marks": np.uint64}


class Picture(NamedTuple):
    """An image file, or a part of a file: `length` bytes from `offset`; None for the whole file."""

    path: str | Path
    offset: int = 0
    length: int | None = None


@dataclass(frozen=True)
class Headers:
    """What was found in N files, in their order; rows of unreadable files are 0.

    sizes: (N, 2) int32 stored height and width.
    orientations: (N,) int8, EXIF, from 1 to 8.
    lengths: (N,) int64 bytes.
    marks: (N,) uint64 hash of length and first bytes; equal for equal files, and seldom for others.
    reasons: why a file cannot be used, by its position.
    """

    sizes: np.ndarray
    orientations: np.ndarray
    lengths: np.ndarray
    marks: np.ndarray
    reasons: dict[int, str]

    @property
    def exchanged(self) -> np.ndarray:
        """(N,) bool: the orientation exchanges height and width."""
        return self.orientations >= BEYOND

    @property
    def upright(self) -> np.ndarray:
        """(N, 2) int32 height and width after the orientation is applied."""
        return np.where(self.exchanged[:, None], self.sizes[:, ::-1], self.sizes)


def read_headers(pictures: Sequence[Picture], cache: Path | None = None) -> Headers:
    """Read the headers of all files.

    Args:
        cache: folder of the caches; None for none.
    """
    place, names = cache_place(pictures, cache), names_of(pictures)
    known = _load(place)
    entries: dict[int, tuple[int, ...]] = {}  # by row
    reasons: dict[int, str] = {}
    batches = [range(i, min(i + BATCH, len(pictures))) for i in range(0, len(pictures), BATCH)]
    for rows, found in _in_threads(lambda rows: _looked_at(pictures, names, rows, known), batches):
        for row, entry in zip(rows, found, strict=True):
            if isinstance(entry, str):
                reasons[row] = entry
            else:
                entries[row] = entry
    columns, marks, rows = np.zeros((len(pictures), 5), np.int64), np.zeros(len(pictures), np.uint64), list(entries)
    if rows:
        *five, last = zip(*entries.values(), strict=True)
        columns[rows], marks[rows] = np.array(five, np.int64).T, np.array(last, np.uint64)
    for size in {entry[2:4] for entry in entries.values()}:  # the limit is not part of the cache
        try:
            check_size(*size)
        except BadImage as error:
            reasons |= {row: str(error) for row, entry in entries.items() if entry[2:4] == size}
    fresh = {names[row]: entry for row, entry in entries.items() if known.get(names[row]) is not entry}
    if fresh and place is not None:
        _save(place, known | fresh)
    return Headers(columns[:, 2:4].astype(np.int32), columns[:, 4].astype(np.int8), columns[:, 0], marks, reasons)


def _in_threads(look: Callable[[range], list[Any]], batches: Sequence[range]) -> Iterator[tuple[range, list[Any]]]:
    """Each batch with what is found; by threads where one takes long, as from a disk or over a network."""
    for number, rows in enumerate(batches):
        started = time.perf_counter()
        yield rows, look(rows)
        if time.perf_counter() - started > QUICK:
            rest = batches[number + 1 :]
            with ThreadPoolExecutor(min(THREADS, max(1, len(rest)))) as pool:
                yield from zip(rest, pool.map(look, rest), strict=True)
            return


def names_of(pictures: Sequence[Picture]) -> list[str]:
    """The absolute path and the offset of each; a folder is looked at once."""
    folders: dict[str, str] = {}
    names = []
    for path, offset, _ in pictures:
        folder, base = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.join(os.path.abspath(folder), "")
        names.append(f"{folders[folder]}{base}:{offset}")
    return names


def _looked_at(
    pictures: Sequence[Picture], names: Sequence[str], rows: Iterable[int], known: dict[str, tuple[int, ...]]
) -> list[tuple[int, ...] | str]:
    """(length, time, height, width, orientation, mark) of each, or the reason why there is none."""
    entries: list[tuple[int, ...] | str] = []
    for row in rows:
        picture = pictures[row]
        try:
            status = os.stat(picture.path)
            length = status.st_size if picture.length is None else picture.length
            entry = known.get(names[row])
            if entry is None or entry[:2] != (length, status.st_mtime_ns):
                entry = (length, status.st_mtime_ns, *_read(picture, length))
            entries.append(entry)
        except BadImage as error:
            entries.append(str(error))
        except OSError as error:
            entries.append(error.strerror or str(error))
    return entries


def _read(picture: Picture, length: int) -> tuple[int, int, int, int]:
    """Height, width, orientation and mark of one file."""
    file = os.open(picture.path, os.O_RDONLY)
    try:
        data = os.pread(file, min(FIRST, length), picture.offset)
        if not data.startswith(AT_FRONT):
            data = os.pread(file, length, picture.offset)
        mark = mark_of(data, length)
        tail = b""
        if data[:4] == b"\x89PNG" and length > FIRST:
            tail = os.pread(file, min(TAIL, length), picture.offset + max(0, length - TAIL))
        for more in (*LARGER, None):
            try:
                header = image_header(data, tail)
                break
            except BadImage:
                if len(data) >= length or not data:
                    raise
                data = os.pread(file, length if more is None else min(more, length), picture.offset)
        else:
            header = image_header(data, tail)
    finally:
        os.close(file)
    return header.height, header.width, header.orientation, mark


def mark_of(data: bytes | bytearray, length: int) -> int:
    """The mark of a file of `length` bytes, from its first 4,096 or more; 64 bits, not 0."""
    digest = hashlib.blake2b(bytes(data[:FIRST]) + length.to_bytes(8), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


# -- the cache ------------------------------------------------------------------------------------


def cache_place(pictures: Sequence[Picture], cache: Path | None) -> Path | None:
    """The cache file of these pictures: one per common folder."""
    if cache is None or not pictures:
        return None
    folders = {os.path.abspath(folder) for folder in {os.path.dirname(picture.path) for picture in pictures}}
    code = hashlib.sha256(os.fsencode(os.path.commonpath(folders))).hexdigest()[:32]
    return cache / f"{code}.npz"


def _load(place: Path | None) -> dict[str, tuple[int, ...]]:
    """Entries by name; none if there is no cache, or it is damaged."""
    if place is None:
        return {}
    try:
        with np.load(place, allow_pickle=False) as stored:
            if stored["version"] != VERSION:
                return {}
            names = bytes(stored["names"]).decode("utf-8", "surrogateescape").split("\0")
            numbers = np.column_stack([stored[name].reshape(len(names), -1) for name in COLUMNS if name != "marks"])
            rows = zip(numbers.tolist(), stored["marks"].tolist(), strict=True)
            return {name: (*row, mark) for name, (row, mark) in zip(names, rows, strict=True)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def _save(place: Path, entries: dict[str, tuple[int, ...]]) -> None:
    """Write the cache whole or not at all; a folder that is full or read-only has none."""
    numbers = np.array([entry[:5] for entry in entries.values()], np.int64)
    values = [numbers[:, 0], numbers[:, 1], numbers[:, 2:4], numbers[:, 4], [entry[5] for entry in entries.values()]]
    columns = {name: np.array(v, COLUMNS[name]) for name, v in zip(COLUMNS, values, strict=True)}
    names = np.frombuffer("\0".join(entries).encode("utf-8", "surrogateescape"), np.uint8)
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(file, version=np.array(VERSION), names=names, **columns)  # pyright: ignore[reportArgumentType]
        aside.replace(place)
    except OSError:
        with suppress(OSError):
            aside.unlink()
