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
    assert ended.complaint.endswith("the state is saved, continue with `pretrain train --resume runs/run`")
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


def test_ctrl_c_saves_and_prints_the_command_that_continues(
    shards: Path, start: Callable, run: Callable, left: Callable
) -> None:
    trial = start(RUN.format(workers=0, data=shards, name="run"), prepare=slowly)
    trial.wait_until(lambda: steps_taken(left("run").folder) >= 1)
    os.kill(trial.pid, signal.SIGINT)
    ended = trial.wait()
    assert ended.code == 130
    before, command = ended.complaint.rstrip("`").split("; the state is saved, continue with `")
    assert before.startswith("pretrain: stopped by Ctrl-C at step ")
    assert len(list((left("run").folder / "last").glob("step-*.pt"))) == 1
    step = int(before.split()[6])
    resumed = run(command + " --epochs 2")
    assert resumed.code == 0 and f"resuming runs/run at step {step} of 7" in resumed.out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_evaluation_stops_at_once_and_the_resumed_run_repeats_only_the_evaluation(
    sent: signal.Signals, shards: Path, start: Callable, run: Callable, left: Callable
) -> None:
    def endless_evaluation() -> None:
        from shared.loop.trainer import Trainer

        def evaluate(self: Any, probing: bool = False) -> dict[str, float]:
            (self.run_dir / "evaluating").touch()
            time.sleep(60)
            return {}

        Trainer.evaluate = evaluate  # type: ignore[method-assign]

    words = RUN.format(workers=0, data=shards, name="run").replace("--epochs 4", "--epochs 2")
    trial = start(words, prepare=endless_evaluation)
    trial.wait_until(lambda: (left("run").folder / "evaluating").is_file())
    os.kill(trial.pid, sent)
    ended = trial.wait(20)
    assert ended.code == {signal.SIGINT: 130, signal.SIGTERM: 75}[sent]
    assert "at step 4 of 7; the state is saved" in ended.complaint
    assert run(words + "--resume").code == 0
    assert run(words.replace("run ", "whole ")).code == 0
    assert left("run").rows() == left("whole").rows()
    assert left("run").card()["metrics"] == left("whole").card()["metrics"]
