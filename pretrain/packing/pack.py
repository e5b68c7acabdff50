"""`pretrain pack FROM OUT`: folders, lists and TFRecords of images -> WebDataset shards with indexes and digests.

    FROM -> entries, split and in order (sources.py) -> divided into shards by count and bytes
         -> shards, in parallel (jobs.py, shard_writer.py), in .OUT.partial/shards, with a note for each
         -> when complete: numbered, classes.txt written, and the folder renamed to OUT

Image files are copied byte for byte unless an option changes them. The assignment to shards is fixed before the
first image is read, so the shards are the same for any number of processes, and a packing that was stopped or killed
continues with the shards that have no note, also in parts (shared/feeding/parts.py). OUT is complete or does not exist.
Every file that was found is in a shard, or in OUT/left_out.tsv with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from pretrain.data.classes import NAMES
from pretrain.data.digests import places
from pretrain.data.remote import scheme_of
from pretrain.data.restart_markers import jpegtran
from pretrain.packing.elsewhere import check_source, is_address
from pretrain.packing.jobs import write_shards
from pretrain.packing.listing import Entry, Listed
from pretrain.packing.shard_writer import Note, Task, Treatment, finished, learn
from pretrain.packing.sources import Source, find_source
from shared.errors import DataError, UsageError, plural
from shared.feeding.parts import Part, check_flags, missing
from shared.feeding.tar import index_places
from shared.feeding.unchanged import SEEN
from shared.feeding.unfinished import unfinished
from shared.text import printable
from shared.weights.card import listed


@dataclass(frozen=True)
class Packed:
    """Summary of a packing.

    samples: number by split. bytes: of image files. shrunk, marked: number of resized images, and with restart markers.
    skipped: images that were not packed, others: other files, both with reasons. notes: remarks for the user. kept:
    number of shards from an earlier, stopped packing.
    """

    samples: dict[str, int]
    classes: list[str]
    shards: int
    bytes: int
    skipped: list[tuple[str, str]]
    shrunk: int = 0
    marked: int = 0
    kept: int = 0
    others: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """Everything that was found and not packed, with reasons."""
        return [*self.skipped, *self.others]


def pack(
    place: str | Path,
    out: str | Path,
    *,
    kind: str | None = None,
    root: str | Path | None = None,
    shard_size: int = 10_000,
    shard_bytes: int = 2 * 10**9,
    val_share: float = 0.0,
    short_side: int | None = None,
    restart_markers: bool = False,
    verify: bool = False,
    fingerprints: bool = False,
    jobs: int = 1,
    part: Part | None = None,
    settle: bool = False,
    cluster: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Write images into shards; continues an earlier packing of the same input and options.

    Args:
        place: class folders, or train and val folders of them, also at an address such as s3://bucket/photos; an
            uncompressed tar of either; a list; TFRecords.
        out: a folder that is empty or does not exist yet.
        kind: "folder", "list" or "tfrecord"; None to recognize it.
        root: folder that the paths of a list are relative to.
        shard_size, shard_bytes: maximum number of images, and of input bytes, of a shard.
        val_share: fraction of the images for val, chosen by a hash of the name; for data without a val split.
        short_side: in pixels, to which larger images are resized.
        restart_markers: add restart markers to JPEGs; needs the program jpegtran.
        verify: decode every image instead of reading only its header.
        fingerprints: of what every image shows, in the digests beside the shards; decodes every image small.
        jobs: number of processes.
        part: write only this part of the shards, and leave `out` to a last call with `settle`; the summary is of them.
        settle: write no shard; refuse if one is missing.
        cluster: address of a Ray cluster whose nodes write the shards, instead of `jobs` processes.
        progress: called with the number of finished images and their total.

    Raises:
        DataError: nothing to pack or nothing readable, a damaged record, or `out` is not empty.
        UsageError: a number out of range, or jpegtran is missing.
        Stopped: interrupted; finished shards are kept.
    """
    if isinstance(out, str) and scheme_of(out) is not None:
        raise UsageError(f"shards are written to a local folder; then `pretrain upload` copies them to {out}")
    place, out = place_of(place), Path(out)
    if shard_size < 1 or shard_bytes < 1 or not 0 <= val_share < 1:
        raise UsageError("--shard-size is at least 1, and --val-share is from 0 to below 1")
    if jobs < 1 or (short_side is not None and short_side < 1):
        raise UsageError("--jobs and --short-side are at least 1; remove them for all cores and unchanged images")
    check_flags(part, settle)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} already exists and is not empty; give another folder or remove it first")
    treatment = Treatment(verify, short_side, jpegtran() if restart_markers else None, fingerprints)
    source = find_source(place, kind=kind, root=None if root is None else place_of(root), val_share=val_share)
    shards = {split: list(cut(entries, shard_size, shard_bytes)) for split, entries in source.splits.items()}
    try:
        with unfinished(out, stamp(source, shards, treatment), part, must_exist=settle) as partial:
            tasks = tasks_of(shards, partial) if part is None else part.of_these(tasks_of(shards, partial))
            notes = [finished(task) for task in tasks]
            if settle and None in notes:
                lacking = [n for n, note in enumerate(notes) if note is None]
                raise missing(partial, out, lacking, len(tasks))
            made = make(tasks, notes, treatment, jobs, progress, cluster)
            packed = summary(source, made, kept=0 if settle else len(notes) - notes.count(None))
            if part is None:
                check_any(place, packed)
                finish(partial, made, packed, out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}; free some space or give another folder") from None
    return packed


UNPACKED = "left_out.tsv"  # in OUT: `path, reason` of every file that was found and not packed
Made = list[tuple[Task, Note]]


def tasks_of(shards: dict[str, list[Sequence[Entry]]], partial: Path) -> Sequence[Task]:
    return [
        Task(partial / "shards" / f"{split}-{n:06d}.tar", partial / "notes" / f"{split}-{n:06d}.json", entries)
        for split, parts in shards.items()
        for n, entries in enumerate(parts)
    ]


def make(
    tasks: Sequence[Task],
    notes: Sequence[Note | None],
    treatment: Treatment,
    jobs: int,
    progress: Callable[[int, int], None],
    cluster: str | None = None,
) -> Made:
    """Write the shards without a note -> every task with its note."""
    left = [task for task, note in zip(tasks, notes, strict=True) if note is None]
    total = sum(len(task.entries) for task in tasks)
    done = total - sum(len(task.entries) for task in left)
    new = iter(write_shards(left, treatment, jobs, lambda more: progress(done + more, total), cluster))
    return [(task, next(new) if note is None else note) for task, note in zip(tasks, notes, strict=True)]


def cut(entries: Sequence[Entry], count: int, size: int) -> Iterator[Sequence[Entry]]:
    """Divide entries into shards of at most `count` entries and about `size` bytes."""
    sizes = entries.sizes[entries.rows] if isinstance(entries, Listed) else [entry.size for entry in entries]
    ends, first = np.cumsum(sizes, dtype=np.int64), 0
    while first < len(ends):
        full = int(np.searchsorted(ends, (ends[first - 1] if first else 0) + size)) + 1
        stop = min(first + count, full, len(ends))
        yield entries[first:stop]
        first = stop


def stamp(source: Source, shards: dict[str, list[Sequence[Entry]]], treatment: Treatment) -> str:
    """A digest of input and options, to recognize an unfinished packing of the same."""
    digest = hashlib.sha256(json.dumps([source.classes, source.skipped, asdict(treatment)]).encode())
    for split, parts in shards.items():
        for n, part in enumerate(parts):
            if isinstance(part, Listed):
                digest.update(f"{split}\0{n}\n".encode() + part.digested())
                continue
            for entry in part:
                digest.update(os.fsencode(f"{split}\0{n}\0{entry.key}\0{entry.label}\n"))
    return digest.hexdigest()


def summary(source: Source, made: Made, kept: int) -> Packed:
    """Summarize the notes of shards. Raises DataError if classes disagree."""
    samples: Counter[str] = Counter()
    classes: dict[str, str] = {}
    for task, note in made:
        samples[task.shard.name.rpartition("-")[0]] += note.samples
        for number, name in note.classes.items():
            learn(classes, number, name)
    notes = [note for _, note in made]
    skipped = [*source.skipped, *((name, reason) for note in notes for name, reason in note.skipped)]
    count = max((note.classes_to for note in notes), default=0)
    return Packed(
        samples={split: number for split, number in samples.items() if number},
        classes=source.classes or [classes.get(str(n), f"class-{n}") for n in range(count)],
        shards=sum(note.samples > 0 for note in notes),
        bytes=sum(note.bytes for note in notes),
        skipped=skipped,
        shrunk=sum(note.shrunk for note in notes),
        marked=sum(note.marked for note in notes),
        kept=kept,
        others=source.others,
        notes=[*source.notes, *_classes_without_images(source)],
    )


def place_of(place: str | Path) -> Path | str:
    """A path, or an address as it is. Raises UsageError for an address that cannot be listed."""
    if isinstance(place, str):
        place = place.removeprefix("file://")
        check_source(place)
    return place if is_address(place) else Path(place)


def check_any(place: Path | str, packed: Packed) -> None:
    if not packed.samples:
        last = ": ".join(packed.skipped[-1])
        raise DataError(f"no image of {place} can be read, for example {last}; check the files")


def _classes_without_images(source: Source) -> list[str]:
    """A remark on the classes that no training image has, as far as labels are known without reading records."""
    if source.classes is None:
        return []
    train = source.splits["train"]
    present = set(train.labels[train.rows].tolist() if isinstance(train, Listed) else (entry.label for entry in train))
    absent = [name for label, name in enumerate(source.classes) if label not in present]
    return [f"no training image is of {plural(len(absent), 'class')}: {listed(absent)}"] if absent else []


def finish(partial: Path, made: Made, packed: Packed, out: Path) -> None:
    """Number the shards without gaps, write classes.txt and the list of the rest, rename the folder to OUT."""
    (partial / "shards" / NAMES).write_text("".join(f"{name}\n" for name in packed.classes), encoding="utf-8")
    if packed.left_out:
        lines = (f"{printable(name)}\t{printable(reason)}\n" for name, reason in packed.left_out)
        (partial / "shards" / UNPACKED).write_text("".join(lines), encoding="utf-8")
    taken: Counter[str] = Counter()
    for shard, note in ((task.shard, note) for task, note in made if note.samples):
        split = shard.name.rpartition("-")[0]
        if (to := shard.with_name(f"{split}-{taken[split]:06d}.tar")) != shard:  # an earlier one had no readable image
            shard.replace(to)
            index_places(shard)[0].replace(index_places(to)[0])
            places(shard, note.sha256)[0].replace(places(to, note.sha256)[0])
        taken[split] += 1
    for place in (partial / "shards").glob(f"*{SEEN}"):  # of shards kept from a stopped packing
        place.unlink()
    (partial / "shards").replace(out)
