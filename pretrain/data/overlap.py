"""Images that two data sets have in common, by content.

    validation images, some evenly spread -> training images of the same size in bytes
                                          -> a piece of both compared, and the whole if it is the same

An image that was encoded again is another one here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

MOST = 1000  # validation images to look at
PIECES = 100_000  # training images to read a piece of, at most


class Overlap(NamedTuple):
    """Of `looked` validation images, `count` are in the other data set as well."""

    count: int
    looked: int

    def __str__(self) -> str:
        return f"{self.count:,} of {self.looked:,} validation images"


def overlap(known: Any, asked: Any) -> Overlap:
    """How many of the images `asked` are among `known`; both are data sets of files, or subsets of one."""
    (known, known_rows), (asked, asked_rows) = whole(known), whole(asked)
    some = asked_rows[np.arange(min(MOST, len(asked_rows))) * len(asked_rows) // max(min(MOST, len(asked_rows)), 1)]
    order = known_rows[np.argsort(known.file_sizes[known_rows], kind="stable")]
    sizes = known.file_sizes[order]
    pieces: dict[int, dict[bytes, list[int]]] = {}
    count = looked = read = 0
    for row in some.tolist():
        size = int(asked.file_sizes[row])
        if size not in pieces:
            alike = order[np.searchsorted(sizes, size) : np.searchsorted(sizes, size, side="right")].tolist()
            if (read := read + len(alike)) > PIECES and looked:
                break
            pieces[size] = by_piece(known, alike)
        candidates = pieces[size].get(asked.piece(row), [])
        count += any(known.read(other) == asked.read(row) for other in candidates)
        looked += 1
    return Overlap(count, looked)


def by_piece(samples: Any, rows: list[int]) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for row in rows:
        found.setdefault(samples.piece(row), []).append(row)
    return found


def whole(samples: Any) -> tuple[Any, np.ndarray]:
    """A data set, or the one that a subset is of, and the rows of the images in it."""
    rows = np.arange(sum(samples.sizes))
    while hasattr(samples, "samples"):
        chosen = samples.indices if hasattr(samples, "indices") else samples.chosen
        samples, rows = samples.samples, chosen[rows]
    return samples, rows
