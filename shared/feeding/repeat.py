"""Samples that come more or less than once an epoch: how often, as a pure function of seed and epoch.

    factor of each sample, such as 2.3 or 0.5 -> L = round(sum) samples an epoch, the same for every epoch
        -> samples in the epoch's random order, laid end to end, each as long as its factor
        -> one mark at every whole number, all moved by one random offset -> a sample comes as often as it has marks

So a sample comes its factor's floor or ceiling of times, and its factor of times on average ("systematic sampling").
Lengths are whole numbers of 2**-32, so that every epoch has exactly L marks. Each stratum (a data set, images of
similar aspect ratio) is drawn alone: its share of every epoch is the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DRAW = 2  # purpose of the random stream, beside ORDER and SAMPLE of `shared.feeding.plan`
UNIT = 1 << 32


class Repeats(NamedTuple):
    """How often samples come.

    factors: (N,) float64 of 0 or more; 1 is once an epoch. At most 1000, and their sum below 2**31.
    strata: (N,) int64, the stratum of each sample; None for one.
    """

    factors: np.ndarray
    strata: np.ndarray | None = None


class Draw:
    """The samples of every epoch, in no particular order.

    Args:
        repeats: factors and strata.
        seed: of the choice.
        groups: (N,) further strata, such as aspect-ratio groups; None for none.
    """

    def __init__(self, repeats: Repeats, seed: int, groups: np.ndarray | None = None) -> None:
        factors = np.asarray(repeats.factors, np.float64)
        strata = np.zeros(len(factors), np.int64) if repeats.strata is None else repeats.strata
        if groups is not None:
            strata = np.unique(np.stack((strata, groups)), axis=1, return_inverse=True)[1].reshape(-1)
        self.seed, self.total = seed, len(factors)
        self.members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
        self.lengths = [in_units(factors[members]) for members in self.members]
        self.counts = [int(lengths.sum()) // UNIT for lengths in self.lengths]

    def __len__(self) -> int:
        return sum(self.counts)

    def of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(L,) indices, one stratum after the other, and (L,) which time it is that the sample comes, from 0."""
        drawn, times = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for number, (members, lengths) in enumerate(zip(self.members, self.lengths, strict=True)):
            rng = np.random.Generator(np.random.Philox(key=[self.seed, DRAW], counter=[0, 0, epoch, number]))
            order = rng.permutation(len(members))
            ends = np.cumsum(lengths[order]) + int(rng.integers(UNIT))
            counts = np.diff(ends // UNIT, prepend=0)  # the offset is below UNIT, so nothing is marked before the first
            drawn.append(np.repeat(members[order], counts))
            times.append(np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts))
        return np.concatenate(drawn), np.concatenate(times)


def in_units(factors: np.ndarray) -> np.ndarray:
    """(N,) factors -> (N,) int64 lengths in units, whose sum is round(sum of factors), at least 1, in whole numbers."""
    total = float(factors.sum())
    count = max(1, round(total)) if total > 0 else 0
    exact = factors * (UNIT * count / total) if count else np.zeros(len(factors))
    near = np.rint(exact)
    whole = np.abs(exact - near) < 2**-8  # a factor that is a whole number stays one
    lengths = np.where(whole, near, np.floor(exact)).astype(np.int64)
    missing = count * UNIT - int(lengths.sum())
    uneven = np.flatnonzero(
        lengths % UNIT
    )  # those that may gain or lose a unit without leaving their floor and ceiling
    each, rest = divmod(missing, len(uneven)) if len(uneven) else (0, 0)
    lengths[uneven] += each
    lengths[uneven[:rest]] += 1
    return lengths
