"""Which samples weights were trained on: 32-bit hashes beside an export, to notice a test on training data.

    weights/<arch>/<tag>/<digest>/seen.u32      sorted, little-endian, 4 bytes for each sample

The hashes are of the contents' marks (`shared/feeding/headers.py`), so neither names nor ids matter. They include those
of the weights that the training started from. A file that is damaged or missing means that nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

NAME = "seen.u32"


def hashes_of(marks: np.ndarray) -> np.ndarray:
    """(N,) uint64 marks -> (N,) uint32; the mark 0, of a file that cannot be read, gives 0."""
    return ((marks ^ (marks >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def joined(parts: Iterable[np.ndarray | None]) -> np.ndarray:
    """Hashes of several trainings -> all of them, sorted, without 0."""
    every = np.concatenate([np.zeros(0, np.uint32), *(part for part in parts if part is not None)])
    found = np.unique(every)
    return found[found > 0]


def write_seen(folder: Path, hashes: np.ndarray) -> None:
    """Write sorted hashes into a folder. Raises OSError."""
    (folder / NAME).write_bytes(hashes.astype("<u4").tobytes())


def read_seen(folder: Path) -> np.ndarray | None:
    """The hashes beside an export; None if there are none."""
    try:
        content = (folder / NAME).read_bytes()
    except OSError:
        return None
    hashes = np.frombuffer(content[: len(content) // 4 * 4], "<u4").astype(np.uint32)
    return hashes if len(content) % 4 == 0 and (hashes[1:] > hashes[:-1]).all() else None


def among(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(N,) and sorted (M,) uint32 -> (N,) bool: which of the first are among the second; never those that are 0."""
    return np.isin(hashes, known) & (hashes > 0)
