"""Batches of one group, every sample in every epoch, the same whoever asks and whenever."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.feeding.feed import Feed
from shared.feeding.grouped import GroupedPlan
from tests.shared.feeding.test_feed import Numbers

labels = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(np.array)


def epoch_of(plan: GroupedPlan, epoch: int) -> list[int]:
    return [plan.index(epoch, place) for place in range(len(plan))]


@given(groups=labels, batch=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_a_batch_holds_one_group_and_an_epoch_holds_every_sample(groups: np.ndarray, batch: int, seed: int) -> None:
    seen = epoch_of(GroupedPlan(groups, batch, seed), 3)
    assert set(seen) == set(range(len(groups)))
    for start in range(0, len(seen), batch):
        assert len(set(groups[seen[start : start + batch]])) == 1


@given(groups=labels, batch=st.integers(1, 5))
def test_only_the_half_full_batch_of_a_group_repeats_samples_of_it(groups: np.ndarray, batch: int) -> None:
    times = Counter(epoch_of(GroupedPlan(groups, batch, 0), 0))
    for group, size in Counter(groups.tolist()).items():
        more = sum(times[i] - 1 for i in np.flatnonzero(groups == group).tolist())
        assert more == -size % batch


def test_batches_come_as_they_get_full_so_the_order_stays_near_the_shuffled_one() -> None:
    plain = [GroupedPlan(np.zeros(60), 4, 1).index(0, place) for place in range(60)]
    grouped = epoch_of(GroupedPlan(np.arange(60) % 3, 4, 1), 0)
    moved = [abs(plain.index(sample) - place) for place, sample in enumerate(grouped)]
    assert grouped != plain and max(moved) < 25


def test_epochs_differ_and_a_copy_in_another_process_agrees() -> None:
    plan = GroupedPlan(np.arange(30) % 3, 4, 1)
    assert epoch_of(plan, 0) != epoch_of(plan, 1)
    assert epoch_of(copy.deepcopy(plan), 1) == epoch_of(plan, 1)


def test_a_place_beyond_the_epoch_is_refused() -> None:
    with pytest.raises(IndexError, match="position 8 of 8"):
        GroupedPlan(np.zeros(7), 4, 1).index(0, 8)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_any_number_of_processes_shares_the_grouped_batches_and_takes_them_up_at_any_step(world: int) -> None:
    groups = np.arange(23) % 2

    def steps(first: int, stop: int, world: int) -> list[list[list[int]]]:
        told = {"seed": 3, "batch_size": 2, "micro_batches": 6, "groups": groups}
        parts = [list(Feed(Numbers([23]), rank=r, world=world, **told).steps(first, stop)) for r in range(world)]
        return [[[s.index for s in batch] for part in parts for batch in part[i]] for i in range(stop - first)]

    alone = steps(0, 6, 1)
    assert all(len({groups[i] for i in batch}) == 1 for step in alone for batch in step)
    assert steps(0, 6, world) == alone and steps(4, 6, world) == alone[4:]
