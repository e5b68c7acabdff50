"""A folder of shards that comes into being: whole under its name, or beside it until it is.

    OUT -> .OUT.partial/{shards, notes, stamp, lock} -> whoever fills it, shard by shard -> shards takes the name OUT

One that was stopped or killed is taken up by the next packing of the same, which is told by a word, the stamp.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import DataError, Stopped

PATIENCE = 3.0  # seconds in which the processes of a packing that was killed have noticed


@contextmanager
def unfinished(out: Path, word: str) -> Iterator[Path]:
    """The folder beside OUT in which it comes into being; it stays if it holds finished shards when packing stops."""
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / "lock").open("w") as lock:
        _lock(lock.fileno(), out)
        known, folders = partial / "stamp", (partial / "shards", partial / "notes")
        if not shards_in(partial):
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        elif not known.is_file() or known.read_text() != word:
            raise DataError(
                f"{partial} holds an unfinished packing of other images or with other options; finish it with those, "
                f"or remove it to begin anew"
            )
        known.write_text(word)
        for folder in folders:
            folder.mkdir(exist_ok=True)
        try:
            yield partial
        except KeyboardInterrupt:
            if not (kept := shards_in(partial)):
                raise
            raise Stopped(f"packing was interrupted, {kept} shards are kept; run the same again to go on") from None
        finally:
            if not shards_in(partial):
                shutil.rmtree(partial, ignore_errors=True)


def shards_in(partial: Path) -> int:
    return len(list((partial / "shards").glob("*.tar")))


def _lock(descriptor: int, out: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.monotonic() > until:
            raise DataError(f"another packing is writing to {out}; wait for it, or name another folder")
        time.sleep(0.1)
