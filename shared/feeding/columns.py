"""Compact, lossless storage of ragged lists of numbers, as in COCO files."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 16  # slices gathered per block


def ends(lengths: np.ndarray) -> np.ndarray:
    """Lengths (N,) -> offsets (N + 1,) int64, from 0 to their sum."""
    return np.append(0, np.cumsum(lengths, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Ragged:
    """Lists of whole numbers, one for each of N rows, as two columns.

    Args:
        values: (V,) int64, one list after another.
        ends: (N + 1,) int64: the list of row k is values[ends[k] : ends[k + 1]].
    """

    values: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, lists: Iterable[Iterable[int]]) -> Ragged:
        """The columns of N lists."""
        lists = [list(one) for one in lists]
        flat = [value for one in lists for value in one]
        return cls(np.array(flat, np.int64), ends(np.array([len(one) for one in lists], np.int64)))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """The list of a row."""
        return self.values[self.ends[row] : self.ends[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64."""
        return np.diff(self.ends)

    @property
    def rows(self) -> np.ndarray:
        """(V,) int64: the row of each value."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def select(self, keep: np.ndarray) -> Ragged:
        """(N,) bool -> the lists of these rows."""
        lengths = self.lengths
        return Ragged(self.values[np.repeat(keep, lengths)], ends(lengths[keep]))

    def only(self, keep: np.ndarray) -> Ragged:
        """(V,) bool -> the same rows with these values alone."""
        return Ragged(self.values[keep], ends(np.bincount(self.rows[keep], minlength=len(self))))


def compact(values: np.ndarray) -> np.ndarray:
    """float64 -> float32 if every number has at most three decimals, so that `exact` restores it; else float64."""
    for start in range(0, len(values), 1 << 20):
        part = values[start : start + (1 << 20)]
        if not np.array_equal(np.round(part.astype(np.float32).astype(np.float64), 3), part):
            return values.copy()
    return values.astype(np.float32)


def exact(values: np.ndarray) -> np.ndarray:
    """The inverse of `compact`, float64."""
    return np.round(values.astype(np.float64), 3) if values.dtype == np.float32 else values


def stretches(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate slices (start, length) of an array; in blocks, so that the indices take little memory."""
    found = np.empty(int(lengths.sum(dtype=np.int64)), values.dtype)
    done = 0
    for at in range(0, len(starts), BLOCK):
        begin, size = starts[at : at + BLOCK], lengths[at : at + BLOCK].astype(np.int64)
        places = np.repeat(begin - ends(size)[:-1], size) + np.arange(int(size.sum()))
        found[done : done + len(places)] = values[places]
        done += len(places)
    return found


def together(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate columns, some of which may be compact."""
    return np.concatenate(parts if len({part.dtype for part in parts}) == 1 else [exact(part) for part in parts])


def floats(values: array) -> np.ndarray:
    """An array("d") as float64, without a copy."""
    return np.frombuffer(values) if len(values) else np.zeros(0)
