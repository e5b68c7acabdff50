"""The order of samples: a pure function of seed, epoch and position.

    shards, shuffled per epoch -> blocks of a few shards -> samples shuffled within each block

There is no state, so a run can be continued at any position, with any number of processes and workers. Reads are
local (a block spans `block` shards) and memory is small: only the order of one block is held at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from shared.feeding.repeat import Draw, Repeats

ORDER, SAMPLE = 0, 1  # purpose of a random stream, part of its seed
AGAIN = 1 << 40  # a sample's second time in an epoch has the random stream of the index that is so much higher


def rng_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one sample in one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, SAMPLE], counter=[0, 0, epoch, index]))


def seed_of(seed: int, micro_batch: int) -> int:
    """The seed of torch's random numbers in a micro batch, numbered over the whole run."""
    return ((seed << 40) + micro_batch) % 2**63


def order_of(seed: int, epoch: int, block: int, size: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=[seed, ORDER], counter=[0, 0, epoch, block]))
    return rng.permutation(size)


class Plan:
    """The order of samples of every epoch.

    Args:
        sizes: samples per shard; one entry if there are no shards.
        seed: of the order.
        block: number of shards that are shuffled together.
    """

    def __init__(self, sizes: Sequence[int], seed: int, *, block: int = 16) -> None:
        self.sizes, self.seed, self.block = [int(n) for n in sizes], seed, block
        self.starts = np.concatenate(([0], np.cumsum(self.sizes))).astype(np.int64)
        self._layout = lru_cache(maxsize=4)(self._layout_of)
        self._members = lru_cache(maxsize=4)(self._members_of)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __reduce__(self):  # the caches are not sent to worker processes
        return _rebuild, (self.sizes, self.seed, self.block)

    def index(self, epoch: int, position: int) -> int:
        """Sample index at a position of an epoch. Every epoch has every sample exactly once.

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

    def stream(self, epoch: int, position: int) -> int:
        """The number of the sample's random stream: its index."""
        return self.index(epoch, position)

    def _layout_of(self, epoch: int) -> tuple[np.ndarray, list[int]]:
        """Shards in the epoch's order, and the end position of each block."""
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


class RepeatPlan:
    """The order of samples of every epoch, of which some come several times or not in every epoch.

    Args:
        repeats: how often samples come.
        seed: of the order.
    """

    def __init__(self, repeats: Repeats, seed: int) -> None:
        self.repeats, self.seed, self.drawn = repeats, seed, Draw(repeats, seed)
        self._order = lru_cache(maxsize=2)(self._order_of)

    def __len__(self) -> int:
        return len(self.drawn)

    def __reduce__(self):  # the cache is not sent to worker processes
        return RepeatPlan, (self.repeats, self.seed)

    def index(self, epoch: int, position: int) -> int:
        """Sample index at a position of an epoch. Every epoch has len(self) positions."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        return int(self._order(epoch)[0][position])

    def stream(self, epoch: int, position: int) -> int:
        """The number of the sample's random stream: its index, another one for each further time in the epoch."""
        index, times = self._order(epoch)
        return int(index[position]) + AGAIN * int(times[position])

    def _order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        drawn, times = self.drawn.of(epoch)
        order = order_of(self.seed, epoch, 0, len(drawn))
        return drawn[order], times[order]


def _rebuild(sizes: list[int], seed: int, block: int) -> Plan:
    return Plan(sizes, seed, block=block)
