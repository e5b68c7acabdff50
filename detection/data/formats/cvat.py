"""CVAT: one XML about all images of a task, job or project, 'CVAT for images 1.1'.

    <box> <polygon> <ellipse> <mask>    objects; a turned box is its four corners, and the box around them
    <skeleton>                          an object with keypoints: outside 0, occluded 1, else 2
    <polyline> <points> <cuboid> <tag>  left out, and counted
    subset="Train", or train.xml        the split; a task without it is training data

Shapes of one label and group_id are one object, as in CVAT's own COCO export.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from detection.data.annotations.skeleton import Skeleton
from detection.data.formats import reader
from detection.data.formats.grouping import grouped
from detection.data.formats.pictures import Pictures, background, check_missing, split_of
from detection.data.formats.records import (
    SPLIT_OF,
    Asked,
    Box,
    DataSet,
    Mask,
    Photo,
    Thing,
    around,
    classes_of,
    ellipse,
    left_out,
    number,
    rectangle,
)
from detection.data.formats.safe_xml import read_xml, text_of
from detection.data.masks.rle import from_pixels
from shared.errors import DataError, plural
from shared.feeding.layouts import CVAT, layout_of

NO_AREA = ("polyline", "points", "cuboid", "tag")
AREAS = ("box", "polygon", "ellipse", "mask", "skeleton")
AGAIN = "export the task again as 'CVAT for images 1.1'"


@reader("cvat")
def read_cvat(source: Path, asked: Asked) -> DataSet:
    """Read a folder with annotations.xml and images, or the XML itself.

    Raises:
        DataError: a file is missing or wrong.
    """
    files = [source] if source.is_file() else [f for f in sorted(source.rglob("*.xml")) if layout_of(f) == CVAT]
    if not files:
        raise DataError(f"{source} has no XML of CVAT; {AGAIN}, and give its folder")
    root = source if source.is_dir() else source.parent
    pictures = Pictures(asked.images or root)
    labels: dict[str, list[str]] = {}
    splits: dict[str, list[Photo]] = {}
    missing: list[str] = []
    counts: dict[str, int] = {}
    seen: list[tuple[str, Path]] = []
    for file in files:
        top = read_xml(file, "annotations")
        if top.find("track") is not None:
            raise DataError(f"{file} is about a video; {AGAIN}, which has an entry for each frame")
        labels |= labels_of(top)
        for entry in top.iter("image"):
            name = entry.get("name") or ""
            image = pictures.find(name, file)
            if image is None:
                missing.append(name)
                continue
            pictures.take(image, file)
            photo = Photo(image, size_of(entry, file), things_of(entry, file, labels, counts))
            seen += [(thing.name, file) for thing in photo.things]
            subset = (entry.get("subset") or "").lower()
            split = SPLIT_OF.get(subset) or SPLIT_OF.get(file.stem.lower()) or split_of(image, pictures.folder)
            splits.setdefault(split, []).append(photo)
    unlabeled = [Photo(image, None, []) for image in pictures.unlabeled()]
    for photo in unlabeled:
        splits.setdefault(split_of(photo.file, pictures.folder), []).append(photo)
    classes = classes_of(seen, asked, list(labels) or None)
    skeletons = {
        name: Skeleton.from_words({"keypoints": points}, str(files[0])).to_words()
        for name, points in labels.items()
        if points
    }
    turned = counts.pop("turned box", 0)
    notes = [*pictures.notes, *check_missing(missing, asked, root, "image"), *left_out(counts)]
    if turned:
        notes.append(f"{plural(turned, 'turned box')} kept as the box around its corners, with the corners as its mask")
    return DataSet(classes, splits, skeletons=skeletons, notes=[*notes, *background(len(unlabeled))])


def labels_of(top: Element) -> dict[str, list[str]]:
    """{label: its keypoints} of <meta>; labels of keypoints are none themselves."""
    found: dict[str, list[str]] = {}
    entries = [entry for labels in top.iter("labels") for entry in labels.findall("label")]
    for entry in entries:
        if text_of(entry, "parent") is None and (name := text_of(entry, "name")):
            found[name] = []
    for entry in entries:
        parent, name = text_of(entry, "parent"), text_of(entry, "name")
        if parent in found and name:
            found[parent].append(name)
    return found


def size_of(entry: Element, file: Path) -> tuple[int, int]:
    where = f"{file}, image '{entry.get('name')}',"
    height, width = (int(number(entry.get(side), f"{where} {side}")) for side in ("height", "width"))
    return height, width


def things_of(entry: Element, file: Path, labels: dict[str, list[str]], counts: dict[str, int]) -> list[Thing]:
    """The objects of an <image>; what has no area is counted."""
    things: list[tuple[Thing, str | None]] = []
    for shape in entry:
        if shape.tag in NO_AREA:
            counts[shape.tag] = counts.get(shape.tag, 0) + 1
        if shape.tag not in AREAS:
            continue
        name = (shape.get("label") or "").strip()
        where = f"{file}, image '{entry.get('name')}', {shape.tag} '{name}',"
        if not name:
            raise DataError(f"{where} has no label; add it, or remove the shape")
        thing = thing_of(name, shape, size_of(entry, file), labels, counts, where)
        group = shape.get("group_id") or "0"
        things.append((thing, None if group == "0" else group))
    return grouped(things)


def thing_of(
    name: str, shape: Element, size: tuple[int, int], labels: dict[str, list[str]], counts: dict[str, int], where: str
) -> Thing:
    """One shape. Raises DataError."""

    def told(*keys: str) -> list[float]:
        return [number(shape.get(key), f"{where} {key}") for key in keys]

    degrees = number(shape.get("rotation") or "0", f"{where} rotation")
    if shape.tag == "box":
        left, top, right, bottom = told("xtl", "ytl", "xbr", "ybr")
        box: Box = (left, top, right - left, bottom - top)
        if right < left or bottom < top:
            raise DataError(f"{where} has a right side left of its left one, or is upside down; correct it")
        if not degrees % 360:
            return Thing(name, box)
        counts["turned box"] = counts.get("turned box", 0) + 1
        ring = rectangle(box, degrees)
        return Thing(name, around(ring), [ring])
    if shape.tag == "polygon":
        ring = points_of(shape, where)
        if len(ring) < 6:
            raise DataError(f"{where} has {len(ring) // 2} points; a polygon has 3 or more, correct or remove it")
        return Thing(name, around(ring), [ring])
    if shape.tag == "ellipse":
        cx, cy, across, down = told("cx", "cy", "rx", "ry")
        ring = ellipse(cx, cy, across, down, degrees)
        return Thing(name, around(ring), [ring])
    if shape.tag == "mask":
        return Thing(name, *pixels_of(shape, told("left", "top", "width", "height"), size, where))
    return skeleton_of(name, shape, labels.get(name, []), where)


def points_of(shape: Element, where: str) -> list[float]:
    """points="x,y;x,y" -> x y x y ..."""
    pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";") if pair]
    if any(len(pair) != 2 for pair in pairs):
        raise DataError(f"{where} has points that are no pairs x,y; {AGAIN}")
    return [number(value, where) for pair in pairs for value in pair]


def pixels_of(shape: Element, place: list[float], size: tuple[int, int], where: str) -> tuple[Box, Mask]:
    """A mask: runs of off and on, row by row, in its rectangle -> the box of its pixels, and their RLE."""
    left, top, width, height = map(int, place)
    runs = [int(number(text, f"{where} rle")) for text in (shape.get("rle") or "").split(",")]
    fits = min(left, top, width, height) >= 0 and left + width <= size[1] and top + height <= size[0]
    if not fits or min(runs) < 0 or sum(runs) != width * height or sum(runs[1::2]) == 0:
        raise DataError(f"{where} has runs that do not fill its rectangle inside the image; {AGAIN}")
    whole = np.zeros(size, np.uint8)
    inside = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
    whole[top : top + height, left : left + width] = inside
    return from_pixels(whole)


def skeleton_of(name: str, shape: Element, order: list[str], where: str) -> Thing:
    """Keypoints in the order of the label, and the box around those that are labeled."""
    known: dict[str, tuple[float, float, float]] = {}
    for point in shape.findall("points"):
        label = (point.get("label") or "").strip()
        if label not in order:
            raise DataError(f"{where} has the keypoint '{label}', which its label has not; {AGAIN}")
        x, y = points_of(point, where)[:2]
        known[label] = (0, 0, 0) if point.get("outside") == "1" else (x, y, 1 if point.get("occluded") == "1" else 2)
    points: list[Any] = [value for label in order for value in known.get(label, (0, 0, 0))]
    labeled = [v for at in range(0, len(points), 3) if points[at + 2] for v in points[at : at + 2]]
    if not labeled:
        raise DataError(f"{where} has no keypoint inside the image; remove it")
    return Thing(name, around(labeled), None, tuple(points))
