"""`detect pack`: annotated images -> tar shards, read by training and evaluation like the folder.

    COCO JSON, images -> N images per shard, in the file's order -> OUT/000000.tar ... and OUT/categories.json

Image files are copied byte for byte, annotations unchanged, with crowds, empty boxes, masks, keypoints and LVIS's
lists: the same run on OUT gets the same samples in the same order, and the same AP. An interrupted run continues with
the missing shards, also in parts (shared/feeding/parts.py), to the same bytes; OUT is complete or absent, and existing
files are never overwritten.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations.box_format import check_box_format
from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.files import find_photographs
from detection.data.annotations.lvis import lists_of
from detection.data.annotations.turning import upright_field
from detection.data.coco import beyond_boxes, read_table
from detection.data.photographs import Turn, listed_bad, look_at, upright_said
from detection.data.shards import CATEGORIES, open_index
from shared.errors import DataError, UsageError, plural
from shared.feeding.cluster import on_cluster
from shared.feeding.headers import Picture
from shared.feeding.names import is_image
from shared.feeding.parts import Part, check_flags, missing
from shared.feeding.tar import attempt, index_places
from shared.feeding.unchanged import SEEN
from shared.feeding.unfinished import unfinished
from shared.text import printable

NAMED = 5  # files to name in a note


class Packed(NamedTuple):
    """What was written; `kept` counts shards of an earlier, interrupted run."""

    images: int
    annotations: int
    classes: int
    shards: int
    kept: int
    notes: list[str]

    def lines(self, out: Path) -> list[str]:
        """The lines to print."""
        again = f", {self.kept} of them from an interrupted run" if self.kept else ""
        boxes = f"{plural(self.annotations, 'annotation')} of {plural(self.classes, 'class')}"
        return [
            f"packed {plural(self.images, 'image')} with {boxes} into {plural(self.shards, 'shard')}{again} in {out}",
            *self.notes,
        ]


def pack(
    images: Path,
    annotations: Path,
    out: Path,
    *,
    shard_size: int = 1000,
    allow_missing: int = 0,
    turn: Turn = "auto",
    part: Part | None = None,
    settle: bool = False,
    cluster: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Write a COCO file and its images into shards; continue an interrupted run.

    Args:
        annotations: the COCO JSON, or a folder with one JSON per image.
        out: a folder that is empty or does not exist yet.
        shard_size: images in a shard.
        allow_missing: number of images that may be missing on disk; they are skipped.
        turn: whether to apply the EXIF orientation where the annotations do not tell; shards then tell it.
        part: write only this part of the shards, and leave `out` to a last call with `settle`; the counts are of them.
        settle: write no shard; refuse if one is missing.
        cluster: address of a Ray cluster, whose nodes write the shards.
        progress: called with the images done and their total.

    Raises:
        UsageError: `shard_size` is below 1, or `part` with `settle`.
        DataError: invalid annotations, missing images, or `out` is not empty.
        Stopped: interrupted; the finished shards are kept.
    """
    if shard_size < 1:
        raise UsageError("--shard-size is below 1; remove it for 1000")
    check_flags(part, settle)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} already exists and is not empty; give another folder or remove it first")
    whole = read_table(images, annotations, None)
    check_box_format(whole)
    found, notes = find_photographs(whole, images, allow_missing)
    files = [images / name.decode() for name in found.file_names]
    seen = look_at(whole.select(np.isin(whole.image_ids, found.image_ids)), [Picture(file) for file in files], turn)
    table, total = upright_said(seen), len(files)  # with the original file names
    notes += [*seen.notes, *listed_bad(seen, "training skips them, and validation refuses them")]
    notes += without_annotations(images, files)
    plan = [Task(n, range(at, min(at + shard_size, total))) for n, at in enumerate(range(0, total, shard_size))]
    try:
        with unfinished(out, stamp(table, shard_size), part, must_exist=settle) as partial:
            shards = partial / "shards"
            there = {task.number for task in plan if task.place(shards).is_file()}  # renamed once complete
            if settle and (lacking := [task.number for task in plan if task.number not in there]):
                raise missing(partial, out, lacking, len(plan))
            mine = plan if part is None else part.of_these(plan)
            make(mine, there, shards, table, files, progress, cluster)
            if part is None:
                finish(shards, table, out)
    except OSError as error:
        raise DataError(f"cannot pack {images} into {out}: {error}; check permissions and free space") from None
    packed = [len(task.rows) for task in mine]
    boxes = sum(task.annotations(table) for task in mine)
    kept = 0 if settle else len(there & {task.number for task in mine})
    return Packed(sum(packed), boxes, len(table.categories), len(mine), kept, notes)


class Task(NamedTuple):
    """A shard to write: its number, and the rows of its images in the table."""

    number: int
    rows: range

    def place(self, shards: Path) -> Path:
        return shards / f"{self.number:06d}.tar"

    def annotations(self, table: CocoTable) -> int:
        first, stop = np.searchsorted(table.image_of, (self.rows.start, self.rows.stop)).tolist()
        return stop - first


def make(
    tasks: Sequence[Task],
    there: Collection[int],
    shards: Path,
    table: CocoTable,
    files: list[Path],
    progress: Callable[[int, int], None],
    cluster: str | None = None,
) -> None:
    """Write the shards that are not there yet, and the indexes that are missing."""
    done, total = 0, sum(len(task.rows) for task in tasks)

    def tick(number: int) -> None:
        nonlocal done
        done += len(tasks[number].rows)
        progress(done, total)

    places = [Place(task.place(shards), task.rows, files[task.rows.start : task.rows.stop]) for task in tasks]
    if cluster is not None and tasks:
        on_cluster(write_elsewhere, places, table, address=cluster, partial=shards.parent, done=tick)
        return
    for number, place in enumerate(places):
        if tasks[number].number not in there:
            write_shard(place.shard, table, place.rows, place.files)
        write_index(place.shard, table)
        tick(number)


class Place(NamedTuple):
    """A shard to write, the rows of its images in the table, and their files."""

    shard: Path
    rows: range
    files: list[Path]


def write_elsewhere(place: Place, table: CocoTable, tick: Callable[[], None]) -> None:
    """A shard and its index on a node of a cluster; only the index if the shard is there."""
    if lacking := next((file for file in (place.files[0], place.files[-1]) if not file.exists()), None):
        raise DataError(f"{platform.node()} does not see {lacking}; every node must, under the same path")
    if not place.shard.is_file():
        write_shard(place.shard, table, place.rows, place.files, tick)
    write_index(place.shard, table)


def write_index(shard: Path, table: CocoTable) -> None:
    """Write the index of a shard, if there is none, and check it. Raises OSError if it is not beside the shard."""
    finds = finds_of(table)
    open_index(shard, table.categories, finds, table.skeletons)
    for place in (index_places(shard, f".{kind}.npz")[0] for kind in ("boxes", *finds)):
        if not place.is_file():  # it went into the cache
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))


def finish(shards: Path, table: CocoTable, out: Path) -> None:
    (shards / CATEGORIES).write_text(json.dumps(categories_of(table), indent=1), encoding="utf-8")
    for place in shards.glob(f"*{SEEN}"):  # of shards kept from a stopped packing
        place.unlink()
    shards.replace(out)


def without_annotations(images: Path, files: list[Path]) -> list[str]:
    """A note about the image files of the folder that the annotations do not name, and which stay behind."""
    named = {os.path.normpath(file) for file in files}
    strangers = sorted(
        os.path.relpath(path, images)
        for folder, _, names in os.walk(images)
        for path in (os.path.join(folder, name) for name in names if is_image(name))
        if os.path.normpath(path) not in named
    )
    if not strangers:
        return []
    more = f" and {len(strangers) - NAMED} more" if strangers[NAMED:] else ""
    listing = ", ".join(map(printable, strangers[:NAMED]))
    return [f"not packed, since the annotations do not name them: {plural(len(strangers), 'image')}, {listing}{more}"]


def categories_of(table: CocoTable) -> list[dict[str, Any]]:
    """COCO's `categories`, with keypoints, and LVIS's frequency and image_count, where there are any."""
    words: dict[int, dict[str, Any]] = {category: skeleton.to_words() for category, skeleton in table.skeletons.items()}
    for key in ("frequency", "image_count"):
        for category, value in (getattr(table, key) or {}).items():
            words.setdefault(category, {})[key] = value
    return [{"id": category, "name": name, **words.get(category, {})} for category, name in table.categories.items()]


def finds_of(table: CocoTable) -> list[str]:
    """What the annotations have besides boxes; masks only if all have one."""
    masked = table.masks is not None and bool(((table.masks.rings > 0) | (table.masks.in_code > 0)).all())
    return ["masks"] * masked + ["keypoints"] * (table.keypoints is not None)


def stamp(table: CocoTable, shard_size: int) -> str:
    """Digest of the assignment of images to shards, to recognize an interrupted run."""
    digest = hashlib.sha256(f"{table.sha256} {shard_size}".encode())
    digest.update(table.image_ids.tobytes())
    if table.upright is not None or table.unsized is not None:
        digest.update(table.sizes.tobytes() + (b"" if table.upright is None else table.upright.tobytes()))
    return digest.hexdigest()


def write_shard(
    shard: Path, table: CocoTable, rows: range, files: list[Path], tick: Callable[[], None] = lambda: None
) -> None:
    """Images `rows` of a table as one tar, renamed once complete; `tick` is called after each. Raises OSError."""
    from webdataset.writer import TarWriter  # slow to import

    aside = shard.with_name(f"{shard.name}.{attempt()}.partial")
    for place in index_places(shard, ".boxes.npz"):
        place.unlink(missing_ok=True)
    try:
        with aside.open("wb") as file:
            options: dict[str, Any] = {"encoder": False, "mtime": 0, "format": "PAX_FORMAT"}  # same input, same bytes
            with closing(TarWriter(file, **options)) as tar:
                for sample in samples(table, rows, files):
                    tar.write(sample)
                    tick()
            file.flush()
            os.fsync(file.fileno())
        aside.replace(shard)
    finally:
        aside.unlink(missing_ok=True)


def samples(table: CocoTable, rows: range, files: list[Path]) -> Iterator[dict[str, Any]]:
    """The members of each image's sample."""
    ends = np.searchsorted(table.image_of, np.arange(rows.start, rows.stop + 1)).tolist()
    for row, file, first, stop in zip(rows, files, ends[:-1], ends[1:], strict=True):
        ending = file.suffix[1:].lower()
        about = json.dumps(described(table, row, range(first, stop)), separators=(",", ":"))
        key = f"{int(table.image_ids[row]):012d}"
        yield {"__key__": key, ending or "img": file.read_bytes(), "json": about.encode()}


def described(table: CocoTable, row: int, annotations: range) -> dict[str, Any]:
    """One image with its annotations as COCO fields; annotation ids are renumbered from 1 over the whole file."""
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
        **upright_field(table.upright, row),
        **lists_of({"absent": table.absent, "unfinished": table.unfinished}, row),
        "annotations": [entry | beyond_boxes(table, entry["id"] - 1) for entry in entries],
    }
