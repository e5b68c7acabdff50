"""Writing shards with several processes, with the same result as with one.

    tasks -> processes, which report after every image -> notes, in the order of the tasks

A process ends when its parent ends, however that happens, so that none writes into a packing that was started again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pretrain.packing.shard_writer import Note, Task, Treatment, write_shard
from shared.errors import DataError
from shared.versions import ignore_known_warnings

LOOK = 0.2  # seconds between progress updates


class Halted(Exception):
    """The packing is stopping; unfinished shards are dropped."""


def write_shards(tasks: Sequence[Task], treatment: Treatment, jobs: int, progress: Callable[[int], None]) -> list[Note]:
    """Write shards, `jobs` at a time.

    Args:
        progress: called with the number of finished images.

    Raises:
        DataError: from the first shard that fails; the others are stopped.
    """
    jobs = min(jobs, len(tasks))
    return _together(tasks, treatment, jobs, progress) if jobs > 1 else _in_line(tasks, treatment, progress)


def _in_line(tasks: Sequence[Task], treatment: Treatment, progress: Callable[[int], None]) -> list[Note]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done)

    return [write_shard(task, treatment, tick) for task in tasks]


def _together(tasks: Sequence[Task], treatment: Treatment, jobs: int, progress: Callable[[int], None]) -> list[Note]:
    here = multiprocessing.get_context()
    done, halt = here.Value("q", 0), here.Event()
    with ProcessPoolExecutor(jobs, here, _begin, (done, halt, os.getpid())) as pool:
        try:
            notes = [pool.submit(_write, task, treatment) for task in tasks]
            waiting = set(notes)
            while waiting:
                ready, waiting = wait(waiting, timeout=LOOK, return_when=FIRST_COMPLETED)
                progress(done.value)
                for note in ready:
                    note.result()
        except BrokenProcessPool:
            raise DataError("a packing process was killed, perhaps for lack of memory; run the command again") from None
        finally:
            halt.set()
            pool.shutdown(cancel_futures=True)
    return [note.result() for note in notes]


_shared: dict[str, Any] = {}  # state shared by the packing processes: progress, and whether to stop


def _begin(done: Any, halt: Any, parent: int) -> None:
    import torch

    ignore_known_warnings()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it as well, and stops all
    torch.set_num_threads(1)
    _shared.update(done=done, halt=halt)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


def _write(task: Task, treatment: Treatment) -> Note:
    return write_shard(task, treatment, _tick)


def _tick() -> None:
    if _shared["halt"].is_set():
        raise Halted
    with _shared["done"].get_lock():
        _shared["done"].value += 1
