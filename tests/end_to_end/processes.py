"""Work in several forked processes that can talk to each other, without the loop around it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shared.devices import dist


def in_processes(world: int, tmp_path: Path, work: Callable[[int], Any]) -> list[Any]:
    """What `work(rank)` returns in each of so many forked processes that can talk to each other."""
    fork = multiprocessing.get_context("fork")
    answers: Any = fork.Queue()

    def live(rank: int) -> None:
        torch.set_num_threads(1)  # the threads of the parent are not there after a fork, and would be waited for
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/meeting", rank=rank, world_size=world
        )
        answers.put((rank, work(rank)))
        dist.stop()

    children = [fork.Process(target=live, args=(rank,), daemon=True) for rank in range(world)]
    for child in children:
        child.start()
    found = dict(answers.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    return [found[rank] for rank in range(world)]
