"""Whose turn it is to write into an unfinished packing, where tasks may outlive the program that sent them.

    PARTIAL/turn       the word of the program that sends tasks now; none when it has ended
    PARTIAL/at_work    a lock that every task shares while it writes

A program that is killed leaves tasks on other machines, and a machine that is cut off goes on with its own. Such a task
sees another word, or none, and ends; and the next program, or the end of this one, waits until it has. So no task
writes into a packing that is being finished or was started again. Imports no torch.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import DataError
from shared.feeding.tar import attempt

LOOK = 1.0  # seconds between looks of a task at the word
SEEN = 40.0  # seconds until a file is seen on other machines; NFS looks again at a folder after 30
PATIENCE = 120.0  # seconds until tasks of a former turn have ended; NFS forgets the locks of a dead machine after 90


class Lapsed(Exception):
    """The turn of this task is over."""


@contextmanager
def turn(partial: Path) -> Iterator[str]:
    """Take the turn: the word that tasks are sent with. On leaving, none of them writes any more.

    Raises:
        DataError: a task of a former turn, or of this one, does not end.
    """
    place, word = partial / "turn", attempt()
    aside = partial / f"turn.{word}"
    aside.write_text(word, encoding="ascii")
    aside.replace(place)
    _wait_for_tasks(partial)
    try:
        yield word
    finally:
        place.unlink(missing_ok=True)
        _wait_for_tasks(partial)


@contextmanager
def at_work(partial: Path, word: str) -> Iterator[Callable[[], None]]:
    """In a task: a function to call again and again, which raises Lapsed when the turn is over.

    Raises:
        Lapsed: it is over already, or the folder is not visible here.
    """
    until = time.monotonic() + SEEN
    while not _is_turn(partial, word):
        if time.monotonic() > until:
            raise Lapsed
        time.sleep(0.5)
    looked = 0.0

    def look() -> None:
        nonlocal looked
        if time.monotonic() - looked >= LOOK:
            if not _is_turn(partial, word):
                raise Lapsed
            looked = time.monotonic()

    with (partial / "at_work").open("r+") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_SH)
        looked = time.monotonic() - LOOK
        look()  # it may have ended before the lock was there
        yield look


def _is_turn(partial: Path, word: str) -> bool:
    with suppress(OSError):
        return (partial / "turn").read_text(encoding="ascii") == word
    return False


def _wait_for_tasks(partial: Path) -> None:
    until = time.monotonic() + PATIENCE
    with (partial / "at_work").open("a+") as lock:
        while True:
            with suppress(BlockingIOError):
                return fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.monotonic() > until:
                raise DataError(
                    f"a task that was sent earlier still writes into {partial}; see that no machine of the cluster is "
                    f"cut off, and run the same command again, finished shards are kept"
                )
            time.sleep(0.1)
