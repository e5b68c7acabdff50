"""Which sample comes when: a pure function of seed, epoch and position.

    shards, in an order of the epoch's own -> blocks of a few shards -> inside a block, all samples shuffled

Nothing is remembered between questions, so a run continues anywhere, with any number of processes and workers, by
knowing one integer. Reads stay near each other (a block spans `block` shards) and memory stays small: the order of
one block is held at a time, never that of the data set.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ORDER, SAMPLE = 0, 1  # what a stream of random numbers is for; kept apart so that no two streams are one


def rng_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch; nobody else draws from them."""
    return np.random.Generator(np.random.Philox(key=[seed, SAMPLE], counter=[0, 0, epoch, index]))


def order_of(seed: int, epoch: int, block: int, size: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=[seed, ORDER], counter=[0, 0, epoch, block]))
    return rng.permutation(size)


class Plan:
    """The order of samples of every epoch.

    Args:
        sizes: samples in each shard; one entry for data in one piece.
        seed: of the order.
        block: how many shards are shuffled together.
    """

    def __init__(self, sizes: Sequence[int], seed: int, *, block: int = 16) -> None:
        self.sizes, self.seed, self.block = [int(n) for n in sizes], seed, block
        self.starts = np.concatenate(([0], np.cumsum(self.sizes))).astype(np.int64)
        self._layout = lru_cache(maxsize=4)(self._layout_of)
        self._members = lru_cache(maxsize=4)(self._members_of)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __reduce__(self):  # the caches do not travel to worker processes
        return _rebuild, (self.sizes, self.seed, self.block)

    def index(self, epoch: int, position: int) -> int:
        """Which sample stands at this position of this epoch.

        Every epoch holds every sample exactly once.

        Args:
            epoch: from 0.
            position: from 0 to len(self) - 1.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        _, ends = self._layout(epoch)
        block = bisect_right(ends, position)
        first = ends[block - 1] if block else 0
        return int(self._members(epoch, block)[position - first])

    def _layout_of(self, epoch: int) -> tuple[np.ndarray, list[int]]:
        """Shards in the epoch's order, and the position at which each block ends."""
        shards = order_of(self.seed, epoch, 2**63 - 1, len(self.sizes))
        counts = np.array(self.sizes, dtype=np.int64)[shards]
        ends = np.cumsum(counts)[self.block - 1 :: self.block].tolist()
        if not ends or ends[-1] != len(self):
            ends.append(len(self))
        return shards, ends

    def _members_of(self, epoch: int, block: int) -> np.ndarray:
        shards = self._layout(epoch)[0][block * self.block : (block + 1) * self.block]
        members = np.concatenate([np.arange(int(self.starts[s]), int(self.starts[s + 1])) for s in shards])
        return members[order_of(self.seed, epoch, block, len(members))]


def _rebuild(sizes: list[int], seed: int, block: int) -> Plan:
    return Plan(sizes, seed, block=block)
