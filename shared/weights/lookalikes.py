"""Pictures among millions of fingerprints: copies that were encoded again, resized, mirrored or cropped.

    fingerprints, 24 bytes each -> rows by their 24 lowest bits (fewer, for fewer rows)
    pictures to look for        -> over 72 windows, and mirrored: these bits, the 7 least certain ones in both states
                                -> rows with the same, compared in all 192 bits -> near ones, over 450 windows

A row is the same picture if at most `limit` bits differ. Chance agreement grows with the number of pairs that are
compared, so the limit falls: 40 bits for up to a million pairs, and 4 less for each ten times as many. What that finds,
and misses, is measured in recipes/README.md.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from shared.feeding.fingerprint import BITS, COARSE, FINE, MIRRORED, PLAIN, over_windows, packed

SURE, PAIRS, PER_TEN, STRICTEST = 40, 1e6, 4, 16  # bits, and pairs of pictures
ROUGH = 16  # bits that a coarse window may differ more than the best one
UNCERTAIN = 7  # bits of a key that are tried in both states
KEY, SPARSE = (12, 24), 3  # bits of a key, fewest and most, and beyond those that number the rows
TOGETHER = 50  # pictures that are looked for at a time
AT_ONCE = 1 << 20  # rows compared at a time


class Found(NamedTuple):
    """For each of N pictures, the nearest row that was compared.

    rows: (N,) int64, -1 for none. distances: (N,) int64 bits, of 192; 192 for none.
    """

    rows: np.ndarray
    distances: np.ndarray


def limit_of(pictures: int, rows: int) -> int:
    """Most bits in which the same picture may differ, where so many are looked for among so many."""
    beyond = math.log10(max(pictures * rows, PAIRS) / PAIRS)
    return max(STRICTEST, round(SURE - PER_TEN * beyond))


class Index:
    """Rows by the lowest bits of their fingerprints.

    Args:
        digests: (M, 4) uint64, mark and fingerprint; may be mapped from a disk.
    """

    def __init__(self, digests: np.ndarray) -> None:
        self.digests = digests
        self.bits = min(max(math.ceil(math.log2(max(len(digests), 1))) + SPARSE, KEY[0]), KEY[1])
        self.rows, keys = self._sorted()
        self.ends = np.empty(1 << self.bits, np.uint32)
        for first in range(0, len(self.ends), AT_ONCE):
            part = np.arange(first, min(first + AT_ONCE, len(self.ends)), dtype=np.uint64)
            self.ends[first : first + len(part)] = np.searchsorted(keys, part, side="right")

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows that have a fingerprint, sorted by their keys, and the keys."""
        both, count = np.empty(len(self.digests), np.uint64), 0
        for first in range(0, len(both), AT_ONCE):
            part = np.asarray(self.digests[first : first + AT_ONCE])
            known = np.flatnonzero(part[:, 1] | part[:, 2] | part[:, 3])  # plain pictures have none
            keys = part[known, 1] & np.uint64((1 << self.bits) - 1)
            both[count : count + len(known)] = keys << np.uint64(32) | (known + first).astype(np.uint64)
            count += len(known)
        both = both[:count]
        both.sort()
        rows = both.astype(np.uint32)  # the lower half
        both >>= np.uint64(32)
        return rows, both

    def with_keys(self, keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(K,) keys -> which key, and row, of all rows that have it; some of them at a time."""
        begins = np.where(keys > 0, self.ends[keys - 1], 0).astype(np.int64)
        counts = self.ends[keys].astype(np.int64) - begins
        full = np.flatnonzero(counts)
        begins, counts = begins[full], counts[full]
        sums = np.cumsum(counts)
        first = 0
        while first < len(full):
            before = sums[first - 1] if first else 0
            last = max(int(np.searchsorted(sums, before + AT_ONCE, side="right")), first + 1)
            part = counts[first:last]
            which = np.repeat(np.arange(first, last), part)
            offsets = np.arange(len(which)) - np.repeat(np.cumsum(part) - part, part)
            yield full[which], self.rows[begins[which] + offsets]
            first = last


def look_for(pictures: np.ndarray, digests: np.ndarray) -> Found:
    """(N, 64, 64) small pictures, (M, 4) digests -> the nearest row of each."""
    rows, distances = np.full(len(pictures), -1), np.full(len(pictures), BITS)
    index, reach = Index(digests), limit_of(len(pictures), len(digests)) + ROUGH
    for first in range(0, len(pictures), TOGETHER):
        part = pictures[first : first + TOGETHER]
        near = _near(over_windows(part, COARSE), index, reach)
        for picture in np.unique(near[0]):
            candidates = near[1][near[0] == picture]
            looks = packed(over_windows(part[picture : picture + 1], FINE))[0]
            bits = _bits(digests[candidates, None, 1:], np.concatenate([looks, looks ^ MIRRORED])).min(axis=1)
            best = int(bits.argmin())
            rows[first + picture], distances[first + picture] = candidates[best], bits[best]
    plain = pictures.std(axis=(1, 2)) < PLAIN
    rows[plain], distances[plain] = -1, BITS
    return Found(rows, distances)


def _near(coefficients: np.ndarray, index: Index, reach: int) -> np.ndarray:
    """(n, W, 192) coefficients -> (2, K) pictures, and rows that differ in at most `reach` bits over a window."""
    words, low = packed(coefficients), np.abs(coefficients[..., : index.bits])
    weak = np.argpartition(low, UNCERTAIN - 1, axis=-1)[..., :UNCERTAIN].astype(np.uint64)
    choices = np.array(list(itertools.product((0, 1), repeat=UNCERTAIN)), np.uint64)
    flips = ((np.uint64(1) << weak) @ choices.T).reshape(-1, len(choices))
    pairs = [np.zeros((2, 0), np.int64)]
    for mirror in (np.zeros(3, np.uint64), MIRRORED):
        asked = (words ^ mirror).reshape(-1, 3)
        keys = ((asked[:, :1] & np.uint64((1 << index.bits) - 1)) ^ flips).astype(np.int64)
        for which, rows in index.with_keys(keys.ravel()):
            window = which // len(choices)
            near = _bits(index.digests[rows, 1:], asked[window]) <= reach
            pairs.append(np.stack([window[near] // words.shape[1], rows[near].astype(np.int64)]))
    return np.unique(np.concatenate(pairs, axis=1), axis=1)


def _bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(..., 3) and (..., 3) uint64 -> (...) uint8, the number of bits that differ."""
    counts = np.bitwise_count(first ^ second)
    return counts[..., 0] + counts[..., 1] + counts[..., 2]
