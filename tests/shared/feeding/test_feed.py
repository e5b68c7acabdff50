"""Any number of processes and workers sees the same samples, with the same random numbers, in the same steps."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.devices.flat import opened
from shared.errors import BadSample, DataError
from shared.feeding.feed import Feed, choose_workers, in_order


class Seen(NamedTuple):
    """A sample as the feed hands it out: which, and one number from each source of chance it may use."""

    index: int
    drawn: float
    torch_drawn: float


class Numbers:
    """Samples 0, 1, 2, ... in shards; some cannot be read."""

    def __init__(self, sizes: Sequence[int], bad: Sequence[int] = ()) -> None:
        self.sizes, self.bad, self.fingerprint = list(sizes), set(bad), "f" * 64

    def load(self, index: int, rng: np.random.Generator) -> Seen:
        if index in self.bad:
            raise BadSample(f"sample {index}", "broken in the test")
        return Seen(index, float(rng.random()), float(torch.rand(())))

    def collate(self, samples: list[Seen]) -> list[Seen]:
        return samples


def feed(sizes: Sequence[int] = (7, 6), bad: Sequence[int] = (), **told: Any) -> Feed:
    return Feed(Numbers(sizes, bad), **({"seed": 3, "batch_size": 2, "micro_batches": 6} | told))


def steps(first: int, stop: int, *, world: int = 1, **told: Any) -> list[list[Seen]]:
    """Every step's samples over all processes, in the order of micro batches."""
    parts = [list(map(opened, feed(world=world, rank=rank, **told).steps(first, stop))) for rank in range(world)]
    assert all(len(part) == stop - first for part in parts)
    return [[seen for part in parts for batch in part[i] for seen in batch] for i in range(stop - first)]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_any_number_of_processes_sees_the_same_samples_in_the_same_steps(world: int) -> None:
    alone = steps(0, 5)
    assert [len(step) for step in alone] == [12] * 5
    assert steps(0, 5, world=world) == alone


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 1)])
def test_workers_change_nothing(world: int, workers: int) -> None:
    assert steps(0, 4, world=world, workers=workers) == steps(0, 4)


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(sum),
    batch=st.integers(1, 4),
    micro=st.sampled_from([1, 2, 3, 4, 6]),
    data=st.data(),
)
def test_taken_up_at_any_step_it_goes_on_as_if_never_stopped(
    sizes: list[int], batch: int, micro: int, data: st.DataObject
) -> None:
    told = {"sizes": sizes, "batch_size": batch, "micro_batches": micro, "seed": data.draw(st.integers(0, 2**32))}
    stop = data.draw(st.integers(1, 6))
    first = data.draw(st.integers(0, stop - 1))
    world = data.draw(st.sampled_from([n for n in (1, 2, 3, 6) if micro % n == 0]))
    assert steps(first, stop, world=world, **told) == steps(0, stop, **told)[first:]


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(sum), batch=st.integers(1, 5))
def test_every_epoch_holds_each_sample_once_though_batches_reach_over_its_end(sizes: list[int], batch: int) -> None:
    count = sum(sizes)
    flat = [seen.index for step in steps(0, 3 * count, sizes=sizes, batch_size=batch, micro_batches=1) for seen in step]
    for epoch in range(3 * batch):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_a_sample_gets_other_random_numbers_in_every_epoch() -> None:
    flat = [seen for step in steps(0, 3) for seen in step]  # 36 draws of 13 samples
    assert len(set(flat)) == 36 and len({seen.drawn for seen in flat}) == len({seen.torch_drawn for seen in flat}) == 36


def test_random_numbers_do_not_depend_on_what_else_draws_them() -> None:
    expected = steps(0, 2)
    torch.manual_seed(99)
    np.random.seed(99)
    assert steps(0, 2) == expected


def test_steps_and_epochs_are_counted_in_samples() -> None:
    it = feed()
    assert it.step_size == 12 and it.steps_per_epoch == pytest.approx(13 / 12)


# --- samples that cannot be read -------------------------------------------------------------


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (1, 2)])
def test_bad_samples_are_replaced_by_the_next_of_the_plan_whoever_loads(world: int, workers: int) -> None:
    sizes, bad = [20, 20], [3, 4, 31]
    mended = steps(0, 4, sizes=sizes, bad=bad, max_bad=0.1, world=world, workers=workers)
    plan = feed(sizes).plan
    for position, seen in enumerate(seen for step in mended for seen in step):
        epoch, place = divmod(position, 40)
        while plan.index(epoch, place % 40) in bad:
            place += 1
        assert seen.index == plan.index(epoch, place % 40)
    clean = steps(0, 4, sizes=sizes)
    assert all(
        a == b for s, t in zip(mended, clean, strict=True) for a, b in zip(s, t, strict=True) if b.index not in bad
    )


def test_each_bad_sample_is_reported_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    it = feed([20, 20], bad=[3, 31], max_bad=0.05)
    with caplog.at_level(logging.WARNING):
        for _ in it.steps(0, 20):
            pass
    assert it.bad == {"sample 3: broken in the test", "sample 31: broken in the test"}
    assert Counter(record.getMessage() for record in caplog.records) == {
        "skipped sample 3: broken in the test": 1,
        "skipped sample 31: broken in the test": 1,
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_more_bad_samples_than_allowed_end_the_run(workers: int) -> None:
    it = feed([20, 20], bad=[3, 4, 31], max_bad=0.05, workers=workers)
    with pytest.raises(DataError, match="3 of 40 samples cannot be read, the last one is sample") as told:
        for _ in it.steps(0, 20):
            pass
    assert told.value.exit_code == 3
    assert "\n" not in str(told.value) and "--max-bad-samples" in str(told.value)


def test_one_bad_sample_does_not_end_the_run_on_small_data_and_two_do() -> None:
    list(feed([10], bad=[3], max_bad=0.001).steps(0, 6))
    for bad, share in (([3, 4], 0.001), ([3], 0)):
        with pytest.raises(DataError, match=f"{len(bad)} of 10 samples cannot be read"):
            list(feed([10], bad=bad, max_bad=share).steps(0, 6))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("count", [3, 500])
def test_data_of_which_nothing_can_be_read_ends_the_run_quickly(count: int, workers: int) -> None:
    it = feed([count], bad=range(count), max_bad=1.0, workers=workers)
    began = time.monotonic()
    with pytest.raises(DataError, match="100 consecutive samples cannot be read, the last one is sample") as told:
        next(it.steps(0, 1000))
    assert "\n" not in str(told.value), "one sentence, from a worker, too"
    assert time.monotonic() - began < 60, "on a busy machine, too"


@pytest.mark.slow
def test_process_that_fails_with_workers_still_running_ends(tmp_path: Path) -> None:
    """Loading processes ignore SIGTERM; nobody may wait for them at exit."""
    script = tmp_path / "fails.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from shared.feeding.feed import Feed\n"
        "class Zeros:\n"
        "    sizes, fingerprint = [40], 'f'\n"
        "    def load(self, index, rng): return index\n"
        "    def collate(self, samples): return samples\n"
        "steps = Feed(Zeros(), seed=0, batch_size=2, workers=2).steps(0, 1000)\n"
        "next(steps)\n"
        "raise SystemExit(7)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, script, root], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, done.stderr


def test_no_data_is_refused_at_the_door() -> None:
    with pytest.raises(DataError, match="has no samples; check --data-path"):
        feed([0, 0])


# --- evaluation ------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_sample_once_in_order_over_all_processes(world: int) -> None:
    batches = [list(in_order(Numbers([5, 6]), 2, rank=rank, world=world)) for rank in range(world)]
    together = [batches[i % world][i // world] for i in range(6)]
    assert [[seen.index for seen in batch] for batch in together] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_validation_data_is_refused_in_one_sentence(workers: int) -> None:
    with pytest.raises(DataError, match="sample 3: broken in the test; validation data must be readable") as told:
        list(in_order(Numbers([5], bad=[3]), 2, workers=workers))
    assert "\n" not in str(told.value)


def test_workers_are_as_asked_or_fit_the_machine() -> None:
    assert choose_workers(0) == 0 and choose_workers(5) == 5
    assert 0 <= choose_workers(-1) <= 8
