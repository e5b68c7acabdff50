"""The order of samples: every epoch a permutation, a pure function of seed, epoch and position."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.feeding.plan import Plan, rng_for

shards = st.lists(st.integers(0, 12), min_size=1, max_size=40).filter(sum)
seeds = st.integers(0, 2**63 - 1)
epochs = st.integers(0, 10_000)
blocks = st.integers(1, 20)


def order(plan: Plan, epoch: int) -> list[int]:
    return [plan.index(epoch, position) for position in range(len(plan))]


@given(sizes=shards, seed=seeds, epoch=epochs, block=blocks)
def test_every_epoch_holds_every_sample_exactly_once(sizes: list[int], seed: int, epoch: int, block: int) -> None:
    assert sorted(order(Plan(sizes, seed, block=block), epoch)) == list(range(sum(sizes)))


@given(sizes=shards, seed=seeds, epoch=epochs, block=blocks, data=st.data())
def test_a_place_holds_the_same_sample_whatever_was_asked_before(
    sizes: list[int], seed: int, epoch: int, block: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, sum(sizes) - 1))
    fresh = Plan(sizes, seed, block=block).index(epoch, position)
    asked = Plan(sizes, seed, block=block)
    for other in data.draw(st.lists(st.tuples(epochs, st.integers(0, sum(sizes) - 1)), max_size=8)):
        asked.index(*other)
    assert asked.index(epoch, position) == fresh
    assert pickle.loads(pickle.dumps(asked)).index(epoch, position) == fresh  # noqa: S301 - as workers get it


@given(sizes=shards, seed=seeds, epoch=epochs, block=blocks)
def test_samples_read_together_lie_in_few_shards(sizes: list[int], seed: int, epoch: int, block: int) -> None:
    plan = Plan(sizes, seed, block=block)
    owners = [int(np.searchsorted(plan.starts, index, side="right")) - 1 for index in order(plan, epoch)]
    seen, opened = set(), []
    for owner in owners:
        if owner not in seen:
            seen.add(owner)
            opened.append(owner)
    left = {owner: sizes[owner] for owner in seen}
    partly = 0
    for owner in owners:
        left[owner] -= 1
        partly = max(partly, sum(0 < left[o] < sizes[o] for o in left))
    assert partly <= block, f"{partly} shards are half read at once, and a block is {block}"


@pytest.mark.parametrize("sizes", [[64], [16] * 4, [1] * 64, [5, 0, 40, 19]])
def test_order_differs_between_epochs_and_between_seeds(sizes: list[int]) -> None:
    orders = [tuple(order(Plan(sizes, seed), epoch)) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 9
    assert tuple(range(64)) not in orders


def test_order_is_even_over_many_epochs() -> None:
    plan = Plan([3, 2, 4], seed=5, block=2)
    first = np.bincount([plan.index(epoch, 0) for epoch in range(4500)], minlength=9)
    assert first.min() > 380 and first.max() < 620  # 500 each, give or take five deviations


def test_order_is_the_one_it_always_was() -> None:
    """A run begun with one version continues with the next: this order is a promise."""
    assert order(Plan([4, 3, 5], seed=7, block=2), 1) == GOLDEN_ORDER
    assert rng_for(7, 1, 3).integers(1000, size=4).tolist() == GOLDEN_NUMBERS


GOLDEN_ORDER = [4, 7, 8, 9, 6, 5, 10, 11, 1, 3, 2, 0]
GOLDEN_NUMBERS = [919, 600, 214, 263]


@given(seed=seeds, epoch=epochs, index=st.integers(0, 2**40))
def test_random_numbers_of_a_sample_are_a_function_of_seed_epoch_and_sample(seed: int, epoch: int, index: int) -> None:
    numbers = rng_for(seed, epoch, index).random(4).tolist()
    assert rng_for(seed, epoch, index).random(4).tolist() == numbers
    others = [(seed ^ 1, epoch, index), (seed, epoch + 1, index), (seed, epoch, index + 1)]
    assert all(rng_for(*other).random(4).tolist() != numbers for other in others)


def test_random_numbers_of_two_samples_do_not_overlap() -> None:
    long = rng_for(0, 0, 0).random(4096)
    assert not set(long) & set(rng_for(0, 0, 1).random(4096))
    assert not set(long) & set(rng_for(0, 1, 0).random(4096))


@pytest.mark.parametrize("position", [-1, 12])
def test_places_beyond_the_epoch_are_refused(position: int) -> None:
    with pytest.raises(IndexError, match=f"position {position} of 12"):
        Plan([4, 8], 0).index(0, position)
