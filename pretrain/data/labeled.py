"""Labeled training and validation images for kNN and linear probes, from shards or folders.

    path, val path -> two data sets with the same classes -> a fixed random subset of each, if not all -> batches

Both use a center crop. Data sets that cannot be compared raise DataError here, before anything is computed.
"""

from __future__ import annotations

import hashlib
import logging
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.data.classes import name_of, numbered_alike
from pretrain.data.folder import View, image_folders
from pretrain.data.remote import is_remote
from pretrain.data.shards import ShardSet, find_shards
from shared.errors import BadSample, DataError
from shared.feeding.limit import Limited
from shared.weights.card import listed

log = logging.getLogger(__name__)
TRIES = 100  # consecutive unreadable images to skip


class Labeled(NamedTuple):
    """Training images and validation images; `num_classes` is of both."""

    known: Any
    asked: Any
    num_classes: int


class Chosen:
    """A subset of a data set; the other samples are never read.

    Args:
        samples: the data set, with `labels`.
        indices: of the samples.
        forgiving: replace an unreadable sample by the next one, as in training.
    """

    def __init__(self, samples: Any, indices: np.ndarray, *, forgiving: bool = False) -> None:
        self.samples, self.indices, self.forgiving = samples, indices, forgiving
        self.sizes, self.labels = [len(indices)], samples.labels[indices]
        self.fingerprint = hashlib.sha256(samples.fingerprint.encode() + indices.tobytes()).hexdigest()

    def load(self, index: int, rng: np.random.Generator) -> Any:
        stand_ins = TRIES if self.forgiving else 0
        while True:
            try:
                return self.samples.load(int(self.indices[index % len(self.indices)]), rng)
            except BadSample:  # the feed reports it in training
                if stand_ins == 0:
                    raise
                index, stand_ins = index + 1, stand_ins - 1

    def collate(self, samples: list[Any]) -> Any:
        return self.samples.collate(samples)

    def seen_as(self, view: View) -> Chosen:
        """The same samples with another view."""
        return Chosen(seen_as(self.samples, view), self.indices)


def seen_as(samples: Any, view: Any) -> Any:
    """The same data set with another view."""
    other = copy(samples)
    other.view = view
    return other


def choose(samples: Any, most: int, *, limit: int | None = None, forgiving: bool = False) -> Chosen:
    """A fixed random subset of at most `most` samples; 0 for all.

    Args:
        limit: choose from the samples that a run with this `--limit` uses.
    """
    pool = np.arange(sum(samples.sizes)) if limit is None else Limited(samples, limit).chosen
    if 0 < most < len(pool):
        pool = np.sort(np.random.Generator(np.random.Philox(key=[0, 0])).choice(pool, most, replace=False))
    return Chosen(samples, pool, forgiving=forgiving)


def open_labeled(path: str, val_path: str | None, view: View) -> Labeled:
    """Two labeled data sets of the same classes.

    Args:
        path: shards, or a folder of class folders, for training.
        val_path: the same for validation; by default the validation split of `path`.

    Raises:
        DataError: no labels, no validation images, or different classes.
    """
    known, aside = open_sets(path, view)
    if val_path is not None:
        first, second = open_sets(val_path, view, split="val")
        aside = second or first
    if known is None or aside is None:
        raise DataError(f"{path} has no validation images; give some with --val-path")
    return same_classes(known, aside)


def open_sets(path: str, view: View, split: str = "train") -> tuple[Any, Any]:
    """Images of `split` at a path, or all if it has no such split, and the validation images next to them."""
    if Path(path).is_dir() and not any(Path(path).glob("*.tar")):
        return image_folders(Path(path), view)
    shards = find_shards(path, split) or find_shards(path, None)
    val = [shard for shard in find_shards(path, "val") if shard not in shards]
    if any(is_remote(shard) for shard in shards):
        raise DataError(
            f"{path} is remote, and streamed shards have no random access; copy the shards to a local folder"
        )
    return tuple(ShardSet(found, view) if found else None for found in (shards, val))  # type: ignore[return-value]


def same_classes(known: Any, asked: Any) -> Labeled:
    """The two data sets with matching labels.

    Raises:
        DataError: images without a label, or different classes.
    """
    for samples in (known, asked):
        if len(samples.labels) and samples.labels.min() < 0:
            raise DataError("a probe needs class labels, and these images have none; give labeled images")
    asked = numbered_alike(known, asked)
    here, there = set(known.labels.tolist()), set(asked.labels.tolist())
    if there - here:
        strange = [name_of(label, asked.classes) for label in sorted(there - here)]
        raise DataError(
            f"the validation images have classes that the training images lack: {listed(strange)}; "
            f"give two data sets with the same classes"
        )
    if here - there:
        absent = [name_of(label, known.classes) for label in sorted(here - there)]
        log.info("no validation image is of %s", listed(absent))
    return Labeled(known, asked, int(max(known.labels.max(), asked.labels.max())) + 1)
