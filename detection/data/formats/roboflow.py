"""Roboflow's downloads, whichever format was chosen: folders train, valid and test with files of that format.

data.yaml                     YOLO, of any version      ../train/images is read as train/images
train/_annotations.coco.json  COCO                      without the class 0 that names the project
train/a.xml                   Pascal VOC
train/_annotations.csv        TensorFlow's CSV          filename,width,height,class,xmin,ymin,xmax,ymax
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from detection.data.formats import reader
from detection.data.formats.coco import read_file
from detection.data.formats.pictures import Pictures, background, check_missing, split_of
from detection.data.formats.records import Asked, DataSet, Photo, Thing, check_classes, classes_of, number
from detection.data.formats.voc import read_voc
from detection.data.formats.yolo import read_yolo
from shared.errors import DataError
from shared.feeding.layouts import VOC, YOLO, layout_of

BESIDE, TABLE = "_annotations.coco.json", "_annotations.csv"
COLUMNS = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


@reader("roboflow")
def read_roboflow(source: Path, asked: Asked) -> DataSet:
    """Read a folder that Roboflow made.

    Raises:
        DataError: it is in none of these formats, or a file is wrong.
    """
    for name, read in ((BESIDE, read_beside), (TABLE, read_tables)):
        files = sorted(source.rglob(name))
        if files:
            return read(source, files, asked)
    read_as = {YOLO: read_yolo, VOC: read_voc}.get(layout_of(source) or "")
    if read_as is None:
        raise DataError(f"{source} has nothing that Roboflow writes; download it again as COCO, YOLO or Pascal VOC")
    return read_as(source, asked)


def read_beside(source: Path, files: list[Path], asked: Asked) -> DataSet:
    """_annotations.coco.json of each split."""
    data: DataSet | None = None
    for file in files:
        part = read_file(file, file.parent, split_of(file, source), asked)
        if data is not None and part.classes != data.classes:
            raise DataError(f"{file} has other classes than {files[0]}; download the version again")
        data = part if data is None else data
        data.splits |= part.splits
    assert data is not None
    used = {thing.name for photos in data.splits.values() for photo in photos for thing in photo.things}
    projects = {entry.get("supercategory") for file in files for entry in categories_of(file)}
    if len(data.classes) > 1 and data.classes[0] not in used and data.classes[0] in projects:
        data.notes.append(f"class '{data.classes[0]}' left out: it names the project and has no objects")
        data.classes, data.ids = data.classes[1:], None if data.ids is None else data.ids[1:]
    return data


def categories_of(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text("utf-8-sig"))["categories"]


def read_tables(source: Path, files: list[Path], asked: Asked) -> DataSet:
    """_annotations.csv of each split."""
    pictures = Pictures(asked.images or source)
    photos: dict[Path, Photo] = {}
    missing: list[str] = []
    seen: list[tuple[str, Path]] = []
    for file in files:
        with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
            rows = list(enumerate(csv.DictReader(lines), 2))
        for line, row in rows:
            where = f"{file}, line {line},"
            if any(row.get(column) is None for column in COLUMNS):
                raise DataError(f"{where} is cut off; the file may be copied in part")
            image = pictures.find(row["filename"], file)
            if image is None:
                missing.append(row["filename"])
                continue
            pictures.taken[image] = file
            width, height, *corners = (
                number(row[c], f"{where} {c}") for c in COLUMNS if c not in ("filename", "class")
            )
            left, top, right, bottom = corners
            if right < left or bottom < top:
                raise DataError(f"{where} has a box whose max is below its min; correct it")
            photo = photos.setdefault(image, Photo(image, (int(height), int(width)), []))
            photo.things.append(Thing(row["class"].strip(), (left, top, right - left, bottom - top)))
            seen.append((photo.things[-1].name, file))
    classes = classes_of(seen, asked)
    check_classes(classes, files[0])
    unlabeled = pictures.unlabeled()
    splits: dict[str, list[Photo]] = {}
    for photo in [*photos.values(), *(Photo(image, None, []) for image in unlabeled)]:
        splits.setdefault(split_of(photo.file, pictures.folder), []).append(photo)
    notes = [*pictures.notes, *check_missing(sorted(set(missing)), asked, source, "image"), *background(len(unlabeled))]
    return DataSet(classes, splits, notes=notes)
