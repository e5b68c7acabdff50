"""A data set as Pascal VOC: an XML of boxes for each image, lists of the splits, links to the images.

    OUT/JPEGImages/a.jpg -> the image   OUT/Annotations/a.xml   OUT/ImageSets/Main/train.txt   OUT/labels.txt

Pixels count from 1 and xmax is the last pixel of a box, as in VOC. Fractions of a pixel stay, unless `whole_pixels` is
given. Crowds become difficult objects. Masks and keypoints have no place in these files.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from detection.data.formats import writer
from detection.data.formats.linking import link, names_below
from detection.data.formats.records import DataSet, Photo, Thing
from detection.data.formats.voc import LABELS
from shared.errors import DataError, plural


@writer("voc")
def write_voc(data: DataSet, out: Path, final: Path, *, whole_pixels: bool = False) -> list[str]:
    """Write a folder of Pascal VOC.

    Args:
        whole_pixels: round boxes to whole pixels, for programs that read nothing else.

    Raises:
        DataError: two images would have the same XML.
    """
    named = {
        (split, name): photo for split, photos in data.splits.items() for name, photo in names_below(photos).items()
    }
    times = Counter(name.with_suffix("") for _, name in named)
    flat = max(times.values()) == 1
    lists: dict[str, list[str]] = {split: [] for split in data.splits}
    for (split, name), photo in named.items():
        place = name if flat else Path(split) / name
        file = (out / "Annotations" / place).with_suffix(".xml")
        if file.exists():
            raise DataError(f"two images of {split} would have the labels {place.with_suffix('.xml')}; rename one")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(xml_of(photo, whole_pixels), encoding="utf-8")
        link(out / "JPEGImages" / place, photo.file, final / "JPEGImages" / place)
        lists[split].append(place.with_suffix("").as_posix())
    folder = out / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    for split, ids in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in ids), encoding="utf-8")
    (out / LABELS).write_text("".join(f"{name}\n" for name in data.classes), encoding="utf-8")
    things = [thing for photos in data.splits.values() for photo in photos for thing in photo.things]
    lost = {
        "mask": sum(thing.mask is not None for thing in things),
        "object's keypoints": sum(bool(thing.points) for thing in things),
    }
    notes = [f"{plural(count, what)} left out, which VOC's files have not" for what, count in lost.items() if count]
    if crowds := sum(thing.crowd for thing in things):
        notes.append(f"{plural(crowds, 'crowd')} written as difficult")
    return [*notes, f"VOC files in {final}; boxes count pixels from 1"]


def xml_of(photo: Photo, whole: bool) -> str:
    """The XML of an image."""
    assert photo.size is not None
    top = Element("annotation")
    SubElement(top, "folder").text = "JPEGImages"
    SubElement(top, "filename").text = photo.file.name
    size = SubElement(top, "size")
    for side, value in (("width", photo.size[1]), ("height", photo.size[0]), ("depth", 3)):
        SubElement(size, side).text = str(value)
    SubElement(top, "segmented").text = "0"
    for thing in photo.things:
        add_object(top, thing, whole)
    ElementTree.indent(top)
    return ElementTree.tostring(top, encoding="unicode") + "\n"


def add_object(top: Element, thing: Thing, whole: bool) -> None:
    entry = SubElement(top, "object")
    SubElement(entry, "name").text = thing.name
    for name, value in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", str(int(thing.crowd)))):
        SubElement(entry, name).text = value
    box = SubElement(entry, "bndbox")
    x, y, w, h = thing.box
    sides = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
    if whole:
        sides = {name: float(round(value)) for name, value in sides.items()}
    for name, value in sides.items():
        SubElement(box, name).text = f"{value:.6f}".rstrip("0").rstrip(".")
