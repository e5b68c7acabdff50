"""Writing shards with several processes, or on a cluster, with the same result as with one process.

    tasks -> processes, which report after every image -> notes, in the order of the tasks
          -> nodes of a Ray cluster (shared/feeding/cluster.py) -> the same

A process ends when its parent ends, however that happens, so that none writes into a packing that was started again.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pretrain.packing.elsewhere import is_address
from pretrain.packing.shard_writer import Note, Task, Treatment, finished, write_shard
from shared.errors import DataError
from shared.feeding.cluster import on_cluster
from shared.feeding.image_header import limit_pixels, pixel_limit
from shared.versions import ignore_known_warnings

LOOK = 0.2  # seconds between progress updates


class Halted(Exception):
    """The packing is stopping; unfinished shards are dropped."""


def write_shards(
    tasks: Sequence[Task], treatment: Treatment, jobs: int, progress: Callable[[int], None], cluster: str | None = None
) -> list[Note]:
    """Write shards, `jobs` at a time.

    Args:
        progress: called with the number of finished images.
        cluster: address of a Ray cluster, which writes them instead, as many at a time as it has processors.

    Raises:
        DataError: from the first shard that fails; the others are stopped.
    """
    if cluster is not None and tasks:
        return _on_nodes(tasks, treatment, progress, cluster)
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


# -- on a cluster -----------------------------------------------------------------------------------------------------


def _on_nodes(tasks: Sequence[Task], treatment: Treatment, progress: Callable[[int], None], cluster: str) -> list[Note]:
    ready = 0

    def done(number: int) -> None:
        nonlocal ready
        ready += len(tasks[number].entries)
        progress(ready)

    common = (treatment, pixel_limit())
    return on_cluster(write_elsewhere, tasks, common, address=cluster, partial=tasks[0].shard.parents[1], done=done)


def write_elsewhere(task: Task, common: tuple[Treatment, int | None], tick: Callable[[], None]) -> Note:
    """`write_shard` on a node; nothing if the shard is complete, from an attempt whose result was lost.

    Raises:
        DataError: the node lacks the input or jpegtran, for which every image would be left out.
    """
    import torch

    treatment, limit = common
    ignore_known_warnings()
    torch.set_num_threads(1)
    limit_pixels(limit)
    if treatment.jpegtran and not os.access(treatment.jpegtran, os.X_OK):
        raise DataError(f"{platform.node()} has no {treatment.jpegtran}; install jpegtran there as here")
    for entry in (task.entries[0], task.entries[-1]):
        if entry.changed and not is_address(entry.file) and not os.path.exists(entry.file):
            raise DataError(f"{platform.node()} does not see {entry.file}; every node must, under the same path")
    return finished(task) or write_shard(task, treatment, tick)
