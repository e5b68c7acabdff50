"""A folder of shards that is written next to its final name and renamed when complete.

    OUT -> .OUT.partial/{shards, notes, stamp, lock} -> filled shard by shard -> shards renamed to OUT

A packing that was stopped or killed is continued by the next one with the same stamp (a digest of input and options).
Parts of one packing (parts.py) fill the folder together; the packing that renames it is alone in it.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import DataError, Stopped, plural
from shared.feeding.parts import Part, mark_division
from shared.feeding.tar import attempt

PATIENCE = 3.0  # seconds until the processes of a killed packing have ended


@contextmanager
def unfinished(out: Path, word: str, part: Part | None = None, *, must_exist: bool = False) -> Iterator[Path]:
    """Context with the partial folder; it is kept if packing stops after some shards are finished.

    Args:
        word: the stamp.
        part: one of several parts that may write at the same time; nothing of others is removed.
        must_exist: refuse if no part was packed before.

    Raises:
        DataError: it is in use, or of another packing, or does not exist.
        Stopped: interrupted; finished shards are kept.
    """
    partial = out.with_name(f".{out.name}.partial")
    if must_exist and not partial.is_dir():
        raise DataError(f"there are no parts of {out} to settle; pack them with --part first, or check the path")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "lock").open("a+") as lock:  # readable too, as a shared lock over NFS demands
        _lock(lock.fileno(), out, together=part is not None)
        if part is None:
            _begin(partial, word)
        else:
            _join(partial, word)
            mark_division(partial, part)
        try:
            yield partial
        except KeyboardInterrupt:
            if not (kept := shards_in(partial)):
                raise
            raise Stopped(
                f"packing was interrupted; {plural(kept, 'finished shard')} kept, run the same "
                f"command again to continue"
            ) from None
        finally:
            if part is None and not shards_in(partial):
                shutil.rmtree(partial, ignore_errors=True)


def _begin(partial: Path, word: str) -> None:
    """Take over the folder: remove what no packing can continue."""
    known, folders = partial / "stamp", (partial / "shards", partial / "notes")
    if not shards_in(partial):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    elif not known.is_file() or known.read_text() != word:
        raise _of_others(partial)
    known.write_text(word)
    for folder in folders:
        folder.mkdir(exist_ok=True)
    remove_half_written(partial)


def remove_half_written(partial: Path) -> None:
    """Remove what processes that were killed left among the shards; none may be at work."""
    for place in (partial / "shards").iterdir():
        if place.name.startswith(".") or place.suffix == ".partial":
            place.unlink()


def _join(partial: Path, word: str) -> None:
    """Write beside other parts, if they are of the same packing."""
    known = partial / "stamp"
    if not known.is_file():
        aside = partial / f"stamp.{attempt()}"
        aside.write_text(word)
        aside.replace(known)  # other parts find none or a whole one
    if known.read_text() != word:
        raise _of_others(partial)
    for folder in (partial / "shards", partial / "notes"):
        folder.mkdir(exist_ok=True)


def _of_others(partial: Path) -> DataError:
    return DataError(
        f"{partial} has an unfinished packing of other images or with other options; finish that one, "
        f"or remove the folder to start again"
    )


def shards_in(partial: Path) -> int:
    return len(list((partial / "shards").glob("*.tar")))


def _lock(descriptor: int, out: Path, *, together: bool) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, (fcntl.LOCK_SH if together else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if time.monotonic() > until:
            raise DataError(f"another packing is writing to {out}; wait for it, or give another folder")
        time.sleep(0.1)
