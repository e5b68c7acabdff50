"""YOLO: data.yaml, images/ and labels/ with a text file for each image; boxes, outlines or keypoints as shares.

    class cx cy w h                        a box
    class x y x y x y ...                  the outline of an object
    class cx cy w h x y [v] x y [v] ...    keypoints, with kpt_shape: [K, 2 or 3] in data.yaml

Lines of boxes and of outlines may be mixed. An image without a label file, or with an empty one, is background. Classes
count from 0 in the files, and from 1 in COCO. As in Ultralytics' programs, shares are of the picture turned by EXIF.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from detection.data.formats import reader
from detection.data.formats.joining import parted
from detection.data.formats.pictures import background, check_missing
from detection.data.formats.records import Asked, DataSet, Photo, Thing, around, check_classes
from detection.data.formats.yolo_places import Places, find_places
from shared.errors import DataError, plural
from shared.feeding.names import is_hidden

OVER = 0.01  # that a share may be below 0 or above 1: rounding, and labels drawn a little over the edge
NO_LABELS = ("classes.txt", "train.txt", "val.txt", "test.txt", "obj.names")


@reader("yolo")
def read_yolo(source: Path, asked: Asked) -> DataSet:
    """Read a folder with data.yaml, or the YAML itself; folders without one need classes.txt or --class-file.

    Raises:
        DataError: a file is missing or wrong.
    """
    places = find_places(source, asked)
    check_classes(places.names, places.told_by)
    splits: dict[str, list[Photo]] = {}
    unlabeled, orphans, missing = 0, list[Path](), list(places.missing)
    lines = {"box": 0, "outline": 0}
    for split, images in places.splits.items():
        photos: list[Photo] = []
        owners: dict[Path, Path] = {}
        for image in images:
            labels = labels_of(image, asked.images, places.root)
            if (twin := owners.setdefault(labels, image)) != image:
                raise DataError(
                    f"{twin} and {image} both have the labels {labels}; rename one image and give it its own"
                )
            things = read_labels(labels, places, lines) if labels.is_file() else []
            unlabeled += not labels.is_file()
            photos.append(Photo(image, None, things))
        orphans += without_image(owners)
        if any(photo.things for photo in photos) or split == "train":
            splits[split] = photos
        else:
            places.notes.append(f"{split} left out: none of its {plural(len(photos), 'image')} has an object")
    notes = [*places.notes, *check_missing([*missing, *orphans], asked, places.root), *background(unlabeled)]
    if lines["box"] and lines["outline"] and not places.points:
        notes.append(
            f"{plural(lines['box'], 'line')} of boxes among {plural(lines['outline'], 'outline')}: those objects have "
            "no mask, and a network with masks refuses the file"
        )
    skeletons = dict.fromkeys(places.names, places.skeleton) if places.skeleton else {}
    return DataSet(places.names, splits, shares=True, ids=places.ids, skeletons=skeletons, notes=notes)


def labels_of(image: Path, images: Path | None, root: Path) -> Path:
    """images/train/a.jpg -> labels/train/a.txt if labels/train is there, else a.txt beside the image.

    Args:
        images: a folder of images that is apart from that of the labels, `root`; None if it is not.
    """
    if images is not None and image.is_relative_to(images):
        return (root / image.relative_to(images)).with_suffix(".txt")
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            folder = Path(*parts[:place], "labels", *parts[place + 1 : -1])
            if folder.is_dir():
                return folder / f"{image.stem}.txt"
    return image.with_suffix(".txt")


def without_image(owners: dict[Path, Path]) -> list[Path]:
    """Label files whose image is not there, in the folders of the label files of these images."""
    found: list[Path] = []
    for folder in sorted({labels.parent for labels in owners}):
        images = {owner.parent for labels, owner in owners.items() if labels.parent == folder}
        stems = {file.stem for part in images for file in part.iterdir() if file.suffix != ".txt"}
        for file in sorted(folder.glob("*.txt")):
            if file.stem not in stems and file.name not in NO_LABELS and not is_hidden(file.name) and looks_so(file):
                found.append(file)
    return found


def looks_so(file: Path) -> bool:
    """True if the first line of a text file has numbers alone, as label files do."""
    with file.open("rb") as lines:
        words = lines.readline(4096).split()
    try:
        return len(words) >= 5 and [float(word) for word in words] != []
    except ValueError:
        return False


def read_labels(file: Path, places: Places, lines: dict[str, int]) -> list[Thing]:
    """The objects of one label file. Raises DataError that names the line."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file} ({error}); it may be damaged") from None
    things: list[Thing] = []
    for count, line in enumerate(text.splitlines(), 1):
        if words := line.split():
            things.append(read_line(words, f"{file}, line {count},", places))
            lines["box" if things[-1].mask is None else "outline"] += 1
    return things


def read_line(words: list[str], where: str, places: Places) -> Thing:
    """One object. Raises DataError."""
    numbers: list[float] = []
    for word in words:
        try:
            numbers.append(float(word))
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise DataError(f"{where} has '{word[:40]}' where a number belongs; correct it")
    label, values = numbers[0], numbers[1:]
    if label % 1 or not 0 <= label < len(places.names):
        raise DataError(
            f"{where} has the class {words[0][:20]}, but {places.told_by} names {len(places.names)}, from 0 to "
            f"{len(places.names) - 1}; add the name there, or correct the line"
        )
    name = places.names[int(label)]
    if places.points:
        return read_points(name, values, where, places)
    if len(values) == 4:
        return Thing(name, centered(values, where))
    if len(values) >= 6 and len(values) % 2 == 0:
        check_shares(values, where)
        rings = parted(values)
        return Thing(name, around(values), rings)
    hint = ": is the last one a confidence? These are labels then that a model wrote" if len(values) == 5 else ""
    raise DataError(
        f"{where} has {len(words)} numbers{hint}; a box has five, class cx cy w h, and an outline seven or more, class "
        "x y x y x y; correct it"
    )


def read_points(name: str, values: list[float], where: str, places: Places) -> Thing:
    """An object with keypoints; one that is a box alone has none of them."""
    count, each = places.points
    if len(values) not in (4, 4 + count * each):
        raise DataError(
            f"{where} has {len(values) + 1} numbers, but kpt_shape {[count, each]} of {places.told_by} means "
            f"{5 + count * each}: class cx cy w h, and the keypoints; correct one of them"
        )
    points: list[float] = []
    for at in range(4, 4 + count * each if len(values) > 4 else 4, each):
        x, y = values[at], values[at + 1]
        seen = values[at + 2] if each == 3 else 2.0 * (x != 0 or y != 0)
        if seen not in (0, 1, 2):
            raise DataError(f"{where} has the visibility {seen:g}; it is 0 absent, 1 occluded or 2 visible; correct it")
        points += [x, y, seen] if seen else [0.0, 0.0, 0.0]
    return Thing(name, centered(values[:4], where), None, tuple(points or [0.0] * 3 * count))


def centered(values: Sequence[float], where: str) -> tuple[float, float, float, float]:
    """cx cy w h -> x y w h. Raises DataError for numbers that are no shares."""
    check_shares(values, where)
    cx, cy, w, h = values
    if w < 0 or h < 0:
        raise DataError(f"{where} has a box of {w:g} x {h:g}; its size cannot be negative, correct it")
    return cx - w / 2, cy - h / 2, w, h


def check_shares(values: Sequence[float], where: str) -> None:
    low, high = min(values), max(values)
    if low < -OVER or high > 1 + OVER:
        raise DataError(
            f"{where} has {high if high > 1 + OVER else low:g} where a share of the image from 0 to 1 belongs; divide "
            "pixels by the width and height of the image, or correct it"
        )
