"""Annotated photographs -> tar shards that training and evaluation read like the folder: `detect pack`.

    COCO JSON, images -> so many images a shard, in the file's order -> OUT/000000.tar ... and OUT/categories.json

Image files are kept byte for byte, annotations number for number, with crowds, odd boxes, masks and keypoints: the same
run on OUT sees the same samples in the same order, and scores the same AP. A packing that was stopped goes on with the
shards that are missing; OUT is whole or absent, and what is there is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.files import find_photographs
from detection.data.coco import beyond_boxes, read_table
from detection.data.shards import CATEGORIES, open_index
from shared.errors import DataError, UsageError
from shared.feeding.tar import index_places
from shared.feeding.unfinished import unfinished


class Packed(NamedTuple):
    """What was written; `kept` shards were there from an earlier, unfinished packing."""

    images: int
    annotations: int
    classes: int
    shards: int
    kept: int
    notes: list[str]

    def lines(self, out: Path) -> list[str]:
        """What a person is told of it."""
        again = f", {self.kept} of them from before" if self.kept else ""
        boxes = f"{self.annotations:,} annotations of {self.classes} classes"
        return [f"packed {self.images:,} images with {boxes} into {self.shards} shards{again} in {out}", *self.notes]


def pack(
    images: Path,
    annotations: Path,
    out: Path,
    *,
    shard_size: int = 1000,
    allow_missing: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Write a COCO file and its images into shards; go on where an earlier packing of the same was stopped.

    Args:
        annotations: the COCO JSON, or a folder of one JSON for each image.
        out: a folder that is empty or does not exist yet.
        shard_size: images in a shard.
        allow_missing: this many images may be missing on disk; they are left out.
        progress: told the images done and their total.

    Raises:
        UsageError: shards of no images.
        DataError: the annotations are wrong, images are missing, or `out` holds something.
        Stopped: interrupted, with finished shards to go on from.
    """
    if shard_size < 1:
        raise UsageError("a shard holds at least one image; leave --shard-size out for 1000")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already and not empty; name another folder or remove it first")
    whole = read_table(images, annotations, None)
    found, notes = find_photographs(whole, images, allow_missing)
    table = whole.select(np.isin(whole.image_ids, found.image_ids))  # with the names that an ignore file knows
    files, total = [images / name.decode() for name in found.file_names], len(table.image_ids)
    starts, kept = range(0, total, shard_size), 0
    try:
        with unfinished(out, stamp(table, shard_size)) as partial:
            for number, start in enumerate(starts):
                shard, stop = partial / "shards" / f"{number:06d}.tar", min(start + shard_size, total)
                if shard.is_file():  # it took its name when it was whole
                    kept += 1
                else:
                    write_shard(shard, table, range(start, stop), files[start:stop])
                progress(stop, total)
            (partial / "shards" / CATEGORIES).write_text(json.dumps(categories_of(table), indent=1), encoding="utf-8")
            for shard in sorted((partial / "shards").glob("*.tar")):
                open_index(shard, table.categories, finds_of(table), table.skeletons)
            (partial / "shards").replace(out)
    except OSError as error:
        raise DataError(f"cannot pack {images} into {out}: {error}; make it readable, or make room") from None
    return Packed(total, len(table.boxes), len(table.categories), len(starts), kept, notes)


def categories_of(table: CocoTable) -> list[dict[str, Any]]:
    """In COCO's words, with the keypoints of those that name them."""
    words = {category: skeleton.to_words() for category, skeleton in table.skeletons.items()}
    return [{"id": category, "name": name, **words.get(category, {})} for category, name in table.categories.items()]


def finds_of(table: CocoTable) -> list[str]:
    """What the annotations hold besides boxes; masks only if all of them have one."""
    masked = table.masks is not None and bool(((table.masks.rings > 0) | (table.masks.in_code > 0)).all())
    return ["masks"] * masked + ["keypoints"] * (table.keypoints is not None)


def stamp(table: CocoTable, shard_size: int) -> str:
    """Which image goes where, in one word, by which an unfinished packing knows its own."""
    digest = hashlib.sha256(f"{table.sha256} {shard_size}".encode())
    digest.update(table.image_ids.tobytes())
    return digest.hexdigest()


def write_shard(shard: Path, table: CocoTable, rows: range, files: list[Path]) -> None:
    """Images `rows` of a table as one tar, which takes its name when it is whole. Raises OSError."""
    from webdataset.writer import TarWriter  # slow to import

    aside = shard.with_suffix(".tar.partial")
    for place in index_places(shard, ".boxes.npz"):
        place.unlink(missing_ok=True)
    with aside.open("wb") as file:
        options: dict[str, Any] = {"encoder": False, "mtime": 0, "format": "PAX_FORMAT"}  # same input, same bytes
        with closing(TarWriter(file, **options)) as tar:
            for sample in samples(table, rows, files):
                tar.write(sample)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(shard)


def samples(table: CocoTable, rows: range, files: list[Path]) -> Iterator[dict[str, Any]]:
    """The members of each image's sample."""
    ends = np.searchsorted(table.image_of, np.arange(rows.start, rows.stop + 1)).tolist()
    for row, file, first, stop in zip(rows, files, ends[:-1], ends[1:], strict=True):
        ending = file.suffix[1:].lower()
        about = json.dumps(described(table, row, range(first, stop)), separators=(",", ":"))
        key = f"{int(table.image_ids[row]):012d}"
        yield {"__key__": key, ending or "img": file.read_bytes(), "json": about.encode()}


def described(table: CocoTable, row: int, annotations: range) -> dict[str, Any]:
    """One image and what is in it, in COCO's words; annotations are numbered anew, from 1 over the whole file."""
    some = slice(annotations.start, annotations.stop)
    columns = (table.category_ids[some], table.boxes[some], table.areas[some], table.crowd[some])
    height, width = table.sizes[row].tolist()
    entries = [
        {"id": number + 1, "category_id": category, "bbox": bbox, "area": area, "iscrowd": int(crowd)}
        for number, (category, bbox, area, crowd) in zip(
            annotations, zip(*(column.tolist() for column in columns), strict=True), strict=True
        )
    ]
    return {
        "image_id": int(table.image_ids[row]),
        "file_name": table.file_names[row].decode(),
        "height": height,
        "width": width,
        "annotations": [entry | beyond_boxes(table, entry["id"] - 1) for entry in entries],
    }
