"""Annotated images in tar shards: any image by its index with one read, all boxes in memory.

    FOLDER/categories.json      [{"id": 18, "name": "dog"}, ...]
    FOLDER/*.tar                KEY.jpg     the original file
                                KEY.json    {"image_id", "file_name", "height", "width", "annotations": [...]}

    FOLDER -> an index beside each shard, written on first open -> CocoTable with spots -> CocoDetection

This is the WebDataset convention with COCO's field names: an annotation has id, category_id, bbox as x y w h, area and
iscrowd, and segmentation and keypoints where the file had them; an image of LVIS has its two lists of categories. Masks
and keypoints each have a separate index,
opened only when needed. `detect pack` writes such folders; shards from other tools are validated like
a COCO file when they are indexed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.annotation_rows import Rows, repeated
from detection.data.annotations.coco_json import OF_ANNOTATIONS, CocoTable, image_columns, read_categories
from detection.data.annotations.coco_json import OF_IMAGES as OF_COCO_IMAGES
from detection.data.annotations.keypoints import insist, read_skeletons, stacked
from detection.data.annotations.lvis import LISTS, list_columns, rarity
from detection.data.annotations.skeleton import Skeleton
from detection.data.annotations.turning import upright_column
from detection.data.masks.outlines import FIELDS, Outlines
from shared.errors import DataError
from shared.feeding.columns import Ragged, ends, together
from shared.feeding.tar import OpenFile, damaged, index_places, members, sha256_of, split_name, write_first
from shared.feeding.unchanged import HeaderDigest, header_digest

log = logging.getLogger(__name__)

VERSION = 2  # of the index; 1 had no lists of LVIS
HEAD = 4096  # bytes at a shard's start, compared to notice a rewritten shard of the same size
CATEGORIES = "categories.json"
OF_IMAGES = (*OF_COCO_IMAGES, "spots")
KINDS = {"boxes": (*OF_IMAGES, *OF_ANNOTATIONS, "sha256"), "masks": FIELDS, "keypoints": ("keypoints",)}

OF_SHARD = ("version", "bytes", "head", "headers")  # columns that tell whether an index is of its shard
SOMETIMES = ("upright", *(f"{name}_{part}" for name in LISTS for part in ("values", "counts")))  # columns of boxes
LABELS = ("json",)  # extensions of members whose content is part of the index

Columns = dict[str, np.ndarray]


def holds_shards(folder: Path) -> bool:
    """Whether this is a folder of annotated shards."""
    return (folder / CATEGORIES).is_file() and bool(shards_of(folder))


def shards_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def read_shards(folder: Path, finds: Sequence[str] | None = ()) -> CocoTable:
    """All shards of a folder as one table; `spots` count shards as `shards_of` lists them.

    Args:
        finds: "masks", "keypoints": what annotations must have besides boxes; None reads whatever has an index.

    Raises:
        DataError: there are none, one is damaged or malformed, or two have the same image.
    """
    shards = shards_of(folder)
    if not shards or not (folder / CATEGORIES).is_file():
        raise DataError(f"{folder} has no shards with a {CATEGORIES}; make some with `detect pack`, or check the path")
    if finds is None:
        finds = [kind for kind in ("masks", "keypoints") if all(_index(shard, kind) for shard in shards)]
    categories, skeletons, how_rare, settings = _read_categories(folder / CATEGORIES)
    parts = [open_index(shard, categories, finds, skeletons) for shard in shards]
    counts = [len(part["image_ids"]) for part in parts]
    starts = np.cumsum([0, *counts[:-1]])
    for number, (part, start) in enumerate(zip(parts, starts, strict=True)):
        part["image_of"] = (part["image_of"] + start).astype(np.int32)
        part["spots"] = np.column_stack((np.full(len(part["spots"]), number), part["spots"]))
    wanted = (*OF_IMAGES, *OF_ANNOTATIONS)
    columns: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in wanted}
    twice = repeated(columns["image_ids"])
    if twice.any():
        raise DataError(f"{folder} has the image {columns['image_ids'][twice.argmax()]} twice; remove one shard")
    if not len(columns["boxes"]):
        raise DataError(f"{folder} has no boxes; pack annotations of objects ('instances')")
    if any("upright" in part for part in parts):
        nothing = [np.full(count, -1, np.int8) for count in counts]
        columns["upright"] = np.concatenate([p.get("upright", n) for p, n in zip(parts, nothing, strict=True)])
    columns |= _joined_lists(parts, folder)
    settings.update("".join(str(part["sha256"]) for part in parts).encode())
    more: dict[str, Any] = {"skeletons": skeletons if "keypoints" in finds else {}, **how_rare}
    if "masks" in finds:
        more["masks"] = Outlines(*(together([part[name] for part in parts]) for name in FIELDS))
    if "keypoints" in finds:
        more["keypoints"] = stacked([part["keypoints"] for part in parts], folder)
        insist(more["keypoints"], folder)
    return CocoTable(folder, settings.hexdigest(), categories=categories, **columns, **more)


def _joined_lists(parts: list[Columns], folder: Path) -> dict[str, Ragged]:
    """The lists of LVIS of all shards. Raises DataError if some have them and others do not."""
    joined: dict[str, Ragged] = {}
    for name, key in LISTS.items():
        have = [f"{name}_counts" in part for part in parts]
        if any(have) and not all(have):
            raise DataError(f"{folder} has shards with {key} and others without; pack its images again, in one run")
        if all(have):
            values, counts = (
                np.concatenate([part[f"{name}_{what}"] for part in parts]) for what in ("values", "counts")
            )
            joined[name] = Ragged(values, ends(counts))
    return joined


def _read_categories(path: Path) -> tuple[dict[int, str], dict[int, Skeleton], dict[str, Any], Any]:
    """{id: name}, {id: skeleton}, how rare LVIS says they are, and the sha256 begun with them."""
    try:
        raw = path.read_bytes()
        entries = json.loads(raw)
        if not isinstance(entries, list):
            raise ValueError("it is not a list")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a list of categories ({error}); pack the shards again") from None
    categories = read_categories(entries, path)
    skeletons, notes = read_skeletons(entries, path)
    for note in notes:
        log.warning("%s: %s", path, note)
    return categories, skeletons, rarity(entries), hashlib.sha256(raw)


# -- an index -------------------------------------------------------------------------------------


def open_index(
    shard: Path, categories: dict[int, str], finds: Sequence[str] = (), skeletons: dict[int, Skeleton] | None = None
) -> Columns:
    """Open the index of a shard, next to it or in the cache; without one, scan the shard.

    Raises:
        DataError: the shard is damaged or malformed, or was changed after its index was built.
    """
    found = {kind: _read_index(shard, kind) for kind in ("boxes", *finds)}
    columns: Columns = {}
    if missing := [kind for kind, stored in found.items() if stored is None]:
        log.info("indexing shard %s", shard)
        columns = build_index(shard, categories, finds, skeletons)
        for kind in missing:
            own = (*KINDS[kind], *OF_SHARD, *(SOMETIMES if kind == "boxes" else ()))
            mine = {name: columns[name] for name in own if name in columns}
            write_first(index_places(shard, f".{kind}.npz"), lambda aside, mine=mine: _save(aside, mine))
    for stored in found.values():
        columns |= stored or {}
    unlisted = set(np.unique(columns["category_ids"]).tolist()) - categories.keys()
    if unlisted:
        raise DataError(
            f"shard {shard} has category {min(unlisted)}, which {CATEGORIES} lacks; "
            f"if the shard is right, delete {_index(shard, 'boxes')} to index it again"
        )
    return columns


def _index(shard: Path, kind: str) -> Path | None:
    """The path of its index, None if there is none yet."""
    return next((place for place in index_places(shard, f".{kind}.npz") if place.is_file()), None)


def _read_index(shard: Path, kind: str) -> Columns | None:
    """The columns of an index; None if there is none, or one of an earlier version that cannot be compared."""
    for place in [place for place in index_places(shard, f".{kind}.npz") if place.is_file()]:
        try:
            with np.load(place, allow_pickle=False) as stored:
                if stored["version"] > VERSION:
                    raise ValueError("a later version wrote it")
                if stored["version"] < VERSION or "headers" not in stored:
                    continue
                columns = {name: stored[name] for name in (*KINDS[kind], *OF_SHARD)}
                if kind == "boxes":
                    columns |= {name: stored[name] for name in SOMETIMES if name in stored}
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{place} is not a usable shard index ({error}); delete it to index the shard again"
            ) from None
        anew = f"if the shard is right, delete {place} to index it again"
        if columns["bytes"] != shard.stat().st_size:
            raise damaged(shard, shard.stat().st_size, f"it ends there, its index says {columns['bytes']}; {anew}")
        if columns["head"] != sha256_of(shard, HEAD):
            raise DataError(f"the index of shard {shard} belongs to another one; {anew}")
        if columns["headers"] != header_digest(shard, LABELS):
            raise DataError(f"shard {shard} was changed after its index was built; {anew}")
        return columns
    return None


def _save(place: Path, columns: Columns) -> None:
    """What numpy.savez writes, without the time of day: the same shard gets the same bytes."""
    with place.open("wb") as raw, zipfile.ZipFile(raw, "w") as file:
        for name, column in columns.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, column, allow_pickle=False)  # pyright: ignore[reportArgumentType]


def build_index(
    shard: Path, categories: dict[int, str], finds: Sequence[str] = (), skeletons: dict[int, Skeleton] | None = None
) -> Columns:
    """Scan a shard and validate its annotations as a COCO file's."""
    images, spots, rows = [], [], Rows(shard, finds)
    for key, sample, offset, size in _samples(shard):
        image_id, annotations = sample.get("image_id"), sample.get("annotations")
        if not isinstance(annotations, list) or not all(isinstance(entry, dict) for entry in annotations):
            raise DataError(f"{shard}:{key} has no list 'annotations' in its .json; pack the shards again")
        images.append({**sample, "id": image_id})
        spots.append((offset, size))
        for entry in annotations:
            rows.take({**entry, "id": len(rows.ids) + 1, "image_id": image_id})  # some tools number each image's from 1
    if not images:
        raise DataError(f"shard {shard} has no image; remove it")
    image_ids, sizes, file_names = image_columns(images, shard)
    with HeaderDigest(shard, LABELS) as digest:
        for member in members(shard):
            digest.add(member)
    columns = rows.columns(categories, image_ids, sizes, skeletons or {})
    for note in rows.notes():
        log.warning("%s: %s", shard, note)
    masks, keypoints = columns["masks"], columns["keypoints"]
    upright = upright_column(images, shard)
    lists = {name: column for name, column in list_columns(images, shard).items() if column is not None}
    about = {
        "version": VERSION,
        "bytes": shard.stat().st_size,
        "head": sha256_of(shard, HEAD),
        "headers": digest.hexdigest(),
        "sha256": sha256_of(shard),
    }
    return {
        **{name: np.array(value) for name, value in about.items()},
        **{"image_ids": image_ids, "sizes": sizes, "file_names": file_names, "spots": np.array(spots, np.int64)},
        **{name: columns[name] for name in OF_ANNOTATIONS},
        **({} if upright is None else {"upright": upright}),
        **{f"{name}_values": column.values for name, column in lists.items()},
        **{f"{name}_counts": column.lengths for name, column in lists.items()},
        **({} if masks is None else {name: getattr(masks, name) for name in FIELDS}),
        **({} if keypoints is None else {"keypoints": keypoints}),
    }


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, Any], int, int]]:
    """Key, parsed .json, and offset and length of the image, in the order of the images."""
    images: dict[str, tuple[int, int]] = {}
    notes: dict[str, tuple[int, int]] = {}
    file = OpenFile(shard)
    for member in members(shard):
        key, extension = split_name(member.name)
        if member.isdir() or not extension:
            continue
        kind = notes if extension == "json" else images
        if not member.isreg() or member.issparse():
            raise DataError(f"'{member.name}' in shard {shard} is a link or a sparse file; store it as a regular file")
        if "." in extension:
            raise DataError(
                f"'{member.name}' in shard {shard} has a dot in its key, which ends at the first dot; rename it"
            )
        if key in kind:
            raise DataError(f"shard {shard} has two members for key '{key}' at byte {member.offset}; keep one")
        kind[key] = (member.offset_data, member.size)
    if odd := next(iter(images.keys() ^ notes.keys()), None):
        raise DataError(f"'{odd}' in shard {shard} is an image without .json, or the reverse; pack the shards again")
    for key, (offset, size) in images.items():
        begin, length = notes[key]
        try:
            content = json.loads(os.pread(file.descriptor, length, begin))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{shard}:{key}.json is not readable JSON ({error}); pack the shards again") from None
        if not isinstance(content, dict):
            raise DataError(f"{shard}:{key}.json describes no image; pack the shards again")
        yield key, content, offset, size
