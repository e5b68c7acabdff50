"""`--limit 100`: a subset of a data set, for quick tests."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from shared.errors import UsageError
from shared.feeding.feed import Samples


class Limited:
    """A data set of `count` samples spread evenly over another one; the others are never read."""

    def __init__(self, samples: Samples, count: int) -> None:
        total = sum(samples.sizes)
        self.samples, self.chosen = samples, np.arange(min(count, total)) * total // max(min(count, total), 1)
        self.sizes = [len(self.chosen)]
        self.fingerprint = hashlib.sha256(f"{samples.fingerprint} {count}".encode()).hexdigest()

    def load(self, index: int, rng: np.random.Generator) -> Any:
        return self.samples.load(int(self.chosen[index]), rng)

    def collate(self, samples: list[Any]) -> Any:
        return self.samples.collate(samples)


def limited(samples: Any, count: int | None) -> Any:
    """The data set, or a subset if a limit is given.

    Raises:
        UsageError: it is a stream, which has no positions.
    """
    if count is None or samples is None:
        return samples
    if hasattr(samples, "stream_feed"):
        raise UsageError("--limit does not work with streamed shards; use --samples for a shorter epoch")
    return Limited(samples, count)
