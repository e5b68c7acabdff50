"""Input of `pretrain pack`: images of a folder, a tar, a list or TFRecords -> entries, split and in order.

    folder    class folders, or train/ and val/ of them; a tar of either is read in place; also at s3:// (elsewhere.py)
    list      a text file with `path label` per line, read by listing.py; paths are relative to its folder or --root
    tfrecord  files such as train-00000-of-01024 and validation-00000-of-00128, or *.tfrecord: a folder, a glob, one

Only names, sizes and the lengths of TFRecords are read here. Folders and lists are shuffled by a hash of the names;
TFRecords, which are usually shuffled already, are read in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from glob import glob
from pathlib import Path, PurePosixPath
from re import fullmatch
from typing import NamedTuple

from pretrain.data.layout import Layout, layout, shared_out
from pretrain.data.shards import split_of
from pretrain.data.splits import SPLITS
from pretrain.data.tfrecord import OF_MANY, is_record, record_places
from pretrain.data.tree import walk
from pretrain.packing.archive import read_archive
from pretrain.packing.elsewhere import tree_at
from pretrain.packing.listing import Entry, read_listing, split_listed
from shared.errors import DataError, UsageError

KINDS = ("folder", "list", "tfrecord")
LISTS = (".txt", ".lst", ".tsv")


class Source(NamedTuple):
    """Entries of `train` and `val` in packing order, and everything that is no entry.

    classes: names by label; None if they are in the records. skipped: images that are not packed, others: other files,
    both with reasons. notes: remarks for the user.
    """

    splits: Mapping[str, Sequence[Entry]]
    classes: list[str] | None
    skipped: list[tuple[str, str]]
    others: list[tuple[str, str]] = []
    notes: list[str] = []


def find_source(
    place: Path | str, *, kind: str | None = None, root: Path | str | None = None, val_share: float = 0.0
) -> Source:
    """List the images at a path or an address.

    Args:
        place: a folder, a tar, a text file, a TFRecord or a glob of them; a string is the address of a folder.
        kind: one of KINDS; None to recognize it.
        root: folder or address that the paths of a list are relative to; by default the list's own folder.
        val_share: fraction of the images for val, chosen by a hash of the names; for data without a val split.

    Raises:
        DataError: nothing there, or invalid input.
        UsageError: `val_share` for data with a val split; `root` without a list; an address that is none of a folder.
    """
    if isinstance(place, str):
        if root is not None or kind not in (None, "folder"):
            raise UsageError(f"{place} is the address of a folder; give a list as a local file, with --root {place}")
        return from_address(place, val_share)
    if kind is None:
        kind = kind_of(place)
    if root is not None and kind != "list":
        raise UsageError(f"--root is for lists, and {place} is a {kind}; remove it")
    if kind == "tfrecord":
        return from_tfrecords(place, val_share)
    return from_list(place, root, val_share) if kind == "list" else from_folder(place, val_share)


def kind_of(place: Path) -> str:
    """'folder' (or a tar), 'list' or 'tfrecord', from names only."""
    if is_record(place.name) or (not place.exists() and any(is_record(Path(p).name) for p in glob(str(place)))):
        return "tfrecord"
    if place.is_dir():
        return "tfrecord" if any(is_record(name) for name in _some_names(place)) else "folder"
    return "list" if place.suffix.lower() in LISTS else "folder"


def _some_names(folder: Path) -> Iterator[str]:
    """File names in a folder and its direct subfolders, where TFRecords would be."""
    for entry in os.scandir(folder):
        if entry.is_file():
            yield entry.name
        elif entry.is_dir() and entry.name.lower() in SPLITS:
            yield from (inner.name for inner in os.scandir(entry.path) if inner.is_file())


# -- class folders ----------------------------------------------------------------------------------------------------


def from_folder(place: Path, val_share: float) -> Source:
    """Class folders, or a tar of them. A tar is read in place, without extraction."""
    if place.is_file():
        tree, places = read_archive(place)
        changed = place.stat().st_mtime_ns
        return _placed(
            layout(tree, str(place), val_share=val_share, wrapped=True),
            lambda path: (str(place), *places[path], changed),
        )
    found = layout(walk(place), str(place), val_share=val_share)
    return _placed(found, lambda path: _whole_file(os.path.join(place, path)))


def from_address(address: str, val_share: float) -> Source:
    """Class folders at an address."""
    tree, places = tree_at(address)

    def where(path: PurePosixPath) -> tuple[str, int, int, int]:
        place = places[path]
        return place.address, 0, place.size, place.changed

    return _placed(layout(tree, address, val_share=val_share), where)


def _placed(found: Layout, where: Callable[[PurePosixPath], tuple[str, int, int, int]]) -> Source:
    splits = {
        split: [Entry(str(path), key, label, *where(path)) for path, key, label in items]
        for split, items in found.splits.items()
    }
    return Source(splits, found.classes, found.skipped, found.others, found.notes)


def _whole_file(path: str) -> tuple[str, int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return path, 0, 0, 0  # reading it will raise the error
    return path, 0, status.st_size, status.st_mtime_ns


# -- lists ------------------------------------------------------------------------------------------------------------


def from_list(place: Path, root: Path | str | None, val_share: float) -> Source:
    """Lines `path label`: listing.py."""
    entries, classes, skipped = read_listing(place, root)
    return Source(split_listed(entries, val_share), classes, skipped)


# -- TFRecords --------------------------------------------------------------------------------------------------------


def from_tfrecords(place: Path, val_share: float) -> Source:
    """All records of all files, in order; their labels are read when they are packed."""
    files, base, others = record_files(place)
    splits: dict[str, list[Entry]] = {"train": [], "val": []}
    skipped = []
    for file in files:
        inside, changed = file.relative_to(base), file.stat().st_mtime_ns
        if (split := split_of("-".join(inside.parts))) not in splits:
            skipped.append((str(inside), f"a file of the {split} split"))
            continue
        splits[split] += [
            Entry(f"record {n} of {inside}", f"{inside}/{n:06d}", None, str(file), at, length, changed)
            for n, (at, length) in enumerate(record_places(file))
        ]
    if not any(splits.values()):
        raise DataError(f"{place} has only TFRecords of a test split; expected files such as train-00000-of-01024")
    if val_share and splits["val"]:
        raise UsageError(f"{place} has a val split; remove --val-share")
    return Source(shared_out(splits["train"], val_share) if val_share else splits, None, skipped, others)


def record_files(place: Path) -> tuple[list[Path], Path, list[tuple[str, str]]]:
    """The TFRecords of a folder, a glob or one file, sorted; their common folder; other files in it, with reasons.

    Raises:
        DataError: none, or files of a numbered series are missing.
    """
    others: list[tuple[str, str]] = []
    if place.is_dir():
        tree = walk(place)
        files = sorted(place / path for path in tree.files if is_record(path.name))
        others = [*tree.left_out, *((str(path), "not a TFRecord") for path in tree.files if not is_record(path.name))]
        _check_complete(files)
        base = place
    else:
        files = [place] if place.is_file() else sorted(path for path in map(Path, glob(str(place))) if path.is_file())
        base = Path(os.path.commonpath([path.parent for path in files])) if files else place
    if not files:
        raise DataError(f"there are no TFRecords at {place}; expected files such as train-00000-of-01024")
    return files, base, others


def _check_complete(files: list[Path]) -> None:
    numbers: dict[tuple[str, int], set[int]] = {}
    for path in files:
        if named := fullmatch(OF_MANY, str(path)):
            numbers.setdefault((named[1], int(named[3])), set()).add(int(named[2]))
    for (stem, count), there in numbers.items():
        if missing := sorted(set(range(count)) - there):
            raise DataError(
                f"{len(missing)} of the {count} files {stem}-*-of-{count:05d} are missing, the first is number "
                f"{missing[0]}; add them, or select files with a glob"
            )
