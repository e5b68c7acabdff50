"""How often samples come: floor or ceiling of their factor, as many in every epoch, a function of seed and epoch."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.feeding.feed import Feed
from shared.feeding.grouped import GroupedPlan
from shared.feeding.plan import AGAIN, Plan, RepeatPlan
from shared.feeding.repeat import Draw, Repeats
from tests.shared.feeding.test_feed import Numbers

some = st.one_of(st.sampled_from([0.5, 1.0, 2.0, 10.0]), st.floats(0, 12))
factors = st.lists(some, min_size=1, max_size=40).map(np.array)


@given(factors=factors, seed=st.integers(0, 2**32), epoch=st.integers(0, 2**31))
def test_each_epoch_has_as_many_and_each_sample_comes_floor_or_ceiling_times(
    factors: np.ndarray, seed: int, epoch: int
) -> None:
    draw = Draw(Repeats(factors), seed)
    total = factors.sum()
    assert len(draw) == (max(1, round(total)) if total else 0)
    index, times = draw.of(epoch)
    assert len(index) == len(times) == len(draw)
    counts = np.bincount(index, minlength=len(factors))
    expected = factors * len(draw) / (total or 1)
    assert (counts >= np.floor(expected + 1e-8) - (expected < 1e-8)).all() or not total
    assert (counts <= np.ceil(expected - 1e-8) + (expected < 1e-8)).all()
    for sample in range(len(factors)):
        assert times[index == sample].tolist() == list(range(counts[sample]))


def test_on_average_each_comes_its_factor_of_times() -> None:
    given = np.array([1.0, 2.25, 0.5, 0.25, 3.0])
    draw, epochs = Draw(Repeats(given), 3), 2000
    counts = np.sum([np.bincount(draw.of(epoch)[0], minlength=5) for epoch in range(epochs)], axis=0)
    assert np.allclose(counts / epochs, given, atol=0.05)
    assert counts[0] == epochs and counts[4] == 3 * epochs  # whole factors in every epoch


def test_factors_of_one_give_every_sample_once() -> None:
    plan = RepeatPlan(Repeats(np.ones(50)), 1)
    for epoch in range(3):
        assert sorted(plan.index(epoch, p) for p in range(len(plan))) == list(range(50))
        assert all(plan.stream(epoch, p) == plan.index(epoch, p) for p in range(len(plan)))


def test_strata_have_the_same_share_of_every_epoch() -> None:
    strata = np.repeat([0, 1], [30, 10])
    draw = Draw(Repeats(np.where(strata, 1.7, 0.4), strata), 5)
    for epoch in range(5):
        assert np.bincount(strata[draw.of(epoch)[0]]).tolist() == [12, 17] == draw.counts


@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1000), position=st.integers(0, 30))
def test_any_position_is_known_without_the_ones_before(seed: int, epoch: int, position: int) -> None:
    repeats = Repeats(np.linspace(0.3, 2, 27))
    plan, other = RepeatPlan(repeats, seed), copy.deepcopy(RepeatPlan(repeats, seed))  # as sent to a worker
    for p in (0, 3, position):
        other.index(epoch + 1, p)
    assert plan.index(epoch, position) == other.index(epoch, position)
    assert plan.stream(epoch, position) == other.stream(epoch, position)
    with pytest.raises(IndexError):
        plan.index(0, len(plan))


def test_a_sample_that_comes_twice_has_two_random_streams() -> None:
    plan = RepeatPlan(Repeats(np.array([3.0, 1.0])), 0)
    assert sorted(plan.stream(0, p) for p in range(4)) == [0, 1, AGAIN, 2 * AGAIN]


def test_epochs_differ_and_seeds_too() -> None:
    repeats = Repeats(np.full(40, 0.5))
    chosen = {tuple(sorted(Draw(repeats, seed).of(epoch)[0])) for seed in (0, 1) for epoch in range(4)}
    assert len(chosen) == 8


def test_batches_of_one_group_keep_their_number_in_every_epoch() -> None:
    groups = np.arange(31) % 3
    repeats = Repeats(np.linspace(0.2, 3, 31), np.arange(31) // 20)
    plan = GroupedPlan(groups, 4, 9, repeats)
    for epoch in range(6):
        order = [plan.index(epoch, p) for p in range(len(plan))]
        assert len(plan._order(epoch)[0]) == len(plan)
        for start in range(0, len(order), 4):
            assert len(set(groups[order[start : start + 4]])) == 1
    again = copy.deepcopy(plan)
    assert [again.index(2, p) for p in (5, 0)] == [plan.index(2, p) for p in (5, 0)]
    ones = GroupedPlan(groups, 4, 9, Repeats(np.ones(31)))
    assert Counter(ones.index(0, p) for p in range(len(ones))).keys() == set(range(31))
    assert len(ones) == len(GroupedPlan(groups, 4, 9))


@pytest.mark.parametrize("groups", [None, np.arange(24) % 2])
def test_any_number_of_processes_and_any_start_feed_the_same(groups: np.ndarray | None) -> None:
    repeats, samples = Repeats(np.linspace(0.3, 2, 24)), Numbers([24])

    def fed(first: int, stop: int, world: int) -> list[list[Any]]:
        feeds = [
            Feed(samples, seed=3, batch_size=3, micro_batches=2, rank=r, world=world, groups=groups, repeats=repeats)
            for r in range(world)
        ]
        each = [[batch for step in feed.steps(first, stop) for batch in step] for feed in feeds]
        return [batch for group in zip(*each, strict=True) for batch in group]

    whole = fed(0, 20, 1)
    assert fed(0, 20, 2) == whole and fed(7, 20, 1) == whole[14:]
    assert isinstance(Feed(samples, seed=3, batch_size=3).plan, Plan)
