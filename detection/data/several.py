"""Several data sets as one, for the feed: images of all of them in one order, each target with its data set.

    set 0, set 1, ... -> SeveralSets.load(index) -> the set of that index loads it -> target: dataset, known

`share` is how often the images of a set come in an epoch: 0.5 is every other image, 2 is every image twice, drawn anew
for every epoch by `shared.feeding.repeat`. Sets of one joined list of classes say in `known` which of them their file
annotates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.data.batch import collate
from detection.data.coco import CocoDetection
from detection.types import Target
from shared.feeding.repeat import Repeats


class OneOf(NamedTuple):
    """One of several training sets.

    name: for metrics, logs and cards.
    data: its images.
    factors: (N,) how often each image comes in an epoch.
    """

    name: str
    data: CocoDetection
    factors: np.ndarray


class SeveralSets:
    """The training images of several data sets, as a data set for `shared.feeding.feed`.

    Args:
        sets: in order; `dataset` of a target counts them from 0.
        joined: they have one list of classes, of which each file annotates some.
    """

    def __init__(self, sets: Sequence[OneOf], *, joined: bool) -> None:
        self.sets, self.joined = tuple(sets), joined
        self.starts = np.cumsum([0, *(len(one.data) for one in sets)])
        self.sizes = [int(self.starts[-1])]
        self.known = [torch.from_numpy(one.data.known) for one in sets]
        digest = hashlib.sha256()
        for one in sets:
            digest.update(f"{one.name} {one.data.fingerprint} {joined}".encode() + one.factors.tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def repeats(self) -> Repeats | None:
        """How often images come; None for once each."""
        factors = np.concatenate([one.factors for one in self.sets])
        return None if (factors == 1).all() else Repeats(factors, self.number_of)

    @property
    def number_of(self) -> np.ndarray:
        """(N,) the data set of each image."""
        return np.repeat(np.arange(len(self.sets)), np.diff(self.starts))

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        """An image of one of the sets; BadSample as there."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        picture, target = self.sets[number].data.load(index - int(self.starts[number]), rng)
        target = Target(**{**target, "dataset": number})
        if self.joined and not self.known[number].all():
            target["known"] = self.known[number]
        return picture, target

    def collate(self, samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
        return collate(samples)


class Numbered:
    """A validation set whose targets say which of several it is."""

    def __init__(self, data: CocoDetection, number: int) -> None:
        self.data, self.number = data, number
        self.sizes, self.fingerprint = data.sizes, data.fingerprint

    def load(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Target]:
        picture, target = self.data.load(index, rng)
        return picture, Target(**{**target, "dataset": self.number})

    def collate(self, samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
        return collate(samples)


class InTurn:
    """Several loaders, one after the other; no batch has images of two."""

    def __init__(self, loaders: Sequence[Any]) -> None:
        self.loaders = tuple(loaders)

    def __iter__(self) -> Any:
        for loader in self.loaders:
            yield from loader

    def __len__(self) -> int:
        return sum(map(len, self.loaders))
