"""A dry run's prediction: from real steps on a copy, waiting told apart, and a sentence where a step does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.errors import UsageError
from shared.loop.task import Task
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig
from shared.runs import fitting, measuring
from shared.runs.measuring import Taken, duration, measured, take_steps
from tests.conftest import TinyBackbone


class Batches:
    """A feed of noise that counts what it was asked for."""

    batch_size, micro_batches, workers, steps_per_epoch, whole_epochs, step_size = 2, 2, 3, 50.0, False, 4

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def steps(self, first: int, stop: int) -> Iterator[list[Tensor]]:
        self.asked.append((self.workers, first, stop))
        for _ in range(first, stop):
            yield [torch.rand(2, 3, 64, 64) for _ in range(2)]


class Learns(Task):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head, self.factor = TinyBackbone(), nn.Linear(8, 1), 1.0
        self.out_of_memory = False

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        if self.out_of_memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"loss": self.factor * self.head(self.backbone(batch)).square().mean()}


class Holds:
    name = "cuda:0"

    def room(self) -> int:
        return 80_000_000_000

    def begin(self) -> None:
        pass

    def peak(self) -> int:
        return 9_800_000_000


def session_of(steps: int, **runtime: Any) -> Any:
    known = RuntimeConfig(dry_steps=steps, **runtime)
    recipe = SimpleNamespace(optim=OptimConfig(lr=0.1), schedule=ScheduleConfig(epochs=12), runtime=known)
    return SimpleNamespace(recipe=recipe, runtime=known, device=torch.device("cpu"), stem="run")


def lines_of(task: Task, steps: int = 5, feed: Any = None, **runtime: Any) -> list[str]:
    return measured(
        session_of(steps, **runtime), task, feed or Batches(), lambda: lambda count: torch.rand(2, 3, 64, 64)
    )


def test_steps_are_counted_and_nothing_is_learnt() -> None:
    task, feed = Learns().train(), Batches()
    kept = {name: value.clone() for name, value in task.state_dict().items()}
    random = torch.get_rng_state()
    taken = take_steps(session_of(5), task, feed, 5)
    assert len(taken.seconds) == len(taken.waited) == 5 and taken.finite and taken.peak is None
    assert feed.asked == [(0, 0, 1), (3, 0, 5)], "the warm-up starts no worker, which would load ahead meanwhile"
    assert all(torch.equal(value, kept[name]) for name, value in task.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_slow_steps_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    assert len(take_steps(session_of(20), Learns(), Batches(), 20).seconds) == measuring.LEAST


def test_a_step_is_the_median_and_the_mean_wait_without_the_start_of_the_workers() -> None:
    taken = Taken([0.1, 0.3, 0.2, 9.0, 0.2], [70.0, 0.0, 0.0, 0.4, 0.0], None, None, True)
    assert taken.wait == pytest.approx(0.1) and taken.step == pytest.approx(0.3)
    assert Taken([2.0], [70.0], None, None, True).step == 2.0
    words = measuring.time_words(taken, 36_000, session_of(5))
    assert words.startswith("about 3.0 h for 12 epochs, without evaluation: 36,000 steps of 0.2 s by the median")
    assert "(0.1 to 9), each after waiting 0.1 s for data" in words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.043, "0.043 s"),
        (45, "45 s"),
        (119, "119 s"),
        (150, "2.5 min"),
        (720, "12 min"),
        (11_160, "3.1 h"),
        (2e6, "23 days"),
    ],
)
def test_durations_are_as_exact_as_a_prediction_is(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_dry_run_on_a_cpu_says_whose_peak_it_is() -> None:
    first, time, memory = lines_of(Learns())
    assert first == "measured in 5 steps on cpu, on a copy of the network"
    assert re.match(r"  time    about \S+ (s|min) for 12 epochs, without evaluation: 600 steps of ", time)
    assert re.match(r"  memory  \S+ of \S+ GB: the peak of this process \(VmHWM\)", memory) or "not told" in memory
    assert lines_of(Learns(), 0) == []


def test_on_a_gpu_memory_is_measured_with_the_largest_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "memory_of", lambda _: Holds())
    assert lines_of(Learns())[-1] == "  memory  9.8 of 80.0 GB of cuda:0; 9.8 GB with the largest images there can be"
    monkeypatch.setattr(measuring, "peak_of", lambda *_: None)
    assert lines_of(Learns())[-1].endswith("the largest images there can be do not fit: give --batch-size auto")
    assert lines_of(Learns(), fsdp=True)[-1] == "  memory  9.8 of 80.0 GB of cuda:0"
    assert fitting.memory_of(torch.device("cpu")) is None


def test_a_step_that_does_not_fit_is_refused_in_a_sentence() -> None:
    task = Learns()
    task.out_of_memory = True
    with pytest.raises(UsageError, match="a step of 4 images does not fit in the memory of cpu; give a smaller"):
        lines_of(task)


def test_losses_that_become_nan_are_said() -> None:
    task = Learns()
    task.factor = float("nan")
    assert lines_of(task)[-1].startswith("warning: a loss became NaN or Inf in these steps; lower --lr")
