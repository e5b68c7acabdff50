"""Uncompressed tars of samples, the WebDataset convention: listing and random access.

    shard.tar -> members, every byte checked -> index next to the shard or in the cache
              -> OpenFiles: any member with one read

A truncated or damaged shard raises DataError with its name and the byte offset.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from shared.errors import DataError

BLOCK = tarfile.BLOCKSIZE


def members(path: Path, *, end_too: bool = True) -> Iterator[tarfile.TarInfo]:
    """The members of an uncompressed tar, in order. Raises DataError with the byte offset of any damage.

    Args:
        end_too: check what follows the last member as well.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closing `file` is enough
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise damaged(path, 0, f"not an uncompressed tar ({error}); decompress it to .tar") from None
        end = 0
        while member := _next(tar, path):
            if tar.offset > size:
                raise damaged(path, size, f"it ends inside '{member.name}', which should end at {tar.offset}")
            if tar.offset <= end:
                raise damaged(path, end, "a header is damaged (a size below zero)")
            end = tar.offset
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - or they pile up
            yield member
        if not end_too:
            return
        file.seek(tar.offset)  # `tarfile` treats a damaged header as the end of the archive
        while chunk := file.read(1 << 20):
            if chunk.count(0) != len(chunk):
                raise damaged(path, tar.offset, "a header is damaged")
        if size - tar.offset < 2 * BLOCK:
            raise damaged(path, size, "it is truncated: the two empty blocks at the end of a tar are missing")


def _next(tar: tarfile.TarFile, path: Path) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise damaged(path, tar.offset, f"a header is damaged ({error})") from None


class Damaged(DataError):
    """A shard that is cut off, or has bytes that cannot be."""


def damaged(shard: Path | str, at: int, what: str) -> Damaged:
    return Damaged(f"shard {shard} is damaged at byte {at}: {what}; fetch or pack it again")


def split_name(name: str) -> tuple[str, str]:
    """`a/b.c.JPG` -> key `a/b`, extension `c.jpg`, as WebDataset does; hidden files have no extension."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    return key, extension.lower() if stem else ""


# -- members again --------------------------------------------------------------------------------


class OpenFile:
    """A file descriptor, closed with its last reference. It is used with `pread`, so forks and threads may share it."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - it lives as long as this object
        self.descriptor = self.file.fileno()

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class OpenFiles:
    """Reads parts of many files and keeps the last 64 open; open files are not sent to worker processes."""

    def __init__(self) -> None:
        self._open = lru_cache(maxsize=64)(OpenFile)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, ()

    def read(self, path: Path, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset` on. Raises DataError."""
        data = bytearray(size)
        try:
            held = self._open(path)  # another thread may put it out of the cache, and so close it
            count = os.preadv(held.descriptor, [data], offset)
        except OSError as error:
            raise DataError(f"cannot read shard {path}: {error.strerror}; check the disk or --data-path") from None
        if count != size:
            raise damaged(path, offset + count, "the shard is shorter than its index says")
        return data


# -- an index -------------------------------------------------------------------------------------


def sha256_of(path: Path, count: int | None = None) -> str:
    """sha256 of a file, or of its first `count` bytes."""
    with path.open("rb") as file:
        return (hashlib.sha256(file.read(count)) if count else hashlib.file_digest(file, "sha256")).hexdigest()


def index_places(shard: Path, ending: str = ".index.json") -> list[Path]:
    """Possible paths of an index: next to the shard, or in the cache if that folder is not writable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chordate" / "shards"
    code = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:32]
    return [shard.with_suffix(ending), cache / f"{code}{ending}"]


def attempt() -> str:
    """A word for the name of a half-written file that nobody else uses, on this machine or another."""
    return uuid.uuid4().hex[:16]


def write_first(places: list[Path], write: Callable[[Path], Any]) -> None:
    """Write to the first writable path; if there is none, the index is built again next time."""
    for place in places:
        aside = place.with_name(f".{place.name}.{attempt()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write(aside)
            aside.replace(place)  # readers find the old file, none, or the complete new one
            return
        except OSError:
            with suppress(OSError):
                aside.unlink()
