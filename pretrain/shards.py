"""Tar shards read by offset: any sample of any shard, in any order, at the price of one read.

    find_shards(path, split) -> tar files -> an index beside each, written on first open -> ShardSet
    ShardSet.load(index, rng) -> one read at the stored offset -> decode -> view -> (view, label)

A shard is a plain tar of `key.jpg|jpeg|png|webp` and `key.cls` (a number from 0), the WebDataset convention. Other
members are ignored, and nothing in a shard is ever executed. A shard that is cut, damaged or odd is refused with its
name and the byte where it goes wrong; it is never silently shorter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from glob import glob
from pathlib import Path
from re import findall, search
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared.errors import BadSample, DataError
from shared.image import BadImage, decode_image

log = logging.getLogger(__name__)

IMAGES = ("jpg", "jpeg", "png", "webp")
PACK = "pack it first with `pretrain pack FOLDER OUT`"
VERSION = 1  # of the index
HEAD = 4096  # bytes at a shard's start, by which a shard written anew at the same size is noticed
BLOCK = tarfile.BLOCKSIZE
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class ShardIndex(NamedTuple):
    """Where the N images of one shard are: keys (N,) as bytes; offsets, sizes and, if it has any, labels (N,) int64."""

    sha256: str
    keys: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray | None


class ShardSet:
    """The images of some shards, by number; a `Samples` for the feed.

    Args:
        shards: local tar files, in order.
        view: (3, H, W) uint8 pixels and random numbers -> a tensor, or a tuple of them for methods with many views.
        num_classes: of the network; by default what `classes.txt` beside the shards says, else the largest label + 1.
        labelled: insist on a class for every image; otherwise labels may be missing and are -1.
        verify: compare every shard with the sha256 in its index, which reads all of it.
    """

    def __init__(
        self,
        shards: Sequence[str | Path],
        view: Callable[[Tensor, np.random.Generator], Any],
        *,
        num_classes: int | None = None,
        labelled: bool = True,
        verify: bool = False,
    ) -> None:
        self.shards, self.view = [Path(shard) for shard in shards], view
        indexes = [open_index(shard, verify=verify) for shard in self.shards]
        self.sizes = [len(index.keys) for index in indexes]
        self.fingerprint = hashlib.sha256("".join(index.sha256 for index in indexes).encode()).hexdigest()
        self._ends = np.cumsum(self.sizes)
        self._keys = [index.keys for index in indexes]
        self._offsets = np.concatenate([index.offsets for index in indexes])
        self._bytes = np.concatenate([index.sizes for index in indexes])
        self.labels = np.concatenate([_labels(s, i, labelled) for s, i in zip(self.shards, indexes, strict=True)])
        self.classes = read_classes(self.shards[0].parent)
        limits = [limit for limit in (num_classes, len(self.classes or ())) if limit]
        self.num_classes = limits[0] if limits else int(self.labels.max()) + 1
        self._check_classes(min(limits, default=self.num_classes))
        self._open = lru_cache(maxsize=64)(OpenFile)

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getstate__(self) -> dict[str, Any]:  # open files do not travel to worker processes
        return {**vars(self), "_open": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _open=lru_cache(maxsize=64)(OpenFile))

    def name(self, index: int) -> str:
        """What a person would look for: `shard.tar:key`."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        key = bytes(self._keys[shard][index - self._ends[shard]])  # counted from the shard's end, hence negative
        return f"{self.shards[shard].name}:{key.decode(errors='replace')}"

    def read(self, index: int) -> bytearray:
        """The bytes of one image file, as they stand in the shard."""
        path = self.shards[np.searchsorted(self._ends, index, side="right")]
        data = bytearray(int(self._bytes[index]))
        try:
            count = os.preadv(self._open(path).descriptor, [data], int(self._offsets[index]))
        except OSError as error:
            raise DataError(f"cannot read shard {path}: {error.strerror}; look at the disk or --data-path") from None
        if count != len(data):
            raise damaged(path, int(self._offsets[index]) + count, "the shard has become shorter")
        return data

    def load(self, index: int, rng: np.random.Generator) -> tuple[Any, int]:
        """One sample: what the view makes of it, and its class. Raises BadSample."""
        data = self.read(index)
        try:
            image = decode_image(data, upright=True)
        except BadImage as error:
            raise BadSample(self.name(index), str(error)) from None
        return self.view(image, rng), int(self.labels[index])

    def collate(self, samples: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        """Samples -> (views stacked to (B, 3, H, W) uint8, tuples staying tuples; labels (B,) int64)."""
        return stacked([view for view, _ in samples]), torch.tensor([label for _, label in samples])

    def _check_classes(self, count: int) -> None:
        beyond = np.flatnonzero(self.labels >= count)
        if len(beyond):
            raise outside(int(self.labels[beyond[0]]), self.name(int(beyond[0])), count)


class OpenFile:
    """A descriptor that is closed when nobody holds it. `pread` has no position, so forks and threads may share it."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - it lives as long as this object
        self.descriptor = self.file.fileno()

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


def stacked(views: list[Any]) -> Any:
    """B views -> one batch: tensors stacked, tuples and lists of them item by item."""
    if isinstance(views[0], Tensor):
        return torch.stack(views)
    if isinstance(views[0], tuple | list):
        return tuple(stacked(list(part)) for part in zip(*views, strict=True))
    return torch.as_tensor(np.asarray(views))


def read_classes(folder: Path) -> list[str] | None:
    """The class names of `classes.txt`, one a line in the order of their numbers, if the folder has one."""
    path = folder / "classes.txt"
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n") if path.is_file() else None


def _labels(shard: Path, index: ShardIndex, labelled: bool) -> np.ndarray:
    if index.labels is None and labelled:
        raise DataError(f"shard {shard} has no classes (.cls members); if it holds class folders, {PACK}")
    return np.full(len(index.keys), -1, dtype=np.int64) if index.labels is None else index.labels


def find_shards(path: str | Path, split: str | None) -> list[str]:
    """The shards of one split: local files, or http(s) addresses.

    Args:
        path: a folder of tars, one tar, a glob, a range such as `train-{000000..000009}.tar`, or several of these
            joined by `::`. In a folder, a tar belongs to the split its name mentions, else to train.
        split: "train"; "val", of which there may be none; None for everything there.
    """
    shards: list[str] = []
    for place in [place for part in str(path).split("::") for place in _expand(part.strip())]:
        if os.path.isdir(place):
            shards += [shard for shard in _tars(Path(place)) if split in (None, _split_of(shard))]
        elif split != "val":  # shards named one by one are what to train on
            shards.append(place)
    if not shards and split != "val":
        raise DataError(f"no shard of split '{split}' in {path}; such shards are called {split}-000000.tar and so on")
    if len({is_remote(shard) for shard in shards}) > 1:
        raise DataError(f"'{path}' mixes local shards and http addresses; name one kind")
    return shards


def is_remote(shard: str | Path) -> bool:
    return str(shard).startswith(("http://", "https://"))


def _expand(part: str) -> list[str]:
    """One word of a path -> the files it names, ranges and globs spelled out."""
    scheme = search(r"^([A-Za-z][A-Za-z0-9+.-]+):", part)
    if not part or (scheme and not is_remote(part)):
        raise DataError(f"shards are local files or http(s) addresses, '{part}' is neither; copy or serve them so")
    spans = findall(r"\{(\d+)\.\.(\d+)\}", part)
    if spans:
        low, high = spans[0]
        if int(high) < int(low) or int(high) - int(low) > 10**6:
            raise DataError(f"the range {{{low}..{high}}} runs backwards or too far; write it as {{000000..000009}}")
        words = [part.replace(f"{{{low}..{high}}}", str(n).zfill(len(low)), 1) for n in range(int(low), int(high) + 1)]
        return [found for word in words for found in _expand(word)]
    if is_remote(part):
        return [part]
    found = [part] if os.path.exists(part) else sorted(glob(part))
    if not found:
        raise DataError(f"there is nothing at '{part}'; look at --data-path")
    return found


def _split_of(shard: str) -> str:
    words = findall(r"[a-z]+", Path(shard).stem.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), "train")


def _tars(folder: Path) -> list[str]:
    shards = sorted(map(str, folder.glob("*.tar")))
    inside = [entry for entry in folder.iterdir() if entry.name[0] != "."] if not shards else []
    if any(entry.is_dir() or entry.suffix[1:].lower() in IMAGES for entry in inside):
        raise DataError(f"{folder} is an image folder: {PACK}")
    if not shards:
        raise DataError(f"{folder} holds no .tar shards; look at --data-path")
    return shards


def open_index(shard: Path, *, verify: bool = False) -> ShardIndex:
    """The index of a shard: read from beside it or from the cache, else made by walking the shard.

    Raises:
        DataError: the shard is missing, damaged or odd, or is not the one its index was made for.
    """
    if not shard.is_file() or not os.access(shard, os.R_OK):
        raise DataError(f"there is no readable shard {shard}; look at --data-path")
    place = next((place for place in index_places(shard) if place.is_file()), None)
    if place is None:
        log.info("reading shard %s for its index", shard)
        document = build_index(shard)
        _write_first(index_places(shard), document)
        return _from_document(document)
    document, index = _read_index(place)
    anew = f"if the shard is right, delete {place} to have it indexed anew"
    if document["bytes"] != shard.stat().st_size:
        raise damaged(shard, shard.stat().st_size, f"it ends there, its index says {document['bytes']}; {anew}")
    if document["head"] != _sha256(shard, HEAD):
        raise DataError(f"shard {shard} is another one than its index was made for; {anew}")
    if verify and document["sha256"] != _sha256(shard):
        raise DataError(f"shard {shard} does not have the sha256 of its index, so it was changed or damaged; {anew}")
    return index


def index_places(shard: Path) -> list[Path]:
    """Beside the shard, or in the cache if its folder cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chordate" / "shards"
    code = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:32]
    return [shard.with_suffix(".index.json"), cache / f"{code}.index.json"]


def build_index(shard: Path) -> dict[str, Any]:
    """Walk a shard from its first byte to its last -> its index as it is written to disk."""
    images: dict[str, tuple[str, int, int]] = {}
    classes: dict[str, int] = {}
    dotted: dict[str, str] = {}
    with shard.open("rb") as file:
        for member in members(shard):
            key, extension = split_name(member.name)
            if extension.rpartition(".")[2] in IMAGES and "." in extension:
                dotted[key] = member.name
            if member.isdir() or extension not in (*IMAGES, "cls"):
                continue
            if not member.isreg() or member.issparse():
                raise DataError(f"'{member.name}' in shard {shard} is a link or sparse; write it as a plain file")
            if key in (classes if extension == "cls" else images):
                raise DataError(f"shard {shard} has two members for key '{key}' at byte {member.offset}; keep one")
            if extension == "cls":
                text = os.pread(file.fileno(), min(member.size, 64), member.offset_data)
                classes[key] = parse_class(text, f"{shard}:{key}")
            else:
                images[key] = (extension, member.offset_data, member.size)
    _check_keys(shard, images, classes, dotted)
    return {
        "version": VERSION,
        "bytes": shard.stat().st_size,
        "head": _sha256(shard, HEAD),
        "sha256": _sha256(shard),
        "key": list(images),
        "ext": [extension for extension, _, _ in images.values()],
        "offset": [offset for _, offset, _ in images.values()],
        "size": [size for _, _, size in images.values()],
        "class": [classes[key] for key in images] if classes else None,
    }


def _check_keys(shard: Path, images: dict, classes: dict[str, int], dotted: dict[str, str]) -> None:
    """Every image has a class or none has, every class an image, and no image hides behind a dot in its name."""
    if hidden := next((name for key, name in dotted.items() if key not in images), None):
        raise DataError(f"'{hidden}' in shard {shard} would be lost, a key ends at the first dot; rename it")
    if alone := next((key for key in classes if key not in images), None):
        raise DataError(f"'{alone}' in shard {shard} has a class but no {', '.join(IMAGES)}; add one or drop it")
    if classes and (bare := next((key for key in images if key not in classes), None)):
        raise DataError(f"'{bare}' in shard {shard} has no class; add '{bare}.cls' or take all .cls members out")
    if not images:
        raise DataError(f"shard {shard} holds no {', '.join(IMAGES)}; take it away or look at --data-path")


def members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Everything in a plain tar, in order; every byte is accounted for, or DataError says where it goes wrong."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - closing `file` is enough
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise damaged(path, 0, f"no plain tar ({error}); a compressed one must be unpacked to .tar") from None
        end = 0
        while member := _next(tar, path):
            if tar.offset > size:
                raise damaged(path, size, f"it is cut inside '{member.name}', which ends at {tar.offset}")
            if tar.offset <= end:
                raise damaged(path, end, "a header is damaged (a size below zero)")
            end = tar.offset
            tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - or they pile up
            yield member
        file.seek(tar.offset)  # `tarfile` takes a damaged header for the end of the archive
        while chunk := file.read(1 << 20):
            if chunk.count(0) != len(chunk):
                raise damaged(path, tar.offset, "a header is damaged")
        if size - tar.offset < 2 * BLOCK:
            raise damaged(path, size, "it is cut, the two empty blocks that end a tar are missing")


def _next(tar: tarfile.TarFile, path: Path) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise damaged(path, tar.offset, f"a header is damaged ({error})") from None


def damaged(shard: Path | str, at: int, what: str) -> DataError:
    return DataError(f"shard {shard} is damaged at byte {at}: {what}; fetch or pack it again")


def split_name(name: str) -> tuple[str, str]:
    """`a/b.c.JPG` -> key `a/b`, extension `c.jpg`, as WebDataset does; hidden files have no extension."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    return key, extension.lower() if stem else ""


def outside(label: int, name: str, count: int) -> DataError:
    return DataError(f"class {label} of {name} is outside the {count} classes; look at --num-classes and classes.txt")


def parse_class(text: bytes, name: str) -> int:
    words = text.decode("utf-8-sig", errors="replace").strip()
    if not (words.isascii() and words.isdigit() and len(words) < 10):
        raise DataError(f"the class of {name} is '{words[:20]}', not a number from 0; mend its .cls member")
    return int(words)


def _sha256(path: Path, count: int | None = None) -> str:
    with path.open("rb") as file:
        return (hashlib.sha256(file.read(count)) if count else hashlib.file_digest(file, "sha256")).hexdigest()


def _read_index(place: Path) -> tuple[dict[str, Any], ShardIndex]:
    try:
        document = json.loads(place.read_bytes())
        if (document["version"], *map(type, (document["head"], document["sha256"]))) != (VERSION, str, str):
            raise ValueError("another version")
        return document, _from_document(document)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError) as error:
        raise DataError(f"{place} is no usable shard index ({error}); delete it to have the shard read anew") from None


def _from_document(document: dict[str, Any]) -> ShardIndex:
    keys = np.array([os.fsencode(key) for key in document["key"]], dtype=np.bytes_)
    offsets, sizes = np.array(document["offset"], dtype=np.int64), np.array(document["size"], dtype=np.int64)
    labels = None if document["class"] is None else np.array(document["class"], dtype=np.int64)
    columns = [keys, offsets, sizes, *([] if labels is None else [labels])]
    if len(keys) != len(document["ext"]) or any(column.shape != keys.shape for column in columns):
        raise ValueError("its columns differ in length")
    if min(column.min() for column in columns[1:]) < 0 or (offsets + sizes).max() > document["bytes"]:
        raise ValueError("it points outside its shard")
    return ShardIndex(document["sha256"], keys, offsets, sizes, labels)


def _write_first(places: list[Path], document: dict[str, Any]) -> None:
    """To the first place that can be written; without any, the shard is simply walked again next time."""
    for place in places:
        aside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
            aside.replace(place)  # readers find the old one, none, or the whole new one
            return
        except OSError:
            with suppress(OSError):
                aside.unlink()
