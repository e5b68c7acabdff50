"""Classes and splits of an image folder, from the paths of its files.

    <class>/...              -> train
    train|val/<class>/...    -> train and val      (other words for them, and test without val: splits.py)

Classes are the folders of train, sorted by name and numbered from 0. The order within a split is a fixed shuffle by
a hash of the names. Files that are not used are listed with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol, TypeVar

from pretrain.data.splits import CLASS_FOLDERS, SETS, SPLITS, Parts, parts_of
from pretrain.data.tree import Tree
from shared.errors import DataError, UsageError, plural
from shared.feeding.names import DECODED, IN_SHARDS, UNDECODED
from shared.weights.card import listed

IMAGES = IN_SHARDS
OTHER_IMAGES = tuple(ending for ending in (*DECODED, *UNDECODED) if ending not in IN_SHARDS)  # reported when skipped
LEFT_OUT = "shards can contain " + ", ".join(IMAGES)


class Item(NamedTuple):
    """One image: its path inside the folder, a unique key without dots, its label."""

    path: PurePosixPath
    key: str
    label: int


class Keyed(Protocol):
    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=Keyed)


class Layout(NamedTuple):
    """Items of the splits `train` and `val`, shuffled; class names by label; everything that is not an item.

    skipped: images that are not used, others: other files, both with reasons. notes: remarks for the user.
    """

    splits: dict[str, list[Item]]
    classes: list[str]
    skipped: list[tuple[str, str]]
    others: list[tuple[str, str]]
    notes: list[str]


def layout(tree: Tree, name: str, *, val_share: float = 0.0, wrapped: bool = False) -> Layout:
    """Assign files to splits and classes by their paths.

    Args:
        tree: files and folders, in any order.
        name: of the folder, for error messages.
        val_share: fraction of the images for val, chosen by a hash of the keys; for folders without a val split.
        wrapped: skip top-level folders that contain everything, as in many tars.

    Raises:
        DataError: no images, an image outside the class folders, a class of val that train lacks, or folders that may
            be either splits or classes.
        UsageError: `val_share` for a folder with a val split.
    """
    images, skipped, others = sorted_out(tree)
    if not images:
        raise DataError(f"there is no {', '.join(IMAGES)} in {name}; {CLASS_FOLDERS}")
    depth = 0
    while wrapped and _is_wrapper(images, depth):
        depth += 1
    parts = parts_of(images, depth, name)
    classes = sorted({class_of(path, parts.depth) for path in parts.train})
    if odd := next((c for c in classes if "\n" in c or any("\ud800" <= letter <= "\udfff" for letter in c)), None):
        raise DataError(f"the name of class folder {odd!a} of {name} has a line break or is not UTF-8; rename it")
    number = {name: i for i, name in enumerate(classes)}
    for path in parts.val:
        if class_of(path, parts.depth) not in number:
            raise DataError(f"class folder '{path.parent}' of val is not in train; rename it or add it to train")
    splits = {split: list(_items(found, parts.depth, number)) for split, found in zip(SETS, parts[:2], strict=True)}
    if val_share and splits["val"]:
        raise UsageError(f"{name} has a val split; remove --val-share")
    if val_share:
        splits = shared_out(splits["train"], val_share)
    ordered = {split: shuffled(items) for split, items in splits.items()}
    notes = [*parts.notes, *_empty_classes(tree, parts, classes)]
    return Layout(ordered, classes, [*skipped, *parts.left_out], others, notes)


def sorted_out(tree: Tree) -> tuple[list[PurePosixPath], list[tuple[str, str]], list[tuple[str, str]]]:
    """Images that shards can contain; images that they cannot contain, and other files, with reasons."""
    images, skipped, others = [], [], list(tree.left_out)
    for path in sorted(tree.files):
        ending = path.suffix[1:].lower()
        if any(part.startswith(".") for part in path.parts):
            others.append((str(path), "hidden"))
        elif ending in OTHER_IMAGES:
            skipped.append((str(path), LEFT_OUT))
        elif ending in IMAGES:
            images.append(path)
        else:
            others.append((str(path), "not an image"))
    return images, skipped, others


def _empty_classes(tree: Tree, parts: Parts, classes: list[str]) -> list[str]:
    """A remark on folders among the class folders without any image that is used."""
    top = parts.train[0].parts[: parts.depth]
    found = {
        folder.parts[parts.depth]
        for folder in tree.folders
        if len(folder.parts) > parts.depth and folder.parts[: parts.depth] == top
    }
    empty = sorted(name for name in found - set(classes) if not name.startswith("."))
    return [f"no image in {plural(len(empty), 'folder')} among the classes: {listed(empty)}"] if empty else []


def _is_wrapper(images: list[PurePosixPath], depth: int) -> bool:
    names = {path.parts[depth] for path in images}
    is_train = any(SPLITS.get(name.lower()) == "train" for name in names)
    return len(names) == 1 and not is_train and all(len(path.parts) > depth + 2 for path in images)


def class_of(path: PurePosixPath, depth: int) -> str:
    if len(path.parts) < depth + 2:
        raise DataError(f"image {path} is not in a class folder; {CLASS_FOLDERS}")
    return path.parts[depth]


def _items(paths: list[PurePosixPath], depth: int, number: dict[str, int]) -> Iterator[Item]:
    keys = unique_keys(PurePosixPath(*path.parts[depth:]) for path in paths)
    for path, key in zip(paths, keys, strict=True):
        yield Item(path, key, number[class_of(path, depth)])


def key_of(path: str) -> str:
    """A path as a key: without extension, and with underscores for dots, since a key ends at the first dot.

    Nor is there a slash at its start, or `.` or `..` for a folder, since a tar must not contain them.
    """
    stem = path[: path.rfind(".")]
    if "." not in stem and "//" not in path and path[0] != "/" and stem[-1:] not in ("", "/"):
        return stem
    plain = PurePosixPath(*(part for part in path.split("/") if part not in ("", ".", "..")))
    return str(plain.parent / plain.stem.replace(".", "_"))


def unique_keys(paths: Iterable[PurePosixPath]) -> Iterator[str]:
    """The keys of paths, made unique."""
    taken: set[str] = set()
    for path in paths:
        key = base = str(path.parent / path.stem.replace(".", "_"))
        count = 1
        while key in taken:  # a.jpg and a.png
            key, count = f"{base}-{count + 1}", count + 1
        taken.add(key)
        yield key


def shared_out(items: Iterable[K], val_share: float) -> dict[str, list[K]]:
    """Items -> train and val by a hash of the keys, so that adding images moves no other image."""
    splits: dict[str, list[K]] = {"train": [], "val": []}
    for item in items:
        splits["val" if hashed(f"val {item.key}") < val_share * 2**64 else "train"].append(item)
    return splits


def shuffled(items: Iterable[K]) -> list[K]:
    """Sort by a hash of the keys, the same on every machine."""
    return sorted(items, key=lambda item: hashed(item.key))


def hashed(word: str) -> int:
    """A 64-bit hash of a string, the same on every machine."""
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogateescape")).digest()[:8])
