"""Classes and splits of an image folder, from the paths of its files.

    <class>/...              -> train
    train|val/<class>/...    -> train and val      (validation or test serve as val)

Classes are the folders of train, sorted by name and numbered from 0. The order within a split is a fixed shuffle by
a hash of the names. Hidden files and folders are ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol, TypeVar

from shared.errors import DataError, UsageError

IMAGES = ("jpg", "jpeg", "png", "webp")
OTHER_IMAGES = ("bmp", "gif", "tif", "tiff", "avif", "heic", "jp2", "ppm", "jfif")  # reported when skipped
LEFT_OUT = "shards can contain " + ", ".join(IMAGES)
SPLITS = {  # of folders and shards, by a word of their names
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}
CLASS_FOLDERS = "expected FOLDER/<class>/<image> or FOLDER/train/<class>/<image>"


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
    """Items of the splits `train` and `val`, shuffled; class names by label; skipped images with reasons."""

    splits: dict[str, list[Item]]
    classes: list[str]
    skipped: list[tuple[str, str]]


def files_of(folder: Path) -> list[PurePosixPath]:
    """All files below a folder, following links, as relative paths."""
    if not folder.is_dir():
        raise DataError(f"there is no folder or tar {folder}; check the path")
    return [
        PurePosixPath(*(Path(place) / name).relative_to(folder).parts)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
    ]


def layout(paths: Iterable[PurePosixPath], name: str, *, val_share: float = 0.0, wrapped: bool = False) -> Layout:
    """Assign files to splits and classes by their paths.

    Args:
        paths: files inside the folder, in any order.
        name: of the folder, for error messages.
        val_share: fraction of the images for val, chosen by a hash of the keys; for folders without a val split.
        wrapped: skip top-level folders that contain everything, as in many tars.

    Raises:
        DataError: no images, an image outside the class folders, a class of val that train lacks.
        UsageError: `val_share` for a folder with a val split.
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
        raise UsageError(f"{name} has a val split; remove --val-share")
    if val_share:
        splits = shared_out(splits["train"], val_share)
    return Layout({split: shuffled(items) for split, items in splits.items()}, classes, skipped)


def _parts(images: list[PurePosixPath], depth: int) -> tuple[dict[str, list[PurePosixPath]], int]:
    """Images of each split, and the depth of the class folders."""
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
        raise DataError(f"image {path} is not in a class folder; {CLASS_FOLDERS}")
    return path.parts[depth]


def _items(paths: list[PurePosixPath], depth: int, number: dict[str, int]) -> Iterator[Item]:
    keys = unique_keys(PurePosixPath(*path.parts[depth:]) for path in paths)
    for path, key in zip(paths, keys, strict=True):
        yield Item(path, key, number[class_of(path, depth)])


def unique_keys(paths: Iterable[PurePosixPath]) -> Iterator[str]:
    """Unique keys from paths: without extension, and with underscores for dots, since a key ends at the first dot."""
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
