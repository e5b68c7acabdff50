"""An order with each micro batch from one group, such as images of similar aspect ratio, which need little padding.

    the epoch's order -> each sample is added to its group's open batch -> batches, in the order they became full
                                                                       -> remaining ones, filled up from their group

As with `shared.feeding.plan`, any position of any epoch can be computed directly, for any number of processes and after
any resume.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from shared.feeding.plan import AGAIN, order_of
from shared.feeding.repeat import Draw, Repeats


class GroupedPlan:
    """The order of samples of every epoch: each once, and some twice to fill the last batch of their group.

    Args:
        groups: (N,) the group of each sample.
        batch_size: samples in a micro batch.
        seed: of the order.
        repeats: how often samples come; None for once.
    """

    def __init__(self, groups: np.ndarray, batch_size: int, seed: int, repeats: Repeats | None = None) -> None:
        self.groups, self.batch_size, self.seed, self.repeats = np.asarray(groups), batch_size, seed, repeats
        self.drawn = None if repeats is None else Draw(repeats, seed, self.groups)
        counts = np.unique(self.groups, return_counts=True)[1]
        if self.drawn is not None:  # of a group as many in every epoch
            of_group = [self.groups[members[0]] for members in self.drawn.members]
            counts = np.bincount(np.unique(of_group, return_inverse=True)[1], self.drawn.counts).astype(np.int64)
        self.length = int((-(-counts // batch_size) * batch_size).sum())
        self._order = lru_cache(maxsize=2)(self._order_of)

    def __len__(self) -> int:
        return self.length

    def __reduce__(self):  # the cache is not sent to worker processes
        return GroupedPlan, (self.groups, self.batch_size, self.seed, self.repeats)

    def index(self, epoch: int, position: int) -> int:
        """Sample index at a position of an epoch; the positions of a batch are from one group.

        Args:
            epoch: from 0.
            position: from 0 to len(self) - 1.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        return int(self._order(epoch)[0][position])

    def stream(self, epoch: int, position: int) -> int:
        """The number of the sample's random stream: its index, another one where `repeats` has it again."""
        order, times = self._order(epoch)
        return int(order[position]) + AGAIN * int(times[position])

    def _order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(L,) samples by position, and (L,) which time each comes."""
        if self.drawn is None:
            order = order_of(self.seed, epoch, 0, len(self.groups))
            return self._batched(order), np.zeros(self.length, np.int64)
        drawn, times = self.drawn.of(epoch)
        at = self._batched(order_of(self.seed, epoch, 0, len(drawn)), drawn)
        return drawn[at], times[at]

    def _batched(self, order: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
        """An order (M,) of places -> (L,) the same in batches of one group, the last of each filled up."""
        of_place = self.groups[order if drawn is None else drawn[order]]
        batches, full_at = [], []
        for number, group in enumerate(np.unique(of_place)):
            places = np.flatnonzero(of_place == group)
            count = -(-len(places) // self.batch_size)
            batches.append(order[places][np.arange(count * self.batch_size) % len(places)].reshape(count, -1))
            last = np.arange(1, count + 1) * self.batch_size - 1
            full_at.append(np.append(places, len(order) + number)[np.minimum(last, len(places))])
        return np.concatenate(batches)[np.argsort(np.concatenate(full_at), kind="stable")].ravel()
