"""Pascal VOC: an XML for each image, with boxes and class names; also as LabelImg, CVAT and Roboflow write it.

    JPEGImages/a.jpg  Annotations/a.xml  ImageSets/Main/train.txt     VOC's own folders, and lists of the splits
    train/a.jpg  train/a.xml                                          folders of splits; or everything in one folder

VOC counts pixels from 1 and its corners are pixels of the box: xmin 1, xmax 640 is the whole width, x 0 to 640. Most
other programs write x 0 to 640 as 0 and 640. A coordinate below 1 anywhere, or CVAT's labelmap.txt, tells that the
second is meant; `first_pixel` says it outright.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple
from xml.etree.ElementTree import Element

from detection.data.formats import reader
from detection.data.formats.pictures import Pictures, background, check_missing, split_of
from detection.data.formats.records import Asked, DataSet, Photo, Thing, around, classes_of, number, rectangle
from detection.data.formats.safe_xml import read_xml, text_of
from shared.errors import DataError, plural
from shared.feeding.names import is_hidden

SIDES = ("xmin", "ymin", "xmax", "ymax")
LISTS = ("train", "val", "test")
LABELS = "labels.txt"  # the order of the classes, as hotcoco and we write it; else they are sorted
MAP = "labelmap.txt"  # the same of CVAT and Datumaro, which count pixels from 0: lines name:color:parts:actions


class Found(NamedTuple):
    """An XML file: its photograph, and where the splits are told, its name in the lists."""

    file: Path
    photo: Photo


@reader("voc")
def read_voc(
    source: Path,
    asked: Asked,
    *,
    first_pixel: Literal["auto", "0", "1"] = "auto",
    difficult: Literal["crowd", "object"] = "crowd",
) -> DataSet:
    """Read a folder of Pascal VOC.

    Args:
        first_pixel: what the first pixel of a row is called: 1 as in VOC, whose xmax is the last pixel of a box, or 0
            as in most other programs, whose xmax is its edge; auto: 0 if a coordinate is below 1 (default: auto).
        difficult: what an object marked as difficult becomes: a crowd, which is neither trained nor missed, or an
            object as any other (default: crowd).

    Raises:
        DataError: a file is missing or wrong.
    """
    root = root_of(source)
    pictures = Pictures(asked.images or root)
    files = [file for file in sorted(root.rglob("*.xml")) if not any(map(is_hidden, file.relative_to(root).parts))]
    if not files:
        raise DataError(f"{source} has no XML files; give the folder that holds Annotations and JPEGImages")
    photos: dict[Path, Photo] = {}
    missing: list[Path] = []
    for file in files:
        element = read_xml(file, "annotation")
        image = pictures.find(text_of(element, "filename") or file.name, file, stem=file.stem)
        if image is None:
            missing.append(file)
            continue
        pictures.take(image, file)
        photos[file] = Photo(image, size_of(element), [thing_of(entry, file) for entry in objects_of(element)])
    things = [(thing.name, file) for file, photo in photos.items() for thing in photo.things]
    classes = classes_of(things, asked, order_of(root))
    counted_from, why = first_of(photos, first_pixel, root / MAP)
    notes = [*pictures.notes, *check_missing(missing, asked, root), why]
    crowds = sum(thing.crowd for photo in photos.values() for thing in photo.things)
    if crowds and difficult == "crowd":
        notes.append(f"{plural(crowds, 'difficult object')} read as crowds, neither trained nor missed")
    done = {
        photo.file: photo._replace(things=[settled(thing, counted_from, difficult) for thing in photo.things])
        for photo in photos.values()
    }
    unlabeled = {image: Photo(image, None, []) for image in pictures.unlabeled()}
    splits, kept = splits_of(root, done | unlabeled, asked)
    notes += background(sum(photo.file in unlabeled for photo in kept))
    return DataSet(classes, splits, notes=notes)


def root_of(source: Path) -> Path:
    """VOCdevkit/VOC2012 for VOCdevkit. Raises DataError if it has several."""
    if not source.is_dir():
        raise DataError(f"there is no folder {source}; give the one that holds Annotations and JPEGImages")
    years = [folder for folder in sorted(source.glob("VOC20*")) if (folder / "Annotations").is_dir()]
    if len(years) > 1 and not (source / "Annotations").is_dir():
        raise DataError(
            f"{source} has {' and '.join(y.name for y in years)}; convert one at a time, and train on both with --also"
        )
    return years[0] if years and not (source / "Annotations").is_dir() else source


def order_of(root: Path) -> list[str] | None:
    """The classes that a list beside the files names; None without one."""
    for name, separator in ((LABELS, "\n"), (MAP, ":")):
        if (file := root / name).is_file():
            lines = file.read_text("utf-8-sig", "replace").splitlines()
            names = [line.partition(separator)[0].strip() for line in lines if line.strip() and line[0] != "#"]
            return [name for name in names if name != "background"]
    return None


def size_of(element: Element) -> tuple[int, int] | None:
    """(height, width) that the file tells; None for none, or for 0, as some programs write it."""
    size, web = element.find("size"), element.find("imagesize")  # the second of LabelMe's web tool
    told = ["" if size is None else text_of(size, side) or "" for side in ("height", "width")]
    if web is not None:
        told = [text_of(web, side) or "" for side in ("nrows", "ncols")]
    height, width = (int(float(text)) if text.replace(".", "", 1).isdigit() else 0 for text in told)
    return (height, width) if height > 0 and width > 0 else None


def objects_of(element: Element) -> list[Element]:
    """The objects, without those that LabelMe's web tool keeps as deleted."""
    return [entry for entry in element.findall("object") if text_of(entry, "deleted") != "1"]


def thing_of(entry: Element, file: Path) -> Thing:
    """An object with its box as corners, as the file tells them. Raises DataError."""
    name = text_of(entry, "name")
    if not name:
        raise DataError(f"{file} has an object without a name; add it, or remove the object")
    crowd = text_of(entry, "difficult") in ("1", "true", "True")
    where = f"{file}, object '{name}',"
    box, turned = entry.find("bndbox"), entry.find("robndbox")
    if box is None and turned is not None:  # of roLabelImg: center, size, angle in radians
        cx, cy, w, h, angle = (number(text_of(turned, side), where) for side in ("cx", "cy", "w", "h", "angle"))
        ring = rectangle((cx - w / 2, cy - h / 2, w, h), angle * 57.29577951308232)
        x, y, w, h = around(ring)
        return Thing(name, (x, y, x + w, y + h), [ring], crowd=crowd)
    outline = entry.find("polygon")
    ring = [] if outline is None else ring_of(outline, where)
    if box is None:
        if len(ring) < 6:
            raise DataError(f"{where} has no bndbox; add it, or remove the object")
        x, y, w, h = around(ring)
        return Thing(name, (x, y, x + w, y + h), [ring], crowd=crowd)
    left, top, right, bottom = (number(text_of(box, side), f"{where} {side}") for side in SIDES)
    if right < left - 1 or bottom < top - 1:  # a box without any pixel is xmin 5, xmax 4
        raise DataError(
            f"{where} has the box {left:g} {top:g} {right:g} {bottom:g}, whose max is below its min; correct it"
        )
    return Thing(name, (left, top, right, bottom), [ring] if len(ring) >= 6 else None, crowd=crowd)


def ring_of(outline: Element, where: str) -> list[float]:
    """x1 y1 x2 y2 ... of a polygon, as Roboflow writes it, or <pt><x/><y/></pt>, as LabelMe's web tool does."""
    points = outline.findall("pt")
    if points:
        return [number(text_of(point, axis), where) for point in points for axis in ("x", "y")]
    count = 1
    ring: list[float] = []
    while outline.find(f"x{count}") is not None:
        ring += [number(text_of(outline, f"{axis}{count}"), where) for axis in ("x", "y")]
        count += 1
    return ring


def first_of(photos: dict[Path, Photo], asked: str, listed: Path) -> tuple[int, str]:
    """What the first pixel is called, and a note about it.

    Args:
        listed: where programs that count from 0 put their list of classes.
    """
    lows = ((min(thing.box[:2]), file) for file, photo in photos.items() for thing in photo.things)
    low, file = min(lows, default=(1.0, listed))
    if asked != "auto":
        first, why = int(asked), "as told"
    elif low < 1:
        first, why = 0, f"{file} has the coordinate {low:g}"
    elif listed.is_file():
        first, why = 0, f"as programs do that write {listed.name}"
    else:
        first, why = 1, "no coordinate is below 1"
    how = "the last pixel of a box is xmax" if first else "the right edge of a box is xmax"
    other = "" if asked != "auto" else f"; --first-pixel {1 - first} reads the others"
    return first, f"boxes are read from pixel {first}, {how}: {why}{other}"


def settled(thing: Thing, first: int, difficult: str) -> Thing:
    """Corners from pixel `first` -> x y w h from 0."""
    left, top, right, bottom = thing.box
    sides = (left - first, top - first, right - left + first, bottom - top + first)
    x, y, w, h = (round(side, 9) for side in sides)  # 175.66 - 1 is 174.66
    rings = thing.mask if isinstance(thing.mask, list) else []
    mask = [[round(value - first, 9) for value in ring] for ring in rings] or None
    return thing._replace(box=(x, y, w, h), mask=mask, crowd=thing.crowd and difficult == "crowd")


def splits_of(root: Path, photos: dict[Path, Photo], asked: Asked) -> tuple[dict[str, list[Photo]], list[Photo]]:
    """Photographs by the lists of ImageSets/Main, else by folder; and all of those. Raises DataError."""
    lists = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in LISTS}
    if not lists["train"].is_file() and (root / "ImageSets" / "Main" / "trainval.txt").is_file():
        lists["train"] = root / "ImageSets" / "Main" / "trainval.txt"
    splits: dict[str, list[Photo]] = {}
    if any(file.is_file() for file in lists.values()):
        by_id: dict[str, Photo] = {}
        for photo in photos.values():
            for name in ids_of(photo.file, root):
                by_id.setdefault(name, photo)
        for split, file in lists.items():
            lines = file.read_text("utf-8-sig", "replace").splitlines() if file.is_file() else []
            ids = [line.strip() for line in lines if line.strip()]
            splits[split] = [by_id[name] for name in ids if name in by_id]
            if splits[split]:  # else it was not copied at all
                check_missing([name for name in ids if name not in by_id], asked, file, "image")
    else:
        for photo in photos.values():
            splits.setdefault(split_of(photo.file, root), []).append(photo)
    splits = {name: splits[name] for name in LISTS if any(photo.things for photo in splits.get(name, ()))}
    if not splits:
        raise DataError(f"{root} has no objects in any split; check Annotations and ImageSets/Main")
    return splits, [photo for split in splits.values() for photo in split]


def ids_of(image: Path, root: Path) -> list[str]:
    """What lists may call an image: a, train/a, a.jpg."""
    inside = image.relative_to(root) if image.is_relative_to(root) else Path(image.name)
    names = [Path(*inside.parts[start:]) for start in range(len(inside.parts))]
    return [text for name in reversed(names) for text in (str(name.with_suffix("")), str(name))]
