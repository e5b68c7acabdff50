"""Every photograph decoded, once: damage behind the header, and what it looks like.

    files -> luminance -> cannot be decoded: damaged
                       -> 64 x 64 -> training: fingerprints           -> validation images like one of training
                                  -> validation: the pictures as well

By as many threads as there are cores and some more, since decoders and disks let the others work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch

from shared.errors import plural
from shared.feeding.fingerprint import SIDE, WORDS, fingerprints, small_luminance
from shared.feeding.image import BadImage, decode_luminance, image_header
from shared.findings import Sheet
from shared.weights.lookalikes import limit_of, look_for

TOGETHER = 32  # photographs of one task of a thread


class Files(Protocol):
    """Image files by number, as `Seen` has them."""

    def __len__(self) -> int: ...
    def name(self, row: int) -> str: ...
    def read(self, row: int) -> bytes: ...


class Looked(NamedTuple):
    """What was decoded.

    damaged: sentences about files that cannot be, by row.
    rows: (R,) int64 of those that can.
    prints: (R, 3) uint64 fingerprints, 0 for plain pictures; none if not asked for.
    pictures: (R, 64, 64) uint8; none if not asked for.
    """

    damaged: dict[int, str]
    rows: np.ndarray
    prints: np.ndarray
    pictures: np.ndarray


def look_at_pixels(files: Files, without: Collection[int] = (), *, prints: bool, pictures: bool) -> Looked:
    """Decode every file.

    Args:
        without: rows that are not read.
        prints, pictures: what to keep of each.
    """

    def look(rows: Sequence[int]) -> Looked:
        damaged, good, small = {}, [], []
        for row in rows:
            try:
                data = files.read(row)
                luminance = decode_luminance(data)
                if prints or pictures:
                    small.append(small_luminance(luminance, image_header(data).orientation))
                good.append(row)
            except (OSError, BadImage) as error:
                damaged[row] = f"{files.name(row)}: {error}"
        found = np.array(small, np.uint8).reshape(-1, SIDE, SIDE)
        marks = fingerprints(found) if prints else np.zeros((0, WORDS), np.uint64)
        return Looked(damaged, np.array(good, np.int64), marks, found if pictures else found[:0])

    left_out = set(without)
    rows = [row for row in range(len(files)) if row not in left_out]
    tasks = [rows[first : first + TOGETHER] for first in range(0, len(rows), TOGETHER)]
    with one_thread_each(), ThreadPoolExecutor() as pool:
        parts = list(pool.map(look, tasks)) or [look([])]
    damaged = {row: sentence for part in parts for row, sentence in part.damaged.items()}
    columns = zip(*(part[1:] for part in parts), strict=True)
    return Looked(damaged, *(np.concatenate(column) for column in columns))


@contextmanager
def one_thread_each() -> Iterator[None]:
    """No threads of torch inside those that decode, which are as many as the cores already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def examine_lookalikes(
    train: Files, looked: Looked, val: Files, asked: Looked, known: Collection[int], sheet: Sheet
) -> None:
    """Add a finding about validation photographs that look like one of training.

    Args:
        looked: the fingerprints of training. asked: the pictures of validation.
        known: rows of training that are the same byte for byte as one of validation, which are not said again.
    """
    keep = ~np.isin(looked.rows, list(known))
    rows, prints = looked.rows[keep], looked.prints[keep]
    if not len(rows) or not len(asked.rows):
        return
    found = look_for(asked.pictures, np.column_stack((np.zeros(len(rows), np.uint64), prints)))
    near = np.flatnonzero((found.rows >= 0) & (found.distances <= limit_of(len(asked.rows), len(rows)))).tolist()
    words = [f"{val.name(int(asked.rows[i]))} and {train.name(int(rows[found.rows[i]]))}" for i in near]
    what = f"{plural(len(near), 'validation image')} like one of training"
    sheet.add("near-overlap", "training and validation", what, len(near), words)
