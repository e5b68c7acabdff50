"""Images of folders, lists and TFRecords -> WebDataset shards with an index beside each: `pretrain pack FROM OUT`.

    FROM -> entries, split and in order (sources.py) -> cut into shards beforehand, by count and by bytes
         -> shards, several at a time (pack_jobs.py, pack_shard.py), in .OUT.partial/shards, a note of each beside
         -> all there: numbered, classes.txt written, and the folder takes the name OUT

Image files are kept byte for byte unless asked otherwise. Which image goes where is settled before the first is read,
so the shards are the same with any number of processes, and a packing that was stopped or killed goes on with the
shards that have no note. OUT is whole or absent.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pretrain.data.restart_markers import jpegtran
from pretrain.packing.jobs import write_shards
from pretrain.packing.shard_writer import Note, Task, Treatment, finished, learn
from pretrain.packing.sources import Entry, Source, find_source
from shared.errors import DataError, UsageError
from shared.feeding.tar import index_places
from shared.feeding.unfinished import unfinished


@dataclass(frozen=True)
class Packed:
    """What was written.

    samples: by split. bytes: of image files. shrunk, marked: images that were resized, and that have restart markers.
    skipped: what was left out, with reasons. kept: shards that an earlier, unfinished packing had made.
    """

    samples: dict[str, int]
    classes: list[str]
    shards: int
    bytes: int
    skipped: list[tuple[str, str]]
    shrunk: int = 0
    marked: int = 0
    kept: int = 0


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
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Write images into shards; go on where an earlier packing of the same was stopped.

    Args:
        place: class folders, or train and val folders of them; a plain tar of either; a list; TFRecords.
        out: a folder that is empty or does not exist yet.
        kind: "folder", "list" or "tfrecord", where `place` does not tell.
        root: folder that the paths of a list count from.
        shard_size, shard_bytes: images, and bytes of them as they are read, at which a shard is full.
        val_share: of the images go to val, chosen by a hash of the name; for data without a val of its own.
        short_side: in pixels, to which larger images are shrunk.
        restart_markers: write JPEGs so that a crop decodes its own rows only; needs the program jpegtran.
        verify: decode every image instead of reading its header only.
        jobs: processes, each writing a shard.
        progress: told the images done and their total.

    Raises:
        DataError: nothing to pack or nothing readable, a damaged record, or `out` holds something.
        UsageError: a number out of range, or no jpegtran.
        Stopped: interrupted, with finished shards to go on from.
    """
    place, out = Path(place), Path(out)
    if shard_size < 1 or shard_bytes < 1 or not 0 <= val_share < 1:
        raise UsageError("shards hold at least one sample, and the share for val is from 0 to below 1")
    if jobs < 1 or (short_side is not None and short_side < 1):
        raise UsageError("--jobs and --short-side are at least 1; leave them out for all cores and images as they are")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already and not empty; name another folder or remove it first")
    treatment = Treatment(verify, short_side, jpegtran() if restart_markers else None)
    source = find_source(place, kind=kind, root=None if root is None else Path(root), val_share=val_share)
    shards = {split: list(cut(entries, shard_size, shard_bytes)) for split, entries in source.splits.items()}
    try:
        with unfinished(out, stamp(source, shards, treatment)) as partial:
            made, kept = make(tasks_of(shards, partial), treatment, jobs, progress)
            packed = summary(place, source, made, kept)
            settle(partial, made, packed.classes, out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}; make room or name another folder") from None
    return packed


Made = list[tuple[Task, Note]]


def tasks_of(shards: dict[str, list[Sequence[Entry]]], partial: Path) -> list[Task]:
    return [
        Task(partial / "shards" / f"{split}-{n:06d}.tar", partial / "notes" / f"{split}-{n:06d}.json", entries)
        for split, parts in shards.items()
        for n, entries in enumerate(parts)
    ]


def make(tasks: list[Task], treatment: Treatment, jobs: int, progress: Callable[[int, int], None]) -> tuple[Made, int]:
    """Write the shards that are not there yet -> every task with its note, and how many were there."""
    notes = [finished(task) for task in tasks]
    left = [task for task, note in zip(tasks, notes, strict=True) if note is None]
    total = sum(len(task.entries) for task in tasks)
    done = total - sum(len(task.entries) for task in left)
    new = iter(write_shards(left, treatment, jobs, lambda more: progress(done + more, total)))
    made = [(task, next(new) if note is None else note) for task, note in zip(tasks, notes, strict=True)]
    return made, len(tasks) - len(left)


def cut(entries: Sequence[Entry], count: int, size: int) -> Iterator[Sequence[Entry]]:
    """Entries -> those of one shard after another: full at `count` of them, or when their bytes reach `size`."""
    first = held = 0
    for n, entry in enumerate(entries):
        if n > first and (n - first >= count or held >= size):
            yield entries[first:n]
            first, held = n, 0
        held += entry.size
    if len(entries) > first:
        yield entries[first:]


def stamp(source: Source, shards: dict[str, list[Sequence[Entry]]], treatment: Treatment) -> str:
    """Which image goes where, and how: in one word, by which an unfinished packing knows its own."""
    digest = hashlib.sha256(json.dumps([source.classes, source.skipped, asdict(treatment)]).encode())
    for split, parts in shards.items():
        for n, part in enumerate(parts):
            for entry in part:
                digest.update(os.fsencode(f"{split}\0{n}\0{entry.key}\0{entry.label}\n"))
    return digest.hexdigest()


def summary(place: Path, source: Source, made: Made, kept: int) -> Packed:
    """What the notes of all shards come to. Raises DataError if no image could be read, or classes disagree."""
    samples: Counter[str] = Counter()
    classes: dict[str, str] = {}
    for task, note in made:
        samples[task.shard.name.rpartition("-")[0]] += note.samples
        for number, name in note.classes.items():
            learn(classes, number, name)
    notes = [note for _, note in made]
    skipped = [*source.skipped, *((name, reason) for note in notes for name, reason in note.skipped)]
    if not any(samples.values()):
        raise DataError(f"no image of {place} can be read, for example {': '.join(skipped[-1])}; look at the files")
    count = max(note.classes_to for note in notes)
    return Packed(
        samples={split: number for split, number in samples.items() if number},
        classes=source.classes or [classes.get(str(n), f"class-{n}") for n in range(count)],
        shards=sum(note.samples > 0 for note in notes),
        bytes=sum(note.bytes for note in notes),
        skipped=skipped,
        shrunk=sum(note.shrunk for note in notes),
        marked=sum(note.marked for note in notes),
        kept=kept,
    )


def settle(partial: Path, made: Made, classes: list[str], out: Path) -> None:
    """Everything is there: number the shards without gaps, write the classes down, and take the name OUT."""
    (partial / "shards" / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    taken: Counter[str] = Counter()
    for shard in (task.shard for task, note in made if note.samples):
        split = shard.name.rpartition("-")[0]
        if (to := shard.with_name(f"{split}-{taken[split]:06d}.tar")) != shard:  # one before held no readable image
            shard.replace(to)
            index_places(shard)[0].replace(index_places(to)[0])
        taken[split] += 1
    (partial / "shards").replace(out)
