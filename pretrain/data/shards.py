"""Tar shards read by offset: any sample of any shard, in any order, at the price of one read.

    find_shards(path, split) -> tar files -> an index beside each, written on first open -> ShardSet
    ShardSet.load(index, rng) -> one read at the stored offset -> decode what the view looks at -> (view, label)

A shard is a plain tar of `key.jpg|jpeg|png|webp` and `key.cls` (a number from 0), the WebDataset convention. Other
members are ignored, and nothing in a shard is executed. A truncated or damaged shard raises DataError with its name and
the byte offset.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from re import findall, search
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.classes import Joined, joined, read_classes
from pretrain.data.layout import IMAGES
from pretrain.data.remote import PACKAGES, is_remote, scheme_of, tars_at
from pretrain.data.restart_markers import decoded_view
from pretrain.data.shard_index import ShardIndex, open_index
from pretrain.data.splits import SPLITS
from pretrain.data.tfrecord import is_record
from pretrain.data.tree import refuse_detection_data
from shared.errors import BadSample, DataError
from shared.feeding.image import BadImage
from shared.feeding.tar import OpenFiles

PIECE = 1024  # bytes that tell most images apart
PACK = "pack it first with `pretrain pack FOLDER OUT`"


class ShardSet:
    """The images of local shards, as a data set for the feed.

    Args:
        shards: local tar files, in order.
        view: (3, H, W) uint8 pixels and a random generator -> a tensor, or a tuple of them for several views.
        num_classes: by default from `classes.txt` next to the shards, else the largest label + 1. Shards of several
            folders are joined by the names in their `classes.txt`.
        labeled: require a class for every image; otherwise missing labels are -1.
        verify: compare every shard with the sha256 in its index, which reads it completely.
        indexes: of the shards; None to open or build them.
    """

    def __init__(
        self,
        shards: Sequence[str | Path],
        view: Callable[[Tensor, np.random.Generator], Any],
        *,
        num_classes: int | None = None,
        labeled: bool = True,
        verify: bool = False,
        indexes: Sequence[ShardIndex] | None = None,
    ) -> None:
        self.shards, self.view = [Path(shard) for shard in shards], view
        self.unmatched: DataError | None = None  # why the classes of several folders cannot be matched
        if indexes is None:
            indexes = [open_index(shard, verify=verify) for shard in self.shards]
        self.sizes = [len(index.keys) for index in indexes]
        self.fingerprint = hashlib.sha256("".join(index.sha256 for index in indexes).encode()).hexdigest()
        self._ends = np.cumsum(self.sizes)
        self._keys = [index.keys for index in indexes]
        self._offsets = np.concatenate([index.offsets for index in indexes])
        self.file_sizes = np.concatenate([index.sizes for index in indexes])
        given = [_labels(s, i, labeled) for s, i in zip(self.shards, indexes, strict=True)]
        self.classes, self.labels = self._named(given, labeled)
        limits = [limit for limit in (num_classes, len(self.classes or ())) if limit]
        self.limit_classes(min(limits, default=int(self.labels.max()) + 1))
        self.num_classes = limits[0] if limits else self.num_classes
        self.files = OpenFiles()

    def _named(self, given: list[np.ndarray], labeled: bool) -> tuple[list[str] | None, np.ndarray]:
        """Class names of all folders, and labels numbered in that list."""
        lists = {folder: read_classes(folder) for folder in dict.fromkeys(shard.parent for shard in self.shards)}
        for start, labels, shard in zip(np.cumsum([0, *self.sizes]), given, self.shards, strict=False):
            count = len(lists[shard.parent] or ()) or sys.maxsize
            if len(beyond := np.flatnonzero(labels >= count)):
                raise outside(int(labels[beyond[0]]), self.name(int(start + beyond[0])), count)
        try:
            together = joined(lists)
        except DataError as refusal:
            if labeled:
                raise
            self.unmatched, together = refusal, Joined(None, {})
        if together.numbers:
            order = "\n".join(together.classes or ()).encode()
            self.fingerprint = hashlib.sha256(self.fingerprint.encode() + order).hexdigest()
            given = [
                np.where(labels < 0, labels, together.numbers[shard.parent][labels])
                for shard, labels in zip(self.shards, given, strict=True)
            ]
        return together.classes, np.concatenate(given)

    def __len__(self) -> int:
        return sum(self.sizes)

    def name(self, index: int) -> str:
        """`shard.tar:key`, for error messages."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        key = bytes(self._keys[shard][index - self._ends[shard]])  # relative to the shard's end, hence negative
        return f"{self.shards[shard].name}:{key.decode(errors='replace')}"

    def read(self, index: int) -> bytearray:
        """The bytes of one image file."""
        path = self.shards[np.searchsorted(self._ends, index, side="right")]
        return self.files.read(path, int(self._offsets[index]), int(self.file_sizes[index]))

    def piece(self, index: int) -> bytes:
        """Up to PIECE bytes from the middle of one image file."""
        path, size = self.shards[np.searchsorted(self._ends, index, side="right")], int(self.file_sizes[index])
        return bytes(self.files.read(path, int(self._offsets[index]) + max(size - PIECE, 0) // 2, min(size, PIECE)))

    def load(self, index: int, rng: np.random.Generator) -> tuple[Any, int]:
        """One sample: its view and its label. Raises BadSample."""
        data = self.read(index)
        try:
            return decoded_view(data, self.view, rng), int(self.labels[index])
        except BadImage as error:
            raise BadSample(self.name(index), str(error)) from None

    def collate(self, samples: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        """Samples -> (views stacked to (B, 3, H, W) uint8, or a tuple of such; labels (B,) int64)."""
        return stacked([view for view, _ in samples]), torch.tensor([label for _, label in samples])

    def limit_classes(self, count: int) -> None:
        """Set the number of classes. Raises DataError if an image has a label beyond it."""
        beyond = np.flatnonzero(self.labels >= count)
        if len(beyond):
            raise outside(int(self.labels[beyond[0]]), self.name(int(beyond[0])), count)
        self.num_classes = count


def stacked(views: list[Any]) -> Any:
    """B views -> one batch; tuples and lists of tensors are stacked item by item."""
    if isinstance(views[0], Tensor):
        return torch.stack(views)
    if isinstance(views[0], tuple | list):
        return tuple(stacked(list(part)) for part in zip(*views, strict=True))
    return torch.as_tensor(np.asarray(views))


def _labels(shard: Path, index: ShardIndex, labeled: bool) -> np.ndarray:
    if index.labels is None and labeled:
        raise DataError(f"shard {shard} has no classes (.cls members); if it holds class folders, {PACK}")
    return np.full(len(index.keys), -1, dtype=np.int64) if index.labels is None else index.labels


def find_shards(path: str | Path, split: str | None) -> list[str]:
    """The shards of one split: local files, or addresses.

    Args:
        path: a folder of tars, one tar, a glob, a range such as `train-{000000..000009}.tar`, or several of these
            joined by `::`. In a folder, or a glob that finds more than one split, a tar belongs to the split in its
            name, else to train.
        split: "train"; "val", which may be empty; None for all shards.
    """
    shards: list[str] = []
    for part in map(str.strip, str(path).split("::")):
        found = _expand(part)
        files = [place for place in found if not os.path.isdir(place)]
        # a glob like '*.tar' stands for a folder; files that are given by name are for training
        listed = scheme_of(part) in PACKAGES and len(files) > 1  # a folder or a glob of addresses
        mixed = listed or len({split_of(file) for file in files}) > 1
        for place in found:
            if os.path.isdir(place):
                shards += [shard for shard in _tars(Path(place)) if split in (None, split_of(shard))]
            elif split in (None, split_of(place)) if mixed else split != "val":
                shards.append(place)
    if not shards and split != "val":
        raise DataError(
            f"no shard of split '{split}' in {path}; their names start with {split}, as in {split}-000000.tar"
        )
    if len({is_remote(shard) for shard in shards}) > 1:
        raise DataError(f"'{path}' mixes local shards and addresses; give one kind")
    return shards


def _expand(part: str) -> list[str]:
    """One part of a path -> its files, with ranges and globs expanded."""
    part = part.removeprefix("file://")
    scheme = search(r"^([A-Za-z][A-Za-z0-9+.-]+):", part)
    if not part or (scheme and not is_remote(part)):
        raise DataError(
            f"shards are local files or addresses that start with https:// or {'://, '.join(PACKAGES)}://, and "
            f"'{part}' is neither; copy them to a local folder"
        )
    spans = findall(r"\{(\d+)\.\.(\d+)\}", part)
    if spans:
        low, high = spans[0]
        if int(high) < int(low) or int(high) - int(low) > 10**6:
            raise DataError(f"the range {{{low}..{high}}} is empty or too long; write it as {{000000..000009}}")
        words = [part.replace(f"{{{low}..{high}}}", str(n).zfill(len(low)), 1) for n in range(int(low), int(high) + 1)]
        return [found for word in words for found in _expand(word)]
    if is_remote(part):
        return tars_at(part)
    found = [part] if os.path.exists(part) else sorted(glob(part))
    if not found:
        raise DataError(f"there is nothing at '{part}'; check --data-path")
    return found


def split_of(shard: str) -> str:
    """The split in a file's name, else train."""
    words = findall(r"[a-z]+", Path(shard).stem.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


def _tars(folder: Path) -> list[str]:
    shards = sorted(map(str, folder.glob("*.tar")))
    inside = [entry for entry in folder.iterdir() if entry.name[0] != "."] if not shards else []
    if not shards:
        refuse_detection_data(folder)
    if any(entry.is_dir() or entry.suffix[1:].lower() in IMAGES for entry in inside):
        raise DataError(f"{folder} is an image folder: {PACK}")
    if any(is_record(entry.name) for entry in inside):
        raise DataError(f"{folder} contains TFRecords: {PACK}")
    if not shards:
        raise DataError(f"{folder} contains no .tar shards; check --data-path")
    return shards


def outside(label: int, name: str, count: int) -> DataError:
    return DataError(f"class {label} of {name} is outside the {count} classes; check --num-classes and classes.txt")
