"""Which images weights were trained on: digests beside an export, to notice a test on training images.

    weights/<arch>/<tag>/<digest>/seen-3fa9c1d07b2e.npy      one row of 64-bit words for each image, sorted
                                                             mark | fingerprint (3), or the mark alone

The mark is equal for equal files (`shared/feeding/headers.py`), so neither names nor ids matter; the fingerprint is
nearly equal for copies that were changed (`shared/feeding/fingerprint.py`), and 0 where there is none. The name
contains the sha256 of the file, which the card says in full, so one that was damaged is not believed. An export has
such a file of its own training, and those of the weights that it started from; a disk keeps the same file once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.files import file_digest
from shared.weights.card import Exported

MARK, WITH_FINGERPRINT = 1, 4  # words of a row


@dataclass(frozen=True)
class Seen:
    """An entry of the card: the images of one training.

    file, sha256: of the digests. images: their number. fingerprints: how many have one.
    kind, arch, tag: of the weights that the training made. data: where the images were.
    """

    file: str
    sha256: str
    images: int
    fingerprints: int
    kind: str
    arch: str
    tag: str
    data: str = ""

    @property
    def by(self) -> str:
        return f"{self.arch} {self.tag}"


@dataclass(frozen=True)
class Record:
    """Entries for a card, and the files that they name."""

    entries: list[Seen]
    files: list[Path]

    def on_card(self) -> list[dict[str, Any]]:
        return [asdict(entry) for entry in self.entries]


def digests_of(marks: np.ndarray, fingerprints: np.ndarray | None = None) -> np.ndarray:
    """(N,) marks, 0 for unknown, and (N, 3) fingerprints -> (M, 1) or (M, 4), sorted and without repetition."""
    columns = [marks[:, None]] if fingerprints is None else [marks[:, None], fingerprints]
    rows = np.concatenate(columns, axis=1).astype(np.uint64)[marks > 0]
    _, first = np.unique(rows[:, 0], return_index=True)
    return rows[first]


def write_digests(folder: Path, digests: np.ndarray, *, kind: str, arch: str, tag: str, data: str = "") -> Record:
    """Write the digests of a training into a folder, under a name that contains their sha256. Raises OSError."""
    aside = folder / f".seen.{os.getpid()}.npy"
    try:
        with aside.open("wb") as file:
            np.save(file, np.ascontiguousarray(digests, "<u8"), allow_pickle=False)
        sha256 = file_digest(aside)
        path = folder / f"seen-{sha256[:12]}.npy"
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    known = int(digests[:, MARK:].any(axis=1).sum())
    return Record([Seen(path.name, sha256, len(digests), known, kind, arch, tag, data)], [path])


def together(records: Sequence[Record | None]) -> Record | None:
    """Several records as one, each file once; None for none."""
    found: dict[str, tuple[Seen, Path]] = {}
    for record in records:
        if record is not None:
            pairs = zip(record.entries, record.files, strict=True)
            found |= {entry.file: (entry, path) for entry, path in pairs if entry.file not in found}
    return Record([entry for entry, _ in found.values()], [path for _, path in found.values()]) if found else None


def record_of(exported: Exported | None) -> Record | None:
    """What an export says of the images seen; None if it says nothing. Files that are missing are left out."""
    if exported is None:
        return None
    entries = [Seen(**entry) for entry in exported.card.seen]
    there = [entry for entry in entries if (exported.path / entry.file).is_file()]
    return Record(there, [exported.path / entry.file for entry in there]) if there else None


def keep(record: Record, folder: Path) -> None:
    """Put the files of a record into a folder: as further names of the same files, or as copies. Raises OSError."""
    for path in record.files:
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)


def read_digests(entry: Seen, path: Path) -> np.ndarray | None:
    """(N, 1) or (N, 4) uint64, sorted by the mark, mapped from the disk; None if the file is missing or damaged."""
    try:
        if file_digest(path) != entry.sha256:
            return None
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and found.shape[1] in (MARK, WITH_FINGERPRINT) and found.dtype == "<u8" else None


def among(marks: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """(N,) marks, digests -> (N,) bool: which of the first are among the second; never those that are 0."""
    known = np.asarray(digests[:, 0])
    places = np.minimum(np.searchsorted(known, marks), max(len(known) - 1, 0))
    return (known[places] == marks) & (marks > 0) if len(known) else np.zeros(len(marks), dtype=bool)
