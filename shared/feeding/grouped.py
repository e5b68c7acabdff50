"""An order with each micro batch from one group, such as images of similar aspect ratio, which need little padding.

    the epoch's order -> each sample is added to its group's open batch -> batches, in the order they became full
                                                                       -> remaining ones, filled up from their group

As with `shared.feeding.plan`, any position of any epoch can be computed directly, for any number of processes and after
any resume.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from shared.feeding.plan import order_of


class GroupedPlan:
    """The order of samples of every epoch: each once, and some twice to fill the last batch of their group.

    Args:
        groups: (N,) the group of each sample.
        batch_size: samples in a micro batch.
        seed: of the order.
    """

    def __init__(self, groups: np.ndarray, batch_size: int, seed: int) -> None:
        self.groups, self.batch_size, self.seed = np.asarray(groups), batch_size, seed
        counts = np.unique(self.groups, return_counts=True)[1]
        self.length = int((-(-counts // batch_size) * batch_size).sum())
        self._order = lru_cache(maxsize=2)(self._order_of)

    def __len__(self) -> int:
        return self.length

    def __reduce__(self):  # the cache is not sent to worker processes
        return GroupedPlan, (self.groups, self.batch_size, self.seed)

    def index(self, epoch: int, position: int) -> int:
        """Sample index at a position of an epoch; the positions of a batch are from one group.

        Args:
            epoch: from 0.
            position: from 0 to len(self) - 1.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)}")
        return int(self._order(epoch)[position])

    def _order_of(self, epoch: int) -> np.ndarray:
        order = order_of(self.seed, epoch, 0, len(self.groups))
        of_place = self.groups[order]
        batches, full_at = [], []
        for number, group in enumerate(np.unique(of_place)):
            places = np.flatnonzero(of_place == group)
            count = -(-len(places) // self.batch_size)
            batches.append(order[places][np.arange(count * self.batch_size) % len(places)].reshape(count, -1))
            last = np.arange(1, count + 1) * self.batch_size - 1
            full_at.append(np.append(places, len(order) + number)[np.minimum(last, len(places))])
        return np.concatenate(batches)[np.argsort(np.concatenate(full_at), kind="stable")].ravel()
