"""A run that is asked to stop saves, says so with exit code 75, and goes on later as if nothing had been."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN = (
    "pretrain train --model test_resnet --size 32 --epochs 4 --batch-size 8 --mixup 0.2 --model-ema --log-every 1 "
    "--num-workers {workers} --device cpu --data-path {data} --name {name} "
)


def slowly() -> None:
    """Steps long enough for somebody outside to meddle with."""
    from shared.loop.trainer import Trainer

    account = Trainer.account

    def slow(self: Any, waited: float) -> None:
        account(self, waited)
        time.sleep(0.15)

    Trainer.account = slow  # type: ignore[method-assign]


def steps_taken(folder: Path) -> int:
    rows = folder / "metrics.jsonl"
    return rows.read_text().count('"kind": "train"') if rows.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "workers"), [(signal.SIGTERM, 0), (signal.SIGUSR1, 2)])
def test_a_signal_saves_and_ends_with_75_and_the_resumed_run_ends_the_same(
    sent: signal.Signals, workers: int, shards: Path, start: Callable, run: Callable, left: Callable
) -> None:
    words = RUN.format(workers=workers, data=shards, name="run")
    trial = start(words, prepare=slowly)
    trial.wait_until(lambda: steps_taken(left("run").folder) >= 2)
    os.kill(trial.pid, sent)
    ended = trial.wait()
    assert ended.code == 75
    assert "add --resume to continue" in ended.complaint
    assert steps_taken(left("run").folder) < 14
    assert run(words + "--resume").code == 0
    assert run(RUN.format(workers=0, data=shards, name="whole")).code == 0
    assert left("run").state() == left("whole").state()
    assert left("run").rows() == left("whole").rows()


@pytest.mark.slow
def test_a_second_process_on_the_same_run_is_refused_and_the_first_goes_on(
    shards: Path, start: Callable, run: Callable, left: Callable
) -> None:
    words = RUN.format(workers=2, data=shards, name="run")
    first = start(words, prepare=slowly)
    first.wait_until(lambda: steps_taken(left("run").folder) >= 1)
    second = run(words + "--resume")
    assert second.code == 2
    assert f"is being trained by process {first.pid}" in second.complaint
    assert first.wait().code == 0
    assert left("run").result()["finished"]


@pytest.mark.slow
def test_a_killed_run_leaves_no_lock_though_its_workers_outlive_it(
    shards: Path, start: Callable, run: Callable, left: Callable
) -> None:
    words = RUN.format(workers=2, data=shards, name="run")
    first = start(words, prepare=slowly)
    first.wait_until(lambda: steps_taken(left("run").folder) >= 1)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait().code == -signal.SIGKILL
    assert run(words + "--resume").code == 0


def test_an_interrupted_run_ends_with_130_and_without_a_traceback(
    shards: Path, start: Callable, left: Callable
) -> None:
    trial = start(RUN.format(workers=0, data=shards, name="run"), prepare=slowly)
    trial.wait_until(lambda: steps_taken(left("run").folder) >= 1)
    os.kill(trial.pid, signal.SIGINT)
    ended = trial.wait()
    assert ended.code == 130
    assert ended.complaint == "pretrain: interrupted"
