"""Input of `pretrain pack`: images of a folder, a tar, a list or TFRecords -> entries, split and in order.

    folder    class folders, or train/ and val/ of them; a tar of either is read in place
    list      a text file with `path label` per line; paths are relative to its folder or --root, labels numbers or
    names
    tfrecord  files such as train-00000-of-01024 and validation-00000-of-00128, or *.tfrecord: a folder, a glob, one

Only names, sizes and the lengths of TFRecords are read here. Folders and lists are shuffled by a hash of the names;
TFRecords, which are usually shuffled already, are read in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path, PurePosixPath
from re import fullmatch
from typing import NamedTuple

from pretrain.data.layout import (
    IMAGES,
    LEFT_OUT,
    OTHER_IMAGES,
    Layout,
    layout,
    shared_out,
    shuffled,
    unique_keys,
)
from pretrain.data.shards import split_of
from pretrain.data.splits import SPLITS
from pretrain.data.tfrecord import MAX_CLASSES, OF_MANY, is_record, record_places
from pretrain.data.tree import walk
from pretrain.packing.archive import read_archive
from shared.errors import DataError, UsageError

KINDS = ("folder", "list", "tfrecord")
LISTS = (".txt", ".lst", ".tsv")


class Entry(NamedTuple):
    """One image to pack.

    name: for messages. key: in the shard. label: from 0; None if it is in the record. file, begin, size: location of
        its
    bytes, or of its record. changed: modification time of the file, in nanoseconds.
    """

    name: str
    key: str
    label: int | None
    file: str
    begin: int
    size: int
    changed: int


class Source(NamedTuple):
    """Entries of `train` and `val` in packing order, and everything that is no entry.

    classes: names by label; None if they are in the records. skipped: images that are not packed, others: other files,
    both with reasons. notes: remarks for the user.
    """

    splits: dict[str, list[Entry]]
    classes: list[str] | None
    skipped: list[tuple[str, str]]
    others: list[tuple[str, str]] = []
    notes: list[str] = []


def find_source(place: Path, *, kind: str | None = None, root: Path | None = None, val_share: float = 0.0) -> Source:
    """List the images at a path.

    Args:
        place: a folder, a tar, a text file, a TFRecord or a glob of them.
        kind: one of KINDS; None to recognize it.
        root: folder that the paths of a list are relative to; by default the list's own.
        val_share: fraction of the images for val, chosen by a hash of the names; for data without a val split.

    Raises:
        DataError: nothing there, or invalid input.
        UsageError: `val_share` for data with a val split; `root` without a list.
    """
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


def from_list(place: Path, root: Path | None, val_share: float) -> Source:
    """Lines `path label`, separated by a tab if there is one, else by the last space. `#` starts a comment line."""
    lines = list_lines(place)
    kept = [(path, label) for path, label in lines if _ending(path) not in OTHER_IMAGES]
    skipped = [(path, LEFT_OUT) for path, _ in lines if _ending(path) in OTHER_IMAGES]
    if odd := next((path for path, _ in kept if _ending(path) not in IMAGES), None):
        raise DataError(f"'{odd}' in {place} is not a {', '.join(IMAGES)} file; a line is `path label`")
    if not kept:
        raise DataError(f"{place} lists no {', '.join(IMAGES)} file; write a line `path label` for every image")
    classes, labels = _numbered([label for _, label in kept], place)
    # absolute paths and `..` are stripped, since a tar must not contain them
    keys = unique_keys(PurePosixPath(*(p for p in path.split("/") if p not in ("", ".", ".."))) for path, _ in kept)
    entries = [
        Entry(path, key, label, *_whole_file(os.path.join(place.parent if root is None else root, path)))
        for (path, _), key, label in zip(kept, keys, labels, strict=True)
    ]
    splits = shared_out(entries, val_share)
    return Source({split: shuffled(part) for split, part in splits.items()}, classes, skipped)


def list_lines(place: Path) -> list[tuple[str, str]]:
    """The paths and labels of a list; each path at most once."""
    if not place.is_file():
        raise DataError(f"there is no list {place}; check the path")
    first: dict[str, int] = {}
    found = []
    with place.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for n, line in enumerate(file, start=1):
            words = [word.strip() for word in line.rpartition("\t")[::2]] if "\t" in line else line.rsplit(maxsplit=1)
            if not line.strip() or line.startswith("#"):
                continue
            if len(words) < 2 or not all(words):
                raise DataError(f"line {n} of {place} is '{line.strip()[:60]}'; write `path label`")
            if words[0] in first:
                raise DataError(f"line {n} of {place} repeats '{words[0]}' of line {first[words[0]]}; keep one")
            first[words[0]] = n
            found.append((words[0].strip(), words[1]))
    return found


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix[1:].lower()


def _numbered(labels: list[str], place: Path) -> tuple[list[str], list[int]]:
    """Labels as written -> class names in order, and the number of each label; numbers are kept if all are numbers."""
    if not all(label.isascii() and label.isdigit() for label in labels):
        classes = sorted(set(labels))
        number = {name: n for n, name in enumerate(classes)}
        return classes, [number[label] for label in labels]
    numbers = [int(label) for label in labels]
    if max(numbers) >= MAX_CLASSES:
        raise DataError(
            f"{place} has a class {max(numbers)}; numbers count from 0; write names to number them automatically"
        )
    return [str(n) for n in range(max(numbers) + 1)], numbers


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
