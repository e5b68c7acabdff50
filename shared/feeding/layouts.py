"""The layouts of data sets that people have, recognized by names and first bytes, so that a message can name them.

    data.yaml, or images/ beside labels/*.txt         YOLO
    JPEGImages/ or images with Annotations/*.xml      Pascal VOC
    annotations.xml of <annotations>                  CVAT
    *.csv of ImageID,LabelName,XMin,...               Open Images
    train/_annotations.coco.json                      COCO JSON per split, as Roboflow exports it
    annotations/*.json of "images" and "categories"   COCO
    *.json of "shapes" and "imagePath"                labelme
    <class>/*.jpg                                     class folders

Folders are listed two levels deep, and a few files of each are looked at, since the file system may be remote.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from shared.feeding.names import is_image

LISTED = 200  # entries of a folder to look at
HEAD = 65_536  # bytes of a file to look at
SPLITS = ("train", "val", "valid", "validation", "test", "dev")
YOLO, VOC, CVAT, LABELME, COCO = "YOLO", "Pascal VOC", "CVAT", "labelme", "COCO"
CSV, OPEN_IMAGES, FOLDERS, IMAGES, SHARDS = "CSV", "Open Images", "class folders", "images", "shards"


def layout_of(path: Path) -> str | None:
    """The layout of a file or folder: one of the names above, or None for an unknown one."""
    try:
        if path.is_dir():
            return _of_folder(path)
        return _of_file(path) if path.is_file() else None
    except OSError:
        return None


def coco_files(folder: Path) -> list[Path]:
    """COCO JSON files in a folder and the folders in it, at most a few."""
    inside = [folder, *(entry for entry in _entries(folder) if entry.is_dir())]
    files = [entry for part in inside for entry in _entries(part) if entry.suffix == ".json" and entry.is_file()]
    return [file for file in files[:20] if _of_file(file) == COCO]


def is_open_images(file: Path) -> bool:
    """True for a CSV of boxes with the columns of Open Images."""
    columns = _head(file).partition("\n")[0].strip("\ufeff\r ").split(",")
    return {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"} <= {*columns}


def _entries(folder: Path) -> list[Path]:
    with os.scandir(folder) as scan:
        return sorted(Path(entry.path) for entry in islice(scan, LISTED) if not entry.name.startswith("."))


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(HEAD).decode("utf-8", "replace")


def _of_file(path: Path) -> str | None:
    ending = path.suffix.lower()
    if ending == ".tar":
        return SHARDS
    if ending not in (".yaml", ".yml", ".xml", ".txt", ".json", ".csv"):
        return None
    text = _head(path)
    if ending in (".yaml", ".yml"):
        return (
            YOLO
            if re.search(r"^names\s*:", text, re.M) and re.search(r"^(train|val|path|nc)\s*:", text, re.M)
            else None
        )
    if ending == ".xml":
        return CVAT if re.search(r"<annotations[\s>]", text) else VOC if re.search(r"<annotation[\s>]", text) else None
    if ending == ".txt":
        line = text.strip().partition("\n")[0]
        return YOLO if re.fullmatch(r"\d+(\s+-?[\d.]+(e-?\d+)?){4,}\s*", line) else None
    if ending == ".csv":
        return OPEN_IMAGES if is_open_images(path) else CSV
    if '"shapes"' in text and ('"imagePath"' in text or '"imageData"' in text):
        return LABELME
    return COCO if re.search(r'"(annotations|images|categories|licenses|info)"\s*:', text) else None


def _of_folder(folder: Path) -> str | None:
    entries = _entries(folder)
    folders = {entry.name.lower(): entry for entry in entries if entry.is_dir()}
    files = [entry for entry in entries if entry.is_file()]
    inside = {name: _entries(part) for name, part in folders.items()}
    if any(entry.suffix == ".tar" for entry in files):
        return SHARDS
    if "jpegimages" in folders or any(entry.suffix.lower() == ".xml" for entry in inside.get("annotations", ())):
        return VOC if "jpegimages" in folders else _first(inside["annotations"], ".xml")
    if coco_files(folder):
        return COCO
    for part in (files, *inside.values()):
        kinds = {_first(part, ending) for ending in (".yaml", ".yml", ".xml", ".json")}
        found = next((kind for kind in (YOLO, VOC, CVAT, LABELME) if kind in kinds), None)
        if found is not None:
            return found
    labels = [part for name in ("labels", *SPLITS) if name in folders for part in _below(folders[name])]
    if any(_first(part, ".txt") == YOLO for part in (files, *labels)):
        return YOLO
    if any(_first(part, ".csv") == OPEN_IMAGES for part in (files, *inside.values())):
        return OPEN_IMAGES
    if any(name.startswith("_annotations") and name.endswith(".csv") for name in _names(files, *inside.values())):
        return CSV
    if any(is_image(entry.name) for entry in files):
        return IMAGES
    others = ("images", "annotations", "labels")
    parts = [part for name in SPLITS if name in folders for part in inside[name] if part.name not in others]
    deeper = [_entries(part) for part in parts if part.is_dir()]
    classes = [part for name, part in inside.items() if name not in others]
    if any(is_image(entry.name) for part in (*classes, *deeper) for entry in part):
        return FOLDERS
    return None


def _below(folder: Path) -> Iterator[list[Path]]:
    """The entries of a folder, and of the folders in it."""
    entries = _entries(folder)
    yield entries
    for entry in entries:
        if entry.is_dir():
            yield _entries(entry)


def _first(entries: list[Path], ending: str) -> str | None:
    """The layout of the first file with this ending, among a few."""
    files = [entry for entry in entries if entry.suffix.lower() == ending][:3]
    return next((kind for kind in map(_of_file, files) if kind is not None), None)


def _names(*parts: list[Path]) -> Iterator[str]:
    return (entry.name for part in parts for entry in part)
