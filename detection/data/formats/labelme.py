"""labelme: a JSON for each image, with shapes of any kind.

    polygon, circle, ellipse, mask      an object with a mask       shapes of one label and group_id are one object
    rectangle                           an object with a box        its corners in any order
    point, line, linestrip              left out, and counted

The image is the file that `imagePath` names; a copy of it inside the JSON (`imageData`) is not used.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.data.annotations.json_values import whole_number
from detection.data.formats import reader
from detection.data.formats.grouping import grouped
from detection.data.formats.pictures import Pictures, background, check_missing, split_of
from detection.data.formats.records import Asked, DataSet, Photo, Thing, around, classes_of, ellipse, left_out
from detection.data.masks.rle import from_pixels
from shared.errors import DataError, plural
from shared.feeding.names import is_hidden

NO_AREA = ("point", "points", "line", "linestrip")
LEAST = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4}  # points
BACKGROUND = ("__ignore__", "_background_")  # labels of labelme's own examples


@reader("labelme")
def read_labelme(source: Path, asked: Asked) -> DataSet:
    """Read a folder of labelme files.

    Raises:
        DataError: a file is missing or wrong.
    """
    if not source.is_dir():
        raise DataError(f"there is no folder {source}; give the one that holds labelme's JSON files")
    files = [file for file in sorted(source.rglob("*.json")) if not any(map(is_hidden, file.relative_to(source).parts))]
    pictures = Pictures(asked.images or source)
    photos: list[Photo] = []
    without: dict[str, int] = {}
    missing: list[Path] = []
    others = 0
    owner: dict[Path, Path] = {}
    for file in files:
        content = read_shapes(file)
        if content is None:
            others += 1
            continue
        image = pictures.find(str(content.get("imagePath") or ""), file, stem=file.stem)
        if image is None:
            missing.append(file)
            continue
        pictures.take(image, file)
        owner[image] = file
        photos.append(Photo(image, size_of(content), things_of(content, file, without)))
    if not photos and not missing:
        raise DataError(f"{source} has no labelme files; give the folder that holds its JSON files")
    classes = classes_of([(thing.name, owner[photo.file]) for photo in photos for thing in photo.things], asked)
    unlabeled = pictures.unlabeled()
    splits: dict[str, list[Photo]] = {}
    for photo in [*photos, *(Photo(image, None, []) for image in unlabeled)]:
        splits.setdefault(split_of(photo.file, pictures.folder), []).append(photo)
    notes = [*pictures.notes, *about_inside(missing), *check_missing(missing, asked, source)]
    notes += [f"{plural(others, 'other JSON file')} not read"] if others else []
    return DataSet(classes, splits, notes=[*notes, *left_out(without), *background(len(unlabeled))])


def about_inside(missing: list[Path]) -> list[str]:
    """Raise DataError if a file has its image inside, and not beside it."""
    for file in missing:
        if json.loads(file.read_text("utf-8-sig")).get("imageData"):
            raise DataError(
                f"{file} has its image inside (imageData) alone; write it beside the file first, with "
                "labelme_export_json, since images are never written here"
            )
    return []


def read_shapes(file: Path) -> dict[str, Any] | None:
    """The content; None for the JSON of another program. Raises DataError."""
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not readable JSON ({error}); it may be damaged or truncated") from None
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    if not isinstance(content["shapes"], list) or not all(isinstance(shape, dict) for shape in content["shapes"]):
        raise DataError(f"{file} has no list 'shapes' of objects; write it again with labelme")
    return content


def size_of(content: dict[str, Any]) -> tuple[int, int] | None:
    height, width = (whole_number(content.get(side)) for side in ("imageHeight", "imageWidth"))
    return (height, width) if height and width and height > 0 and width > 0 else None


def things_of(content: dict[str, Any], file: Path, without: dict[str, int]) -> list[Thing]:
    """The objects of a file; shapes without an area are counted in `without`."""
    things: list[tuple[Thing, object]] = []
    for place, shape in enumerate(content["shapes"], 1):
        kind, label = shape.get("shape_type") or "polygon", shape.get("label")
        where = f"{file}, shape {place} ({kind}),"
        if kind in NO_AREA:
            without[kind] = without.get(kind, 0) + 1
            continue
        if not isinstance(label, str) or not label.strip():
            raise DataError(f"{where} has no label; add it, or remove the shape")
        if label in BACKGROUND:
            continue
        things.append((thing_of(label.strip(), kind, shape, content, where), shape.get("group_id")))
    return grouped(things)


def thing_of(label: str, kind: str, shape: dict[str, Any], content: dict[str, Any], where: str) -> Thing:
    """One shape. Raises DataError."""
    points = points_of(shape.get("points"), where)
    if len(points) < 2 * LEAST.get(kind, 2) or kind not in (*LEAST, "ellipse"):
        if kind in LEAST:
            raise DataError(f"{where} has {len(points) // 2} points; a {kind} has {LEAST[kind]}, correct or remove it")
        raise DataError(f"{where} is of a kind that is not known here; draw it as a polygon")
    if kind == "circle":
        cx, cy, x, y = points[:4]
        radius = math.hypot(x - cx, y - cy)
        return Thing(label, (cx - radius, cy - radius, 2 * radius, 2 * radius), [ellipse(cx, cy, radius, radius)])
    box = around(points)
    if kind == "ellipse":
        x, y, w, h = box
        return Thing(label, box, [ellipse(x + w / 2, y + h / 2, w / 2, h / 2)])
    if kind == "mask":
        return Thing(label, *pixels_of(shape, box, size_of(content), where))
    return Thing(label, box, None if kind == "rectangle" else [points])


def points_of(told: Any, where: str) -> list[float]:
    """[[x, y], ...] -> x y x y ... Raises DataError."""
    pairs = told if isinstance(told, list) else [None]
    points: list[float] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(v) in (int, float) for v in pair):
            raise DataError(f"{where} has {json.dumps(pair)[:60]} where a point [x, y] belongs; correct it")
        points += [float(value) for value in pair]
    if not all(map(math.isfinite, points)):
        raise DataError(f"{where} has a point that is not finite; correct it")
    return points


def pixels_of(
    shape: dict[str, Any], box: tuple[float, ...], size: tuple[int, int] | None, where: str
) -> tuple[tuple[float, float, float, float], dict[str, Any]]:
    """A shape of pixels: a PNG in the box of its two corners -> the box of its pixels, and their RLE."""
    try:
        data = base64.b64decode(str(shape.get("mask") or ""), validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            inside = np.asarray(picture.convert("L")) > 0 if picture.mode != "1" else np.asarray(picture)
    except (binascii.Error, ValueError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} has a mask that is not a readable PNG ({error}); draw it again") from None
    if size is None:
        raise DataError(f"{where} has a mask, and the file no imageHeight and imageWidth; add them")
    left, top = round(box[0]), round(box[1])
    fits = top >= 0 and left >= 0 and top + inside.shape[0] <= size[0] and left + inside.shape[1] <= size[1]
    if not fits or not inside.any():
        raise DataError(f"{where} has a mask without a pixel in the image; draw it again")
    whole = np.zeros(size, np.uint8)
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return from_pixels(whole)
