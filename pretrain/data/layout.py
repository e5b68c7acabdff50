"""Which file of an image folder is which class of which split.

    <class>/...              -> train
    train|val/<class>/...    -> train and val      (validation or test serve as val)

Classes are the folders of train, sorted by name and numbered from 0. The order within a split is shuffled once, by a
hash of the names, so it mixes the classes and is the same everywhere. Hidden files and folders do not exist.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, TypeVar

from shared.errors import DataError, UsageError

IMAGES = ("jpg", "jpeg", "png", "webp")
OTHER_IMAGES = ("bmp", "gif", "tif", "tiff", "avif", "heic", "jp2", "ppm", "jfif")  # named when left out
LEFT_OUT = "shards hold " + ", ".join(IMAGES)
CLASS_FOLDERS = "expected FOLDER/<class>/<image> or FOLDER/train/<class>/<image>"


class Item(NamedTuple):
    """One image: its path inside the folder, a key that no other has and that holds no dot, its class from 0."""

    path: PurePosixPath
    key: str
    label: int


class Keyed(Protocol):
    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=Keyed)


class Layout(NamedTuple):
    """Items of the splits `train` and `val`, shuffled; class names in order; images left out, with reasons."""

    splits: dict[str, list[Item]]
    classes: list[str]
    skipped: list[tuple[str, str]]


def files_of(folder: Path) -> list[PurePosixPath]:
    """Every file below a folder, links followed, as paths inside it."""
    if not folder.is_dir():
        raise DataError(f"there is no folder or tar {folder}; look at the path")
    return [
        PurePosixPath(*(Path(place) / name).relative_to(folder).parts)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
    ]


def layout(paths: Iterable[PurePosixPath], name: str, *, val_share: float = 0.0, wrapped: bool = False) -> Layout:
    """Sort files into splits and classes by their paths alone.

    Args:
        paths: files inside the folder, in any order.
        name: what to call the folder in a refusal.
        val_share: of the images go to val, chosen by a hash of their keys; for folders without a val of their own.
        wrapped: step over folders that hold everything, as tars tend to have.

    Raises:
        DataError: no images, an image outside any class folder, a class of val that train lacks.
        UsageError: a share for val where there is a val.
    """
    seen = sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))
    skipped = [(str(p), LEFT_OUT) for p in seen if p.suffix[1:].lower() in OTHER_IMAGES]
    images = [path for path in seen if path.suffix[1:].lower() in IMAGES]
    if not images:
        raise DataError(f"there is no {', '.join(IMAGES)} in {name}; {CLASS_FOLDERS}")
    depth = 0
    while wrapped and _is_wrapper(images, depth):
        depth += 1
    parts, depth = _parts(images, depth)
    classes = sorted({class_of(path, depth) for path in parts["train"]})
    if any("\n" in name for name in classes):
        raise DataError(f"a class folder of {name} has a line break in its name; rename it")
    number = {name: i for i, name in enumerate(classes)}
    for path in parts["val"]:
        if class_of(path, depth) not in number:
            raise DataError(f"class folder '{path.parent}' of val is not in train; rename it or add it to train")
    splits = {split: list(_items(part, depth, number)) for split, part in parts.items()}
    if val_share and splits["val"]:
        raise UsageError(f"{name} has a val of its own; leave the share for val at 0")
    if val_share:
        splits = shared_out(splits["train"], val_share)
    return Layout({split: shuffled(items) for split, items in splits.items()}, classes, skipped)


def _parts(images: list[PurePosixPath], depth: int) -> tuple[dict[str, list[PurePosixPath]], int]:
    """Images of each split, and how many folders lie above the class folders."""
    roots: dict[str, list[PurePosixPath]] = {}
    for path in images:
        roots.setdefault(path.parts[depth], []).append(path)
    if not any(len(path.parts) > depth + 2 for path in roots.get("train", [])):
        return {"train": images, "val": []}, depth
    val = next((root for root in ("val", "validation", "test") if root in roots), "val")
    return {"train": roots["train"], "val": roots.get(val, [])}, depth + 1


def _is_wrapper(images: list[PurePosixPath], depth: int) -> bool:
    names = {path.parts[depth] for path in images}
    return len(names) == 1 and names != {"train"} and all(len(path.parts) > depth + 2 for path in images)


def class_of(path: PurePosixPath, depth: int) -> str:
    if len(path.parts) < depth + 2:
        raise DataError(f"image {path} lies outside any class folder; {CLASS_FOLDERS}")
    return path.parts[depth]


def _items(paths: list[PurePosixPath], depth: int, number: dict[str, int]) -> Iterator[Item]:
    keys = unique_keys(PurePosixPath(*path.parts[depth:]) for path in paths)
    for path, key in zip(paths, keys, strict=True):
        yield Item(path, key, number[class_of(path, depth)])


def unique_keys(paths: Iterable[PurePosixPath]) -> Iterator[str]:
    """Paths without their extension; a key ends at the first dot of its name, so dots become underscores."""
    taken: set[str] = set()
    for path in paths:
        key = base = str(path.parent / path.stem.replace(".", "_"))
        count = 1
        while key in taken:  # a.jpg beside a.png
            key, count = f"{base}-{count + 1}", count + 1
        taken.add(key)
        yield key


def shared_out(items: Iterable[K], val_share: float) -> dict[str, list[K]]:
    """Items -> train and val; who goes where depends on the keys only, so more images move nobody."""
    splits: dict[str, list[K]] = {"train": [], "val": []}
    for item in items:
        splits["val" if hashed(f"val {item.key}") < val_share * 2**64 else "train"].append(item)
    return splits


def shuffled(items: Iterable[K]) -> list[K]:
    """By a hash of the keys: the same everywhere."""
    return sorted(items, key=lambda item: hashed(item.key))


def hashed(word: str) -> int:
    """A word -> 64 bits that are the same on every machine."""
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogateescape")).digest()[:8])
