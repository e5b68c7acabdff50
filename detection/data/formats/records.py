"""What every format is read into and written from: photographs of splits, and the things on them.

    DataSet.splits["train"] -> Photo: a file, its size, its things -> Thing: a class by name, box, mask, keypoints

Boxes are x y width height in pixels from the upper left corner of the picture, masks polygons or RLE as in COCO files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import DataError, plural
from shared.recipes.nearest import suggest

Box = tuple[float, float, float, float]  # x y width height
Mask = list[list[float]] | dict[str, Any]  # rings x y x y ..., or {"size": [height, width], "counts": text}
SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SHOWN = 3  # examples in a message


class Thing(NamedTuple):
    """An object: numbers are pixels, or shares of width and height in a `DataSet` of shares.

    points: x y visibility of each keypoint, flat; () without keypoints.
    area: that of the source; None for that of the mask, else of the box.
    """

    name: str
    box: Box
    mask: Mask | None = None
    points: tuple[float, ...] = ()
    crowd: bool = False
    area: float | None = None


class Photo(NamedTuple):
    """A photograph: its file, (height, width) as the source tells it, and whether labels are on the picture turned by
    EXIF, where the source tells that."""

    file: Path
    size: tuple[int, int] | None
    things: list[Thing]
    upright: bool | None = None


@dataclass
class DataSet:
    """A data set that was read.

    Args:
        classes: all class names, in the order of their ids.
        splits: train, val, test, or some of them.
        shares: numbers are shares of width and height, on the picture turned by EXIF; else pixels.
        ids: category ids of the source; None for 1, 2, ...
        skeletons: by class name, the keys of a COCO category about its keypoints.
        notes: what was left out or decided, for the person.
        check_boxes: the format leaves programs free to write corners or shares for x y width height, which is checked.
    """

    classes: list[str]
    splits: dict[str, list[Photo]]
    shares: bool = False
    ids: list[int] | None = None
    skeletons: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    check_boxes: bool = False


class Asked(NamedTuple):
    """What the person said besides the source.

    images: the folder of the images, if it is not the source.
    classes: the class names, in the order of their ids; None for those of the source.
    allow_missing: number of images that may be missing.
    """

    images: Path | None = None
    classes: tuple[str, ...] | None = None
    allow_missing: int = 0


def classes_of(things: Iterable[tuple[str, Path]], asked: Asked, told: Sequence[str] | None = None) -> list[str]:
    """The classes: those that the person gave, those that the source tells, or the names that occur, sorted.

    Args:
        things: (class name, file) of every object.

    Raises:
        DataError: an object has another class than those given or told.
    """
    listed = asked.classes if asked.classes is not None else told
    if listed is None:
        return sorted({name for name, _ in things})
    check_classes(listed)
    known = set(listed)
    for name, file in things:
        if name not in known:
            where = "--class-file" if asked.classes is not None else "the list of labels"
            raise DataError(
                f"{file} has the class '{name}', which {where} has not{suggest(name, known)}; add it there, or correct "
                "the file"
            )
    return list(listed)


def check_classes(names: Sequence[str], where: object = "the list of classes") -> None:
    """Raise DataError for a class without a name, or two of one name."""
    if not names:
        raise DataError(f"{where} has no class names; add them, or give --class-file with one name per line")
    for place, name in enumerate(names):
        if not name.strip():
            raise DataError(f"{where} has an empty name for class {place}; give each class a name")
        if name in names[:place]:
            raise DataError(f"{where} has the name '{name}' twice; give each class its own")


def number(text: str | None, where: str) -> float:
    """A finite number. Raises DataError that names what was found."""
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where} has '{(text or '').strip()[:40]}' where a number belongs; correct it")
    return value


def around(points: Sequence[float]) -> Box:
    """x y x y ... -> the box around them."""
    left, top = min(points[0::2]), min(points[1::2])
    return left, top, round(max(points[0::2]) - left, 9), round(max(points[1::2]) - top, 9)


def ellipse(x: float, y: float, across: float, down: float, degrees: float = 0.0, corners: int = 72) -> list[float]:
    """The outline of an ellipse of these half axes, turned clockwise: a ring x y x y ..."""
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return turned([v for a in turns for v in (x + across * math.cos(a), y + down * math.sin(a))], x, y, degrees)


def rectangle(box: Box, degrees: float = 0.0) -> list[float]:
    """The outline of a box, turned clockwise around its center: a ring x y x y ..."""
    x, y, w, h = box
    return turned([x, y, x + w, y, x + w, y + h, x, y + h], x + w / 2, y + h / 2, degrees)


def turned(ring: Sequence[float], x: float, y: float, degrees: float) -> list[float]:
    """A ring turned clockwise around (x, y)."""
    if not degrees % 360:
        return list(ring)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    pairs = [(a - x, b - y) for a, b in zip(ring[0::2], ring[1::2], strict=True)]
    return [v for a, b in pairs for v in (x + a * cos - b * sin, y + a * sin + b * cos)]


def some(names: Sequence[object]) -> str:
    """'a, b, c and 4 more'."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(str(name) for name in names[:SHOWN]) + more


def left_out(kinds: dict[str, int]) -> list[str]:
    """A note about what the format has and COCO has not: '3 polylines left out, which are no areas'."""
    return [f"{plural(count, kind)} left out: a COCO file has no such thing" for kind, count in sorted(kinds.items())]
