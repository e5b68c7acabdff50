"""A folder of shards that is written next to its final name and renamed when complete.

    OUT -> .OUT.partial/{shards, notes, stamp, lock} -> filled shard by shard -> shards renamed to OUT

A packing that was stopped or killed is continued by the next one with the same stamp (a digest of input and options).
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import DataError, Stopped, plural

PATIENCE = 3.0  # seconds until the processes of a killed packing have ended


@contextmanager
def unfinished(out: Path, word: str) -> Iterator[Path]:
    """Context with the partial folder; it is kept if packing stops after some shards are finished."""
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
                f"{partial} has an unfinished packing of other images or with other options; finish that one, "
                f"or remove the folder to start again"
            )
        known.write_text(word)
        for folder in folders:
            folder.mkdir(exist_ok=True)
        for place in folders[0].iterdir():  # half-written files of processes that were killed
            if place.name.startswith(".") or place.suffix == ".partial":
                place.unlink()
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
            raise DataError(f"another packing is writing to {out}; wait for it, or give another folder")
        time.sleep(0.1)
