"""Open Images: CSV files of boxes as shares of the image, and images called by their ids.

    train-annotations-bbox.csv       ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf,...   also oidv6-train-...
    class-descriptions-boxable.csv   /m/01g317,Person
    train/0a1b2c.jpg                 images of a split, or of all, in any folder

The files list millions of images; those that are in the folder are taken, and their number is said. A group of objects
in one box (IsGroupOf) becomes a crowd.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from detection.data.formats import reader
from detection.data.formats.pictures import Pictures, background
from detection.data.formats.records import SPLIT_OF, Asked, DataSet, Photo, Thing, classes_of, number
from shared.errors import DataError
from shared.feeding.layouts import is_open_images

SIDES = ("XMin", "XMax", "YMin", "YMax")
WHERE = "give the folder that holds train-annotations-bbox.csv, class-descriptions-boxable.csv and the images"


@reader("openimages")
def read_openimages(source: Path, asked: Asked) -> DataSet:
    """Read a folder of Open Images.

    Raises:
        DataError: a file is missing or wrong.
    """
    files = sorted(source.rglob("*.csv")) if source.is_dir() else [source]
    tables = [file for file in files if file.is_file() and is_open_images(file)]
    if not tables:
        raise DataError(f"{source} has no boxes of Open Images; {WHERE}")
    root = source if source.is_dir() else source.parent
    names = descriptions(root)
    pictures = Pictures(asked.images or root)
    splits: dict[str, dict[Path, Photo]] = {}
    absent: dict[str, set[str]] = {}
    used: dict[tuple[str, Path], None] = {}
    for file in tables:
        split = split_in(file.relative_to(root))
        photos, gone = splits.setdefault(split, {}), absent.setdefault(split, set())
        for line, row in rows_of(file):
            where = f"{file}, line {line},"
            image = None if row["ImageID"] in gone else pictures.find("", file, stem=row["ImageID"])
            if image is None:
                gone.add(row["ImageID"])
                continue
            pictures.taken[image] = file
            photo = photos.setdefault(image, Photo(image, None, []))
            photo.things.append(thing_of(row, names, where))
            used[photo.things[-1].name, file] = None
    notes = list(pictures.notes)
    for split, gone in absent.items():
        if gone:
            notes.append(
                f"{split}: {len(splits[split]):,} of {len(splits[split]) + len(gone):,} images of the CSV are there"
            )
    unlabeled = pictures.unlabeled()
    for image in unlabeled:
        splits.setdefault(split_in(image.relative_to(pictures.folder)), {})[image] = Photo(image, None, [])
    kept = {name: [*photos.values()] for name, photos in splits.items() if any(p.things for p in photos.values())}
    if not kept:
        raise DataError(f"none of the images of {tables[0]} are in {pictures.folder}; {WHERE}")
    classes = classes_of(used, asked)
    return DataSet(classes, kept, shares=True, notes=[*notes, *background(len(unlabeled))])


def split_in(inside: Path) -> str:
    """train, val or test, by the first word of a path that says so; else train."""
    words = re.findall(r"[a-z]+", str(inside).lower())
    return next((SPLIT_OF[word] for word in words if word in SPLIT_OF), "train")


def rows_of(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each line with its number. Raises DataError for one that is cut off."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        for line, row in enumerate(csv.DictReader(lines), 2):
            if any(row.get(column) is None for column in ("ImageID", "LabelName", *SIDES)):
                raise DataError(f"{file}, line {line}, is cut off; the file may be copied in part")
            yield line, row


def thing_of(row: dict[str, str], names: dict[str, str], where: str) -> Thing:
    left, right, top, bottom = (number(row[side], f"{where} {side}") for side in SIDES)
    if not (-0.01 <= left <= right <= 1.01 and -0.01 <= top <= bottom <= 1.01):
        raise DataError(f"{where} has the box {left:g} {right:g} {top:g} {bottom:g}; it goes from 0 to 1, correct it")
    name = names.get(row["LabelName"], row["LabelName"]).strip()
    if not name:
        raise DataError(f"{where} has no LabelName; correct it")
    return Thing(name, (left, top, right - left, bottom - top), crowd=row.get("IsGroupOf") == "1")


def descriptions(root: Path) -> dict[str, str]:
    """{/m/01g317: Person} of all files of class descriptions; two labels of one name keep theirs apart."""
    names: dict[str, str] = {}
    for file in sorted(root.rglob("*class*.csv")):
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            names |= {row[0]: row[1] for row in csv.reader(lines) if len(row) == 2 and row[0].startswith("/")}
    times = Counter(names.values())
    return {label: f"{name} ({label})" if times[name] > 1 else name for label, name in names.items()}
