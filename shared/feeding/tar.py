"""Plain tars of samples, the WebDataset convention: what is in them, and how to come back to it.

    shard.tar -> members, every byte accounted for -> an index of somebody's own, beside the shard or in the cache
              -> OpenFiles: any member again, at the price of one read

A shard that is cut, damaged or odd is refused with its name and the byte where it goes wrong. Nothing in it is run.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from shared.errors import DataError

BLOCK = tarfile.BLOCKSIZE


def members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Everything in a plain tar, in order; every byte is accounted for, or DataError says where it goes wrong."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closing `file` is enough
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise damaged(path, 0, f"no plain tar ({error}); a compressed one must be unpacked to .tar") from None
        end = 0
        while member := _next(tar, path):
            if tar.offset > size:
                raise damaged(path, size, f"it is cut inside '{member.name}', which ends at {tar.offset}")
            if tar.offset <= end:
                raise damaged(path, end, "a header is damaged (a size below zero)")
            end = tar.offset
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - or they pile up
            yield member
        file.seek(tar.offset)  # `tarfile` takes a damaged header for the end of the archive
        while chunk := file.read(1 << 20):
            if chunk.count(0) != len(chunk):
                raise damaged(path, tar.offset, "a header is damaged")
        if size - tar.offset < 2 * BLOCK:
            raise damaged(path, size, "it is cut, the two empty blocks that end a tar are missing")


def _next(tar: tarfile.TarFile, path: Path) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise damaged(path, tar.offset, f"a header is damaged ({error})") from None


def damaged(shard: Path | str, at: int, what: str) -> DataError:
    return DataError(f"shard {shard} is damaged at byte {at}: {what}; fetch or pack it again")


def split_name(name: str) -> tuple[str, str]:
    """`a/b.c.JPG` -> key `a/b`, extension `c.jpg`, as WebDataset does; hidden files have no extension."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    return key, extension.lower() if stem else ""


# -- members again --------------------------------------------------------------------------------


class OpenFile:
    """A descriptor that is closed when nobody holds it. `pread` has no position, so forks and threads may share it."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - it lives as long as this object
        self.descriptor = self.file.fileno()

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


class OpenFiles:
    """Pieces of many files, of which the 64 used last stay open; open files do not travel to worker processes."""

    def __init__(self) -> None:
        self._open = lru_cache(maxsize=64)(OpenFile)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenFiles, ()

    def read(self, path: Path, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset` on. Raises DataError."""
        data = bytearray(size)
        try:
            count = os.preadv(self._open(path).descriptor, [data], offset)
        except OSError as error:
            raise DataError(f"cannot read shard {path}: {error.strerror}; look at the disk or --data-path") from None
        if count != size:
            raise damaged(path, offset + count, "the shard has become shorter")
        return data


# -- an index -------------------------------------------------------------------------------------


def sha256_of(path: Path, count: int | None = None) -> str:
    """Of a file, or of its first bytes."""
    with path.open("rb") as file:
        return (hashlib.sha256(file.read(count)) if count else hashlib.file_digest(file, "sha256")).hexdigest()


def index_places(shard: Path, ending: str = ".index.json") -> list[Path]:
    """Beside the shard, or in the cache if its folder cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chordate" / "shards"
    code = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:32]
    return [shard.with_suffix(ending), cache / f"{code}{ending}"]


def write_first(places: list[Path], write: Callable[[Path], Any]) -> None:
    """To the first place that can be written; without any, the shard is simply walked again next time."""
    for place in places:
        aside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write(aside)
            aside.replace(place)  # readers find the old one, none, or the whole new one
            return
        except OSError:
            with suppress(OSError):
                aside.unlink()
