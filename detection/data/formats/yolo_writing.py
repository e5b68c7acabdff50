"""A YOLO data set as Ultralytics' programs read it: data.yaml, links to the images, and labels as shares.

    OUT/data.yaml   OUT/images/train/a.jpg -> the image   OUT/labels/train/a.txt

All labels are of one kind: keypoints, else outlines, else boxes, by what the source has, or by `labels`. Crowds are
left out, since YOLO has none. Shares have as many digits as it takes to give the pixels back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from detection.data.annotations.skeleton import Skeleton
from detection.data.formats import writer
from detection.data.formats.joining import joined
from detection.data.formats.linking import link, names_below
from detection.data.formats.records import DataSet, Thing, rectangle
from detection.data.masks.borders import borders
from shared.errors import DataError, UsageError, plural


@writer("yolo")
def write_yolo(
    data: DataSet,
    out: Path,
    final: Path,
    *,
    labels: Literal["auto", "boxes", "masks", "keypoints"] = "auto",
) -> list[str]:
    """Write a YOLO folder.

    Args:
        labels: what the lines tell: boxes, masks as outlines, or keypoints beside boxes; auto: keypoints if there are
            any, else masks if there are any (default: auto).

    Raises:
        UsageError: there are no such labels.
        DataError: two images would have the same label file.
    """
    kind = kind_of(data, labels)
    numbers = {name: label for label, name in enumerate(data.classes)}
    count = points_each(data) if kind == "keypoints" else 0
    left = {"crowds": 0, "parts": 0, "boxes": 0}
    stored = 0
    for split, photos in data.splits.items():
        for name, photo in names_below(photos).items():
            assert photo.size is not None
            stored += photo.upright is False
            lines = [
                line_of(thing, photo.size, numbers, kind, count, left) for thing in photo.things if not thing.crowd
            ]
            left["crowds"] += len(photo.things) - len(lines)
            file = (out / "labels" / split / name).with_suffix(".txt")
            if file.exists():
                raise DataError(f"two images of {split} would have the labels {name.with_suffix('.txt')}; rename one")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            link(out / "images" / split / name, photo.file, final / "images" / split / name)
    (out / "data.yaml").write_text(yaml.safe_dump(about(data, count), sort_keys=False, allow_unicode=True), "utf-8")
    notes = [f"{plural(left['crowds'], 'crowd')} left out, which YOLO has not"] if left["crowds"] else []
    if left["parts"]:
        notes.append(f"{plural(left['parts'], 'outline')} of several parts or with holes written as one ring each")
    if left["boxes"]:
        notes.append(f"{plural(left['boxes'], 'object')} without a mask written as the outline of the box")
    if stored:
        notes.append(
            f"{plural(stored, 'image')} with an EXIF orientation and labels on the picture as stored: programs that "
            "turn such images read these labels wrong"
        )
    return [*notes, f"YOLO labels ({kind}) in {final}; {final / 'data.yaml'} names the folders and classes"]


def kind_of(data: DataSet, labels: str) -> str:
    """boxes, masks or keypoints. Raises UsageError if the data have none."""
    things = [thing for photos in data.splits.values() for photo in photos for thing in photo.things if not thing.crowd]
    has = {
        "keypoints": any(thing.points for thing in things),
        "masks": any(thing.mask is not None for thing in things),
        "boxes": True,
    }
    if labels == "auto":
        return next(name for name, there in has.items() if there)
    if not has[labels]:
        raise UsageError(f"--labels {labels}: the data have none; there are {' and '.join(n for n in has if has[n])}")
    return labels


def points_each(data: DataSet) -> int:
    """The number of keypoints of an object. Raises DataError if classes have different ones."""
    counts = {len(words["keypoints"]) for words in data.skeletons.values()}
    if len(counts) > 1:
        raise DataError(
            f"classes have {' and '.join(map(str, sorted(counts)))} keypoints, and YOLO one number for all; add "
            "--labels boxes"
        )
    return counts.pop()


def about(data: DataSet, count: int) -> dict[str, Any]:
    """The content of data.yaml; `path` is left out, so that the folder may move."""
    words: dict[str, Any] = {split: f"images/{split}" for split in data.splits}
    words.setdefault("train", f"images/{next(iter(data.splits))}")
    words.setdefault("val", words["train"])  # Ultralytics' programs insist on both
    words |= {"nc": len(data.classes), "names": dict(enumerate(data.classes))}
    if data.ids is not None and data.ids != list(range(1, len(data.ids) + 1)):
        words["coco_ids"] = data.ids
    if count:
        skeleton = Skeleton.from_words(next(iter(data.skeletons.values())), "data.yaml")
        words |= {"kpt_shape": [count, 3], "flip_idx": list(skeleton.mirrored)}
        words["kpt_names"] = {label: list(skeleton.names) for label in range(len(data.classes))}
        words["skeleton"] = skeleton.to_words()["skeleton"]
    return words


def line_of(
    thing: Thing, size: tuple[int, int], numbers: dict[str, int], kind: str, count: int, left: dict[str, int]
) -> str:
    """One object."""
    height, width = size
    x, y, w, h = thing.box
    values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
    if kind == "masks":
        rings = outline_of(thing)
        left["parts"] += len(rings) > 1
        left["boxes"] += thing.mask is None
        ring = joined(rings, holes=isinstance(thing.mask, dict))
        values = [v / side for v, side in zip(ring, (width, height) * (len(ring) // 2), strict=True)]
    words = [str(numbers[thing.name]), *map(share, values)]
    if kind == "keypoints":
        points = thing.points or (0.0,) * 3 * count
        for a, b, seen in zip(points[0::3], points[1::3], points[2::3], strict=True):
            words += [share(a / width), share(b / height), f"{seen:g}"]
    return " ".join(words)


def outline_of(thing: Thing) -> list[list[float]]:
    """The rings of a mask: polygons as they are, RLE along the edges of its pixels, else the box."""
    if thing.mask is None:
        return [rectangle(thing.box)]
    if isinstance(thing.mask, dict):
        return borders(thing.mask) or [rectangle(thing.box)]
    return [ring for ring in thing.mask if len(ring) >= 6] or [rectangle(thing.box)]


def share(value: float) -> str:
    """Ten digits after the point, without zeros at the end: 0.5, 0.355617."""
    return f"{value:.10f}".rstrip("0").rstrip(".") or "0"
