"""`detect convert FROM TO SRC OUT`: a data set of another tool -> COCO files, or YOLO's or VOC's.

    reader -> DataSet -> sizes and turning from the headers of the images, shares to pixels -> writer -> OUT

Images are not copied; OUT has links to them. OUT is complete or does not exist, and is never overwritten.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations.box_format import check_box_format
from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.skeleton import Skeleton
from detection.data.formats import reader, writer
from detection.data.formats.records import Asked, DataSet, Mask, Photo, Thing, some
from detection.data.photographs import Turn, listed_bad, look_at, upright_said
from shared.errors import DataError, UsageError, plural
from shared.feeding.headers import Picture

EXACT = 6  # decimals of a pixel: shares of seven digits come back as the pixels that they were
OUTSIDE = 1.0  # pixels that a box may reach over the edge without a word about it


class Converted(NamedTuple):
    """Summary of a conversion.

    images, objects: by split.
    keypoints: of an object; 0 for none.
    """

    images: dict[str, int]
    objects: dict[str, int]
    classes: int
    keypoints: int
    notes: list[str]
    then: list[str]

    def lines(self) -> list[str]:
        """The lines to print."""
        points = f" of {self.keypoints} keypoints" if self.keypoints else ""
        counts = [
            f"{split}: {plural(self.images[split], 'image')}, {plural(self.objects[split], 'object')}{points}"
            for split in self.images
        ]
        return [*counts, *self.notes, *self.then]


def convert(
    kinds: tuple[str, str],
    source: Path,
    out: Path,
    asked: Asked = Asked(),  # noqa: B008 - it cannot be changed
    *,
    options: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
    skeleton: Skeleton | None = None,
    turn: Turn = "auto",
) -> Converted:
    """Read a data set of one kind, and write it as another.

    Args:
        kinds: names of the reader and of the writer.
        source: a folder or file, as the reader takes it.
        out: a folder that does not exist yet.
        options: of the reader and of the writer.
        skeleton: of the keypoints; None for that of the source.
        turn: whether labels are on pictures turned by EXIF, where neither sizes nor boxes tell.

    Raises:
        DataError: invalid source, or `out` exists or cannot be written.
        UsageError: an unknown kind or option.
    """
    if kinds[0] == kinds[1]:
        raise UsageError(f"from {kinds[0]} to {kinds[1]} there is nothing to convert; give another format")
    if os.path.lexists(out):
        raise DataError(f"{out} already exists; give another folder or remove it first")
    if source.is_dir() and source.resolve() in out.resolve().parents:
        raise DataError(f"{out} is in {source}, where nothing is written; give a folder beside it")
    data = reader.build(kinds[0], source, asked, **options[0])
    if not any(photo.things for photos in data.splits.values() for photo in photos):
        raise DataError(f"{source} has no objects; give labels of objects")
    if skeleton is not None:
        data.skeletons = described(data, skeleton, source)
    data, notes = settled(data, source, turn)
    then = written(out, lambda aside: writer.build(kinds[1], data, aside, out, **options[1]))
    return Converted(
        {split: len(photos) for split, photos in data.splits.items()},
        {split: sum(len(photo.things) for photo in photos) for split, photos in data.splits.items()},
        len(data.classes),
        max((len(words["keypoints"]) for words in data.skeletons.values()), default=0),
        [*data.notes, *notes],
        then,
    )


def written(out: Path, write: Callable[[Path], list[str]]) -> list[str]:
    """What `write` prints about a folder that it fills aside, and that is renamed when it is complete."""
    aside = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        then = write(aside)
        aside.rename(out)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise DataError(f"cannot write {out} ({error}); give a writable folder") from None
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return then


def described(data: DataSet, skeleton: Skeleton, source: Path) -> dict[str, dict[str, Any]]:
    """The skeleton for every class that has keypoints. Raises DataError for another number of keypoints."""
    counts = {len(words["keypoints"]) for words in data.skeletons.values()}
    if counts - {len(skeleton)}:
        counted = [*map(str, sorted(counts)), f"{len(skeleton)} in the skeleton"]
        raise DataError(f"{source} has {' and '.join(counted)} keypoints per object; give all the same number")
    return {name: skeleton.to_words() for name in data.skeletons}


def settled(data: DataSet, source: Path, turn: Turn) -> tuple[DataSet, list[str]]:
    """The data in pixels of pictures whose sizes are known, and notes.

    Raises:
        DataError: an image cannot be read, or has another size than the source tells.
    """
    by_shares = data.shares and turn == "auto"
    notes: list[str] = []
    splits: dict[str, list[Photo]] = {}
    for split, photos in data.splits.items():
        table = table_of(source, data, photos)
        seen = look_at(table, [Picture(photo.file) for photo in photos], "upright" if by_shares else turn)
        if seen.bad:
            raise DataError(listed_bad(seen, "correct or remove them")[0])
        table = upright_said(seen)
        uprights = [-1] * len(photos) if table.upright is None else table.upright.tolist()
        told = zip(photos, table.sizes.tolist(), uprights, strict=True)
        splits[split] = [
            Photo(
                photo.file,
                (height, width),
                [in_pixels(thing, width, height) for thing in photo.things] if data.shares else photo.things,
                None if upright < 0 else bool(upright),
            )
            for photo, (height, width), upright in told
        ]
        if data.check_boxes and len(table.boxes):
            check_box_format(table_of(source, data, splits[split]))
        said = "turned, as programs that read such labels do; --as-stored reads them as stored"
        notes += [f"{split}: {note.replace('turned by --upright', said) if by_shares else note}" for note in seen.notes]
    return replace(data, splits=splits, shares=False), [*notes, *about_boxes(splits)]


def table_of(source: Path, data: DataSet, photos: Sequence[Photo]) -> CocoTable:
    """The photographs and boxes of a split in columns."""
    things = [] if data.shares else [(row, thing) for row, photo in enumerate(photos) for thing in photo.things]
    numbers = {name: label for label, name in enumerate(data.classes, 1)}
    boxes = np.array([thing.box for _, thing in things], np.float64).reshape(-1, 4)
    upright = [-1 if photo.upright is None else int(photo.upright) for photo in photos]
    return CocoTable(
        source,
        "",
        categories={label: name for name, label in numbers.items()},
        image_ids=np.arange(1, len(photos) + 1),
        sizes=np.array([photo.size or (0, 0) for photo in photos], np.int32),
        file_names=np.array([str(photo.file).encode() for photo in photos]),
        image_of=np.array([row for row, _ in things], np.int32),
        boxes=boxes,
        category_ids=np.array([numbers[thing.name] for _, thing in things], np.int32),
        areas=boxes[:, 2:].clip(0).prod(axis=1),
        crowd=np.array([thing.crowd for _, thing in things], dtype=bool),
        upright=np.array(upright, np.int8) if any(value >= 0 for value in upright) else None,
        unsized=np.array([photo.size is None for photo in photos]),
    )


def in_pixels(thing: Thing, width: int, height: int) -> Thing:
    """Shares of width and height -> pixels."""

    def pixels(values: Sequence[float]) -> list[float]:
        return [round(v * side, EXACT) for v, side in zip(values, (width, height) * (len(values) // 2), strict=True)]

    x, y, w, h = pixels(thing.box)
    mask: Mask | None = [pixels(ring) for ring in thing.mask] if isinstance(thing.mask, list) else thing.mask
    places = zip(thing.points[0::3], thing.points[1::3], thing.points[2::3], strict=True)
    points = tuple(value for a, b, seen in places for value in (*pixels((a, b)), seen))
    return thing._replace(box=(x, y, w, h), mask=mask, points=points)


def about_boxes(splits: dict[str, list[Photo]]) -> list[str]:
    """Notes about boxes that reach over the edge of their image, and about those without any size."""
    outside: dict[str, int] = {}
    flat: dict[str, int] = {}
    for photo in (photo for photos in splits.values() for photo in photos):
        height, width = photo.size or (0, 0)
        for x, y, w, h in (thing.box for thing in photo.things):
            if x < -OUTSIDE or y < -OUTSIDE or x + w > width + OUTSIDE or y + h > height + OUTSIDE:
                outside[photo.file.name] = outside.get(photo.file.name, 0) + 1
            if w <= 0 or h <= 0:
                flat[photo.file.name] = flat.get(photo.file.name, 0) + 1
    said = {"over the edge, which training clips": outside, "without area, which training drops": flat}
    return [
        f"{plural(sum(found.values()), 'box')} {what}, written as in the source: in {some(list(found))}"
        for what, found in said.items()
        if found
    ]
