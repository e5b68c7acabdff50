"""An image folder -> WebDataset shards with an index beside each: `pretrain pack FOLDER OUT`.

    FOLDER/<class>/...            -> OUT/train-000000.tar ... classes.txt     (and val-*, if asked for a share)
    FOLDER/train|val/<class>/...  -> OUT/train-*.tar, val-*.tar, classes.txt  (validation or test serve as val)
    a .tar of either              -> the same, read in place

Image files are kept byte for byte. Their order is shuffled once, by a hash of their names, so that every shard holds
all kinds of classes and the same folder always gives the same shards. Everything is written into a folder aside that
takes its name last: OUT is whole or absent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from pretrain.shards import IMAGES, OpenFile, members, open_index
from shared.errors import DataError, UsageError
from shared.image import BadImage, decode_image, image_size

OTHER_IMAGES = ("bmp", "gif", "tif", "tiff", "avif", "heic", "jp2", "ppm", "jfif")  # named when left out
CLASS_FOLDERS = "expected FOLDER/<class>/<image> or FOLDER/train/<class>/<image>"


@dataclass(frozen=True)
class Packed:
    """What was written: samples per split, classes, shards, bytes of image files; what was left out, with reasons."""

    samples: dict[str, int]
    classes: list[str]
    shards: int
    bytes: int
    skipped: list[tuple[str, str]]


class Source(NamedTuple):
    """Files of a folder or a tar: their paths inside it, and how to read one."""

    paths: list[PurePosixPath]
    read: Callable[[PurePosixPath], bytes]


class Item(NamedTuple):
    """One image on its way into a shard."""

    path: PurePosixPath
    key: str
    label: int


def pack(
    folder: str | Path,
    out: str | Path,
    *,
    shard_size: int = 10_000,
    shard_bytes: int = 2 * 10**9,
    val_share: float = 0.0,
    verify: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Write the images of class folders into shards.

    Args:
        folder: class folders, or train and val folders of them, or a plain tar of either.
        out: a folder that is empty or does not exist yet.
        shard_size, shard_bytes: samples and bytes at which a shard is full.
        val_share: of the images go to val, chosen by a hash of the name; for folders without a val of their own.
        verify: decode every image instead of reading its header only.
        progress: told the images done and their total.

    Raises:
        DataError: no class folders, nothing readable, or `out` holds something.
        UsageError: a number out of range.
    """
    folder, out = Path(folder), Path(out)
    if shard_size < 1 or shard_bytes < 1 or not 0 <= val_share < 1:
        raise UsageError("shards hold at least one sample, and the share for val is from 0 to below 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already and not empty; name another folder or remove it first")
    source = _from_tar(folder) if folder.is_file() else _from_folder(folder)
    splits, classes, skipped = _layout(source.paths, str(folder), val_share, wrapped=folder.is_file())
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    writer = Writer(partial, source, shard_size, shard_bytes, verify, progress, sum(map(len, splits.values())))
    try:
        partial.mkdir(parents=True)
        (partial / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        for split, items in splits.items():
            writer.split(split, items)
        if not writer.samples["train"]:
            raise DataError(f"no image of {folder} can be read, for example {writer.skipped[0]}; look at the files")
        partial.replace(out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}; make room or name another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Packed(dict(writer.samples), classes, writer.shards, writer.bytes, skipped + writer.skipped)


@dataclass
class Writer:
    """Shards of one output folder, one split after another; counts what it writes."""

    folder: Path
    source: Source
    shard_size: int
    shard_bytes: int
    verify: bool
    progress: Callable[[int, int], None]
    total: int
    samples: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    shards: int = 0
    bytes: int = 0
    done: int = 0

    def split(self, split: str, items: list[Item]) -> None:
        """Write the shards of one split; those without a readable image leave none behind."""
        from webdataset.writer import ShardWriter  # slow to import

        options: dict[str, Any] = {"encoder": False, "mtime": 0, "format": "PAX_FORMAT"}  # same input, same bytes
        writer = None
        for path, key, label in items:
            data = self.readable(path)
            if data is not None:
                if writer is None:  # it opens its first shard at once
                    pattern = str(self.folder / split).replace("%", "%%") + "-%06d.tar"
                    writer = ShardWriter(
                        pattern, self.shard_size, self.shard_bytes, self.close, 0, 0, self.open, **options
                    )
                writer.write({"__key__": key, path.suffix[1:].lower(): data, "cls": str(label).encode()})
                self.samples[split] += 1
                self.bytes += len(data)
            self.done += 1
            self.progress(self.done, self.total)
        if writer is not None:
            writer.close()

    def readable(self, path: PurePosixPath) -> bytes | None:
        try:
            data = self.source.read(path)
            if self.verify:
                decode_image(data, upright=True)
            else:
                image_size(data)
            return data
        except (BadImage, OSError) as error:
            self.skipped.append((str(path), str(error)))
            return None

    def open(self, name: str):
        self.file = open(name, "wb")  # noqa: SIM115 - `close` closes it
        return self.file

    def close(self, name: str) -> None:
        """A shard is whole: bring it to disk, and read it back for its index."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        open_index(Path(name))
        self.shards += 1


def _from_folder(folder: Path) -> Source:
    if not folder.is_dir():
        raise DataError(f"there is no folder or tar {folder}; look at the path")
    paths = [
        PurePosixPath(*(Path(place) / name).relative_to(folder).parts)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
    ]
    return Source(paths, lambda path: (folder / path).read_bytes())


def _from_tar(path: Path) -> Source:
    """A tar is read where it lies: members are found in one pass, then read by offset. Nothing is extracted."""
    found = {PurePosixPath(m.name): (m.offset_data, m.size) for m in members(path) if m.isreg() and not m.issparse()}
    file = OpenFile(path)

    def read(name: PurePosixPath) -> bytes:
        offset, size = found[name]
        return os.pread(file.descriptor, size, offset)

    return Source(list(found), read)


Splits = dict[str, list[Item]]


def _layout(
    paths: list[PurePosixPath], name: str, val_share: float, *, wrapped: bool
) -> tuple[Splits, list[str], list[tuple[str, str]]]:
    """Which file is which class of which split -> (items by split in the order of writing, classes, left out)."""
    seen = sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))
    skipped = [(str(p), "shards hold " + ", ".join(IMAGES)) for p in seen if p.suffix[1:].lower() in OTHER_IMAGES]
    images = [path for path in seen if path.suffix[1:].lower() in IMAGES]
    if not images:
        raise DataError(f"there is no {', '.join(IMAGES)} in {name}; {CLASS_FOLDERS}")
    depth = 0
    while wrapped and _is_wrapper(images, depth):  # tars tend to hold one folder that holds everything
        depth += 1
    roots: dict[str, list[PurePosixPath]] = {}
    for path in images:
        roots.setdefault(path.parts[depth], []).append(path)
    if any(len(path.parts) > depth + 2 for path in roots.get("train", [])):
        val = next((root for root in ("val", "validation", "test") if root in roots), "val")
        parts, depth = {"train": roots["train"], "val": roots.get(val, [])}, depth + 1
    else:
        parts = {"train": images, "val": []}
    classes = sorted({_class_of(path, depth) for path in parts["train"]})
    if any("\n" in name for name in classes):
        raise DataError(f"a class folder of {name} has a line break in its name; rename it")
    for path in parts["val"]:
        if _class_of(path, depth) not in classes:
            raise DataError(f"class folder '{path.parent}' of val is not in train; rename it or add it to train")
    number = {name: i for i, name in enumerate(classes)}
    splits = {split: list(_items(part, depth, number)) for split, part in parts.items()}
    if val_share and parts["val"]:
        raise UsageError(f"{name} has a val of its own; leave the share for val at 0")
    if val_share:
        splits = {"train": [], "val": []}
        for item in _items(images, depth, number):
            splits["val" if _hash(f"val {item.key}") < val_share * 2**64 else "train"].append(item)
    return {split: sorted(items, key=lambda item: _hash(item.key)) for split, items in splits.items()}, classes, skipped


def _is_wrapper(images: list[PurePosixPath], depth: int) -> bool:
    names = {path.parts[depth] for path in images}
    return len(names) == 1 and names != {"train"} and all(len(path.parts) > depth + 2 for path in images)


def _class_of(path: PurePosixPath, depth: int) -> str:
    if len(path.parts) < depth + 2:
        raise DataError(f"image {path} lies outside any class folder; {CLASS_FOLDERS}")
    return path.parts[depth]


def _items(paths: list[PurePosixPath], depth: int, number: dict[str, int]) -> Iterator[Item]:
    """Keys are the path without its extension; a key ends at the first dot of its name, so dots become underscores."""
    taken: set[str] = set()
    for path in paths:
        inner = PurePosixPath(*path.parts[depth:])
        key = base = str(inner.parent / inner.stem.replace(".", "_"))
        count = 1
        while key in taken:  # a.jpg beside a.png
            key, count = f"{base}-{count + 1}", count + 1
        taken.add(key)
        yield Item(path, key, number[_class_of(path, depth)])


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogateescape")).digest()[:8])
