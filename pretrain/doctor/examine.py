"""`pretrain doctor`: everything that can be known about shards before they are trained on.

shards -> index of each, read or built, none written -> damage, contents, labels and class names
       -> headers of all images; pixels on request   -> unreadable, twice, in training and validation
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.data.classes import numbered, numbers_in, read_classes, without_images
from pretrain.data.overlap import by_piece, overlap
from pretrain.data.remote import is_remote
from pretrain.data.shard_index import ChangedShard, ShardIndex, open_index
from pretrain.data.shards import ShardSet, find_shards
from pretrain.doctor.kinds import KINDS
from shared.errors import DataError, plural
from shared.feeding.headers import Picture, read_headers
from shared.feeding.image import BadImage, decode_luminance
from shared.feeding.tar import Damaged
from shared.files import cache_dir
from shared.findings import Sheet

MOST = 5  # classes in a list
PIECES = 200_000  # images of equal size to compare pieces of, at most


class Part(NamedTuple):
    """The shards of a split that can be used, and their images."""

    where: str
    images: ShardSet
    indexes: list[ShardIndex]


class Examined(NamedTuple):
    """A sheet, and the number of classes: 0 for images without, None if no training shard can be used."""

    sheet: Sheet
    classes: int | None


def examine(path: str, val_path: str | None, title: str, *, verify: bool = False, pixels: bool = False) -> Examined:
    """Look at the shards of training and validation.

    Args:
        path: as `pretrain train --data-path` takes it.
        val_path: the same for validation; None for the validation split of `path`.
        verify: read shards with an index completely as well.
        pixels: decode every image.

    Raises:
        DataError: there are no shards at the path, or they are remote.
    """
    sheet = Sheet(title, KINDS)
    training = find_shards(path, "train")
    validation = (
        find_shards(path, "val") if val_path is None else find_shards(val_path, "val") or find_shards(val_path, None)
    )
    if remote := next((shard for shard in (*training, *validation) if is_remote(shard)), None):
        raise DataError(f"{remote} is remote, and a doctor reads all of it; copy the shards to a local folder")
    for folder in dict.fromkeys(Path(shard).resolve().parent for shard in (*training, *validation)):
        left = folder.with_name(f".{folder.name}.partial")
        sheet.add("unfinished", str(folder), f"{left} holds a packing that was not finished", int(left.is_dir()))
    train = part_of(training, "training", sheet, verify=verify)
    val = part_of(validation, "validation", sheet, verify=verify) if validation else None
    if not validation:
        sheet.add("no-validation", "validation", "there are no shards of a validation split")
    for part in filter(None, (train, val)):
        examine_images(part, sheet, pixels=pixels)
    if train is not None:
        examine_copies(train, sheet)
        examine_classes(train, sheet)
    if train is not None and val is not None:
        compare(train, val, sheet)
    return Examined(sheet, None if train is None else classes_of(train, val))


def classes_of(train: Part, val: Part | None) -> int:
    """How many classes training has with these images; 0 for images without."""
    if not len(train.images.labels) or train.images.labels.max() < 0:
        return 0
    return max(part.images.num_classes for part in (train, val) if part is not None)


def part_of(shards: Sequence[str], where: str, sheet: Sheet, *, verify: bool) -> Part | None:
    """Open all shards of a split that can be opened; None if none can."""
    good: list[Path] = []
    indexes: list[ShardIndex] = []
    for shard in map(Path, shards):
        try:
            index = open_index(shard, verify=verify, keep=False)
        except DataError as refusal:
            damage = "shard-damaged" if isinstance(refusal, Damaged) else "shard-content"
            sheet.refused("shard-changed" if isinstance(refusal, ChangedShard) else damage, where, refusal)
            continue
        good.append(shard)
        indexes.append(index)
    if not good:
        return None
    names = names_of(good, where, sheet)
    bare = [shard.name for shard, index in zip(good, indexes, strict=True) if index.labels is None]
    if len(bare) == len(good):
        sheet.add("no-labels", where, "no image has a class")
    else:
        sheet.add("labels-of-some", where, f"{plural(len(bare), 'shard')} without classes", len(bare), bare)
        sheet.add("names-missing", where, "classes are numbers without names", int(names is None))
    usable = [within(index, shard, names, where, sheet) for shard, index in zip(good, indexes, strict=True)]
    try:
        images = ShardSet(good, lambda picture, _: picture, labeled=False, indexes=usable)
    except DataError as refusal:
        sheet.refused("classes-file", where, refusal)
        return None
    total = sum(map(len, (index.keys for index in indexes)))
    sheet.looked_at.append(f"{where}: {plural(len(good), 'shard')}, {plural(total, 'image')}")
    keys, counts = np.unique(np.concatenate([index.keys for index in usable]), return_counts=True)
    again = [key.decode(errors="replace") for key in keys[counts > 1][:100].tolist()]
    sheet.add(
        "key-twice", where, f"{plural(int((counts > 1).sum()), 'key')} in two shards", int((counts > 1).sum()), again
    )
    return Part(where, images, usable)


def names_of(shards: Sequence[Path], where: str, sheet: Sheet) -> list[str] | None:
    """The class names beside the first shard; findings about lists that cannot be used."""
    names: list[str] | None = None
    for folder in dict.fromkeys(shard.parent for shard in shards):
        try:
            own = read_classes(folder)
            numbered(own or [], folder / "classes.txt")
        except DataError as refusal:
            sheet.refused("classes-file", where, refusal)
            continue
        names = names if own is None or names is not None else own
    return names


def within(index: ShardIndex, shard: Path, names: list[str] | None, where: str, sheet: Sheet) -> ShardIndex:
    """The index with labels that have no name taken away, and said."""
    if index.labels is None or not names:
        return index
    wrong = np.flatnonzero(index.labels >= len(names))
    words = [
        f"class {index.labels[row]} of {shard.name}:{bytes(index.keys[row]).decode(errors='replace')}"
        for row in wrong[:100]
    ]
    what = f"{plural(len(wrong), 'image')} of a class outside the {len(names)} of classes.txt"
    sheet.add("class-outside", where, what, len(wrong), words)
    return index._replace(labels=np.where(index.labels >= len(names), -1, index.labels))


def examine_images(part: Part, sheet: Sheet, *, pixels: bool) -> None:
    """Headers of all images, and their pixels on request."""
    images = part.images
    places = [
        Picture(shard, offset, size)
        for shard, index in zip(images.shards, part.indexes, strict=True)
        for offset, size in zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    ]
    headers = read_headers(places, cache_dir() / "headers")
    wrong = {row: f"{images.name(row)}: {reason}" for row, reason in headers.reasons.items()}

    def look(row: int) -> str | None:
        try:
            decode_luminance(images.read(row))
        except (BadImage, DataError) as error:
            return f"{images.name(row)}: {error}"
        return None

    if pixels:
        rows = [row for row in range(len(images)) if row not in wrong]
        with ThreadPoolExecutor() as pool:
            wrong |= {row: words for row, words in zip(rows, pool.map(look, rows), strict=True) if words}
    words = [wrong[row] for row in sorted(wrong)]
    sheet.add("image-unreadable", part.where, f"{plural(len(wrong), 'image')} cannot be read", len(wrong), words)
    sides = headers.sizes[(headers.sizes > 0).all(axis=1)].min(axis=1, initial=1 << 30)
    if len(sides):
        low, middle, high = np.quantile(sides, (0.05, 0.5, 0.95)).tolist()
        sheet.facts[f"images of {part.where}"] = [
            f"shorter sides: {low:.0f} (5 %), {middle:.0f} (median), {high:.0f} (95 %) pixels"
        ]


def examine_copies(part: Part, sheet: Sheet) -> None:
    """Images that come twice, byte for byte."""
    images = part.images
    _, group, count = np.unique(images.file_sizes, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(count[group] > 1)[:PIECES]
    by_size: dict[int, list[int]] = {}
    for row in rows.tolist():
        by_size.setdefault(int(images.file_sizes[row]), []).append(row)
    words, extra = [], 0
    for alike in by_size.values():
        for same in (rows for rows in by_piece(images, alike).values() if len(rows) > 1):
            whole: dict[str, list[int]] = {}
            for row in same:
                whole.setdefault(hashlib.sha256(images.read(row)).hexdigest(), []).append(row)
            for copies in (rows for rows in whole.values() if len(rows) > 1):
                extra += len(copies) - 1
                words.append(" and ".join(map(images.name, copies[:2])))
    sheet.add("image-twice", part.where, f"{plural(extra, 'image')} repeat another one, byte for byte", extra, words)


def examine_classes(part: Part, sheet: Sheet) -> None:
    """Classes without images, and how the images are divided among the classes."""
    images = part.images
    if not len(images.labels) or images.labels.max() < 0:
        return
    if images.labels.min() >= 0:
        bare = without_images(images, images.num_classes, images.classes)
        sheet.add("class-without-images", part.where, f"{plural(len(bare), 'class')} without an image", len(bare), bare)
    labels, counts = np.unique(images.labels[images.labels >= 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shown = order if len(order) <= 2 * MOST else np.concatenate((order[:MOST], order[-MOST:]))
    width = len(f"{counts.max():,}")
    lines = [f"{counts[i]:>{width},}  {called(images, int(labels[i]))}" for i in shown.tolist()]
    if len(shown) < len(order):
        lines.insert(MOST, f"{'...':>{width}}  {plural(len(order) - len(shown), 'class')}")
    sheet.facts["classes of training"] = lines


def called(images: Any, label: int) -> str:
    return images.classes[label] if images.classes and label < len(images.classes) else str(label)


def compare(train: Part, val: Part, sheet: Sheet) -> None:
    """Classes and images of training and validation."""
    both, here, there = "training and validation", train.images, val.images
    used = [label for label in np.unique(there.labels).tolist() if label >= 0]
    if here.classes and there.classes:
        try:
            numbers = numbers_in(here.classes, there.classes)
        except DataError:  # a name stands twice, which is said
            numbers = np.arange(len(there.classes))
        strange = [there.classes[label] for label in used if numbers[label] < 0]
        moved = [name for label, name in enumerate(there.classes) if numbers[label] not in (-1, label)]
        what = f"{plural(len(moved), 'class')} with another number in validation than in training"
        sheet.add("class-order", both, what, len(moved), moved)
    else:
        known = set(np.unique(here.labels).tolist())
        strange = [called(there, label) for label in used if label not in known]
    what = f"{plural(len(strange), 'class')} of validation that training does not have"
    sheet.add("class-not-in-training", both, what, len(strange), strange)
    found = overlap(here, there)
    sheet.add("overlap", both, f"{found} also in training, byte for byte", found.count)
