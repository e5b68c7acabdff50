"""Writing one shard: entries -> checked and optionally resized images -> tar, index, digests, and note.

    read -> header checked; unreadable images are skipped, with the reason
         -> resized, if the short side is too long; otherwise unchanged
         -> restart markers, if requested; the pixels stay the same
         -> digests, beside the index: a mark of the bytes and, if requested, a fingerprint of the picture

The same entries and treatment give the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from pretrain.data.digests import look, places, write_digests
from pretrain.data.layout import LEFT_OUT
from pretrain.data.restart_markers import marked, rows_of
from pretrain.data.shard_index import open_index
from pretrain.data.tfrecord import photograph, read_record
from pretrain.packing.elsewhere import is_address, read_at
from pretrain.packing.listing import Entry
from shared.errors import DataError
from shared.feeding.fingerprint import fingerprints
from shared.feeding.headers import FIRST, mark_of
from shared.feeding.image import BadImage, decode_image, image_size, is_jpeg
from shared.feeding.tar import OpenFile, attempt, index_places

BICUBIC = Image.Resampling.BICUBIC
QUALITY = 95  # of resized JPEG and lossy WebP


@dataclass(frozen=True)
class Treatment:
    """Options for every image.

    verify: decode it, instead of reading only its header. short_side: in pixels, to which larger images are resized.
    jpegtran: path of the program that writes restart markers; None for no markers.
    fingerprints: of what each image shows, beside the mark of its bytes.
    """

    verify: bool = False
    short_side: int | None = None
    jpegtran: str | None = None
    fingerprints: bool = False


@dataclass
class Note:
    """Summary of a finished shard.

    classes: class names from records, by number; classes_to: highest label + 1. skipped: skipped images and reasons.
    made_from: digest of its input files' paths, sizes and times. sha256: of the shard.
    """

    samples: int = 0
    bytes: int = 0
    shrunk: int = 0
    marked: int = 0
    classes_to: int = 0
    classes: dict[str, str] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    made_from: str = ""
    sha256: str = ""


class Task(NamedTuple):
    """A shard to write, and the path of its note."""

    shard: Path
    note: Path
    entries: Sequence[Entry]

    def made_from(self) -> str:
        """Digest of the entries' paths, sizes and modification times."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(os.fsencode(f"{entry.file}\0{entry.begin}\0{entry.size}\0{entry.changed}\n"))
        return digest.hexdigest()


def write_shard(task: Task, treatment: Treatment, tick: Callable[[], None]) -> Note:
    """Write one shard, its index, its digests and finally its note; only the note if no image is readable.

    Args:
        tick: called after every entry.

    Raises:
        DataError: a damaged or invalid record, or records with contradicting class names.
        OSError: the shard cannot be written.
    """
    reader = Reader(treatment, Note(made_from=task.made_from()))
    stale = task.shard.parent.glob(f"{task.shard.stem}.digests-*.npy")
    for path in (task.shard, *index_places(task.shard), *stale):  # left by a packing that was stopped before its note
        path.unlink(missing_ok=True)
    aside = task.shard.with_name(f"{task.shard.name}.{attempt()}.partial")
    try:
        _write_tar(aside, task.entries, reader, tick)
        if reader.note.samples:
            aside.replace(task.shard)
    finally:
        aside.unlink(missing_ok=True)
    if reader.note.samples:
        reader.note.sha256 = open_index(task.shard).sha256
        write_digests(task.shard, reader.note.sha256, reader.digests())
        if lost := next((path for path in beside(task, reader.note) if not path.is_file()), None):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(lost))
    written = task.note.with_name(f"{task.note.stem}.{attempt()}.partial")
    written.write_text(json.dumps(asdict(reader.note)), encoding="utf-8")
    written.replace(task.note)
    return reader.note


def _write_tar(place: Path, entries: Sequence[Entry], reader: Reader, tick: Callable[[], None]) -> None:
    from webdataset.writer import TarWriter  # slow to import

    with place.open("wb") as file:
        options: dict[str, Any] = {"encoder": False, "mtime": 0, "format": "PAX_FORMAT"}  # same input, same bytes
        with closing(TarWriter(file, **options)) as tar:
            for entry in entries:
                if sample := reader.sample(entry):
                    tar.write(sample)
                tick()
        file.flush()
        os.fsync(file.fileno())


def beside(task: Task, note: Note) -> list[Path]:
    """The files that belong to a shard with images."""
    return [index_places(task.shard)[0], places(task.shard, note.sha256)[0]]


def finished(task: Task) -> Note | None:
    """The note of a shard that is complete, matches its note, and was made from unchanged files; else None."""
    with suppress(OSError, ValueError, TypeError, DataError):
        note = Note(**json.loads(task.note.read_text(encoding="utf-8")))
        there = not note.samples or open_index(task.shard).sha256 == note.sha256
        whole = there and all(path.is_file() for path in beside(task, note) if note.samples)
        return note if whole and note.made_from == task.made_from() else None
    return None


class Reader:
    """Reads entries as samples of a shard, and records statistics in a note."""

    def __init__(self, treatment: Treatment, note: Note) -> None:
        self.treatment, self.note = treatment, note
        self.marks: list[int] = []
        self.pictures: list[np.ndarray] = []  # small ones, if fingerprints are wanted
        self._open = lru_cache(maxsize=4)(OpenFile)

    def sample(self, entry: Entry) -> dict[str, Any] | None:
        """The members of one sample, or None for an unusable image."""
        try:
            data, label, notes = self.read(entry)
            ending = Path(entry.name).suffix[1:].lower() if entry.label is not None else ending_of(data)
            data = self.treated(data)
            mark, picture = look(data) if self.treatment.fingerprints else (mark_of(data[:FIRST], len(data)), None)
        except (BadImage, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            self.note.skipped.append((entry.name, reason or str(error)))
            return None
        self.note.samples += 1
        self.marks.append(mark)
        if picture is not None:
            self.pictures.append(picture)
        self.note.bytes += len(data)
        about = {"json": json.dumps(notes, sort_keys=True).encode()} if notes else {}
        return {"__key__": entry.key, ending: data, "cls": str(label).encode(), **about}

    def digests(self) -> np.ndarray:
        """(N, 1) or (N, 4) uint64 of the samples, in their order."""
        marks = np.array(self.marks, np.uint64)[:, None]
        return np.column_stack([marks, fingerprints(np.stack(self.pictures))]) if self.pictures else marks

    def read(self, entry: Entry) -> tuple[bytes, int, dict[str, str]]:
        """The image file of an entry, its label, and further features of its record."""
        file = Path(entry.file)
        if entry.label is None:
            payload = read_record(self._open(file).descriptor, file, entry.begin, entry.size)
            data, label, notes = photograph(payload, file, entry.begin)
            self.note.classes_to = max(self.note.classes_to, label + 1)
            if name := " ".join((notes.get("synset") or notes.get("text", "")).split()):
                learn(self.note.classes, str(label), name)
            return data, label, notes
        if entry.begin == 0:
            return read_at(entry.file) if is_address(entry.file) else file.read_bytes(), entry.label, {}
        return os.pread(self._open(file).descriptor, entry.size, entry.begin), entry.label, {}

    def treated(self, data: bytes) -> bytes:
        treatment, size = self.treatment, image_size(data)
        if treatment.verify:
            decode_image(data, upright=True)
        if treatment.short_side is not None and min(size) > treatment.short_side:
            data = shrunk(data, treatment.short_side, restart_markers=treatment.jpegtran is not None)
            self.note.shrunk += 1
        if treatment.jpegtran is not None:
            data = marked(data, treatment.jpegtran)
            self.note.marked += rows_of(data) is not None
        return data


def learn(classes: dict[str, str], number: str, name: str) -> None:
    """Record the name of a class. Raises DataError if it had another name before."""
    if (known := classes.setdefault(number, name)) != name:
        raise DataError(
            f"class {int(number) + 1} is '{known}' in one record and '{name}' in another; pack such records separately"
        )


def ending_of(data: bytes) -> str:
    """File extension of an image from its first bytes. Raises BadImage for unsupported formats."""
    if is_jpeg(data):
        return "jpg"
    if data[:4] == b"\x89PNG":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    raise BadImage(LEFT_OUT)


def shrunk(data: bytes, short_side: int, *, restart_markers: bool) -> bytes:
    """Resize an image file to a short side, in the same format, with EXIF rotation applied.

    Bicubic with antialiasing. JPEG and lossy WebP are written at quality 95 with the same chroma subsampling; PNG and
    lossless WebP stay lossless. The result has 8 bits, no transparency and no metadata.
    """
    image = Image.fromarray(decode_image(data, upright=True).permute(1, 2, 0).contiguous().numpy())
    scale = short_side / min(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), BICUBIC)
    before, to = Image.open(io.BytesIO(data)), io.BytesIO()
    if before.mode == "L":
        image = image.getchannel(0)
    if is_jpeg(data):
        rows = {"restart_marker_rows": 1} if restart_markers else {}
        sampling = max(get_sampling(before), 0)  # below 0 is an unsupported subsampling: no subsampling then
        image.save(to, "JPEG", quality=QUALITY, subsampling=sampling, optimize=True, **rows)
    elif before.format == "WEBP":
        image.save(to, "WEBP", quality=QUALITY, lossless=b"VP8L" in data)
    else:
        image.save(to, "PNG", optimize=False)
    return to.getvalue()
