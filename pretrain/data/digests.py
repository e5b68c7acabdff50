"""Digests of the images of shards, in a file beside each: what says later whether a test image was seen in training.

    `pretrain pack`            a mark of each image's bytes             8 bytes each, for nothing
    `pretrain fingerprint`     and a fingerprint of what it shows      24 bytes more; every image is decoded small

The file's name contains the sha256 of its shard, so one of an older shard is not found. Rows are in the shard's order.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.overlap import whole
from pretrain.data.shard_index import ShardIndex, open_index
from pretrain.data.shards import ShardSet
from shared.errors import plural
from shared.feeding.fingerprint import SIDE, fingerprints, small_picture
from shared.feeding.headers import FIRST, mark_of
from shared.feeding.image import BadImage
from shared.feeding.tar import index_places, write_first
from shared.weights.seen import MARK, WITH_FINGERPRINT, digests_of

log = logging.getLogger(__name__)
BATCH = 512  # images in memory


def places(shard: Path, sha256: str) -> list[Path]:
    """Where the digests of a shard may be."""
    return index_places(shard, f".digests-{sha256[:12]}.npy")


def read_digests(shard: Path, index: ShardIndex) -> np.ndarray | None:
    """(N, 1) or (N, 4) uint64 in the shard's order; None if there are none."""
    for place in places(shard, index.sha256):
        try:
            found = np.load(place, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            continue
        if found.dtype == np.uint64 and found.shape in ((len(index.keys), MARK), (len(index.keys), WITH_FINGERPRINT)):
            return found
    return None


def write_digests(shard: Path, sha256: str, digests: np.ndarray) -> None:
    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.save(file, digests, allow_pickle=False)

    write_first(places(shard, sha256), write)


def fingerprint_shard(shard: Path, jobs: int, tick: Callable[[int], None]) -> int | None:
    """Write marks and fingerprints of a shard; how many images have no fingerprint, None if all was there.

    Args:
        jobs: threads that decode.
        tick: called with the number of images that were done.

    Raises:
        DataError: the shard is damaged or cannot be read.
    """
    index = open_index(shard)
    known = read_digests(shard, index)
    if known is not None and known.shape[1] == WITH_FINGERPRINT:
        tick(len(known))
        return None
    parts = []
    with shard.open("rb") as file, ThreadPoolExecutor(jobs) as pool:
        spots = list(zip(index.offsets.tolist(), index.sizes.tolist(), strict=True))
        for first in range(0, len(spots), BATCH):
            part = spots[first : first + BATCH]
            looked = list(pool.map(lambda spot: look(os.pread(file.fileno(), spot[1], spot[0])), part))
            marks, pictures = zip(*looked, strict=True)
            parts.append(np.column_stack([np.array(marks, np.uint64), fingerprints(np.stack(pictures))]))
            tick(len(part))
    digests = np.concatenate(parts)
    write_digests(shard, index.sha256, digests)
    return int((~digests[:, MARK:].any(axis=1)).sum())


def look(data: bytes) -> tuple[int, np.ndarray]:
    """Mark and (64, 64) small picture of an image file; a plain picture for one that cannot be decoded."""
    try:
        picture = small_picture(data)
    except BadImage:
        picture = np.zeros((SIDE, SIDE), np.uint8)
    return mark_of(data[:FIRST], len(data)), picture


def seen_in(samples: Any, *, tell: bool = True) -> np.ndarray | None:
    """Digests of the images of a data set of shards, or of a subset of one; None if a shard has none.

    Args:
        tell: log that a shard has none.
    """
    if not isinstance(full := whole_set(samples), ShardSet):
        log.info("streamed shards have no digests: nobody can check later whether test images were among them")
        return None
    found = list(_of_shards(full))
    if lacking := [shard for shard, digests in zip(full.shards, found, strict=True) if digests is None]:
        log.log(
            logging.INFO if tell else logging.DEBUG,
            "%s of the data have no digests, such as %s: nobody can check later whether test images were seen; "
            "`pretrain fingerprint %s` writes them",
            plural(len(lacking), "shard"),
            lacking[0].name,
            full.shards[0].parent,
        )
        return None
    columns = min(digests.shape[1] for digests in found if digests is not None)
    rows = np.concatenate([digests[:, :columns] for digests in found if digests is not None])[whole(samples)[1]]
    return digests_of(rows[:, 0], rows[:, 1:] if columns > MARK else None)


def _of_shards(samples: ShardSet) -> Iterator[np.ndarray | None]:
    for shard in samples.shards:
        yield read_digests(shard, open_index(shard))


def whole_set(samples: Any) -> Any:
    """A data set, or the one that a subset is of."""
    while hasattr(samples, "samples"):
        samples = samples.samples
    return samples
