"""`detect doctor --fix OUT`: mended copies of annotation files, and what was changed; nothing else is touched.

annotations.json -> entries that cannot be used: left out      boxes in another format: written as x y width height
                 -> ids that come twice: new ones              boxes over the edge: clipped
                 -> objects annotated twice, without a pixel: left out
                 -> images that are missing, unreadable, or in validation too: left out, with their annotations
                 -> areas that cannot be: removed, so that they are measured
                 -> sizes, categories, keypoints: where it is certain what is right (`mended_*.py`), first of all
OUT/NAME.json, OUT/changes.json: what was done, how often, and what was left to the person, with the reason
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.box_format import format_of, in_pixels
from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.json_values import read_json_bytes, whole_number
from detection.data.annotations.targets import kinds_of
from detection.doctor.changes import Changes
from detection.doctor.examine import Examined, Part
from detection.doctor.kinds import FIXED, KINDS
from detection.doctor.mended_classes import mend_classes
from detection.doctor.mended_keypoints import mend_keypoints
from detection.doctor.mended_sizes import mend_sizes
from detection.doctor.reading import Read, read_file
from shared.errors import UsageError
from shared.files import write_json
from shared.findings import Sheet

LEFT_OUT = ("annotation-entry", "annotation-without-image", "category-not-listed", "mask", "keypoints")
MENDED = {name for name, kind in KINDS.items() if FIXED in kind.way_out}


def mend(found: Examined, out: Path) -> list[str]:
    """Write mended copies of the JSON files that were examined; returns lines that describe them, and what was left.

    Raises:
        UsageError: `out` is not empty, or there is no JSON file that could be mended.
    """
    files = {where: part for where, part in found.parts.items() if (p := part.place.annotations) and p.is_file()}
    if not files:
        raise UsageError("--fix mends COCO JSON files, and none of these could be read; correct the file first")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UsageError(f"{out} is not empty, and nothing is overwritten; give another folder for --fix")
    lines, told = [], {}
    for where, part in files.items():
        changes = Changes()
        others = [other for name, other in files.items() if name != where]
        content = listed_right(part, where, others, changes)
        content = mended(
            *content, part, found.overlapping if where == "training" else [], no_areas(found, where), changes
        )
        leave_the_rest(found, where, changes)
        name = (part.place.annotations or out).name.removesuffix(".gz")
        path = out / (name if not (out / name).exists() else f"{where}_{name}")
        write_json(path, content)
        told[str(part.place.annotations)] = {"written": path.name, **changes.as_json()}
        lines += changes.lines(path)
    write_json(out / "changes.json", told)
    return lines


def no_areas(found: Examined, where: str) -> bool:
    """Whether the areas of a part cannot be."""
    return any(one.kind == "area" and one.where == where for one in found.sheet.findings)


def leave_the_rest(found: Examined, where: str, changes: Changes) -> None:
    """Leave every finding of a part that is never mended, with what can be done about it."""
    for one in found.sheet.ordered():
        if one.where == where and one.kind not in MENDED and found.sheet.level(one) != "note":
            way_out = KINDS[one.kind].way_out
            changes.leave(one.kind, f"{one.what}{f'; {way_out}' if way_out else ''}", one.examples)


def content_of(part: Part) -> dict[str, Any]:
    """The JSON of a part."""
    assert part.place.annotations is not None
    return json.loads(read_json_bytes(part.place.annotations, "the annotations", "a COCO JSON"))


def listed_right(part: Part, where: str, others: list[Part], changes: Changes) -> tuple[dict[str, Any], Read, set[int]]:
    """The content with sizes, categories and keypoints mended, read again if any was; and the ids of images whose size
    is wrong and was left."""
    top, read, doubtful = content_of(part), part.read, set[int]()
    known = len(read.table.boxes) == 0 or format_of(read.table.boxes, limits(read.table)) is None
    resized = False
    if part.seen is not None:
        resized, doubtful = mend_sizes(top, part.seen, read.dropped_images, changes, boxes_fit=known)
    listed = mend_classes(
        top, lambda: [entry for other in others for entry in content_of(other)["categories"]], changes
    )
    pointed = mend_keypoints(top, doubtful, changes)
    if resized or listed or pointed:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "annotations.json"
            write_json(path, top)
            read = read_file(path, where, Sheet("", KINDS)) or read
    return top, read, doubtful


def mended(
    top: dict[str, Any],
    read: Read,
    doubtful: set[int],
    part: Part,
    overlapping: list[int],
    remove_areas: bool,
    changes: Changes,
) -> dict[str, Any]:
    """The content of the mended file.

    Args:
        read: what of `top` can be used.
        doubtful: ids of images whose boxes are not clipped, since their size is wrong.
        overlapping: ids of images to leave out.
    """
    changed = changes.done
    gone = {*overlapping, *(part.seen.missing if part.seen is not None else [])}
    wrong, images = set(read.dropped_images), []
    for place, entry in enumerate(top["images"]):
        if place in wrong:
            changed["images that could not be used left out"] += 1
        elif whole_number(entry["id"]) in gone:
            changed["images left out"] += 1
        else:
            images.append(entry)
    left_out = {place for kind in LEFT_OUT for place in read.dropped.get(kind, [])}
    ids = {place: number for number, place in enumerate(read.dropped.get("annotation-id-twice", []))}
    new_id = 1 + max(
        (whole_number(e["id"]) or 0 for e in top["annotations"] if isinstance(e, dict) and "id" in e), default=0
    )
    boxes = mended_boxes(read.table, read.places, doubtful)
    kept = {whole_number(entry["id"]) for entry in images}
    annotations = []
    for place, entry in enumerate(top["annotations"]):
        if place in left_out or not isinstance(entry, dict):
            changed["annotations that could not be used left out"] += 1
            continue
        if whole_number(entry["image_id"]) not in kept:
            changed["annotations of images left out"] += 1
            continue
        if place in ids:
            entry = {**entry, "id": new_id + ids[place]}
            changed["annotations with a new id"] += 1
        if place in boxes:
            box, what = boxes[place]
            changed[what] += 1
            if box is None:
                continue
            entry = {**entry, "bbox": box}
        if remove_areas and "area" in entry:
            entry = {key: value for key, value in entry.items() if key != "area"}
            changed["areas removed"] += 1
        annotations.append(entry)
    return {**top, "images": images, "annotations": annotations}


def limits(table: CocoTable) -> np.ndarray:
    """(A, 2) width and height of the image of each box."""
    return table.sizes[table.image_of][:, ::-1]


def mended_boxes(table: CocoTable, places: np.ndarray, doubtful: set[int]) -> dict[int, tuple[list[float] | None, str]]:
    """{place in the file: (box, or None to leave the annotation out; what was done)} for boxes that are changed."""
    found: dict[int, tuple[list[float] | None, str]] = {}
    limit = limits(table)
    known = format_of(table.boxes, limit) if len(table.boxes) else None
    if known is not None:
        boxes = in_pixels(table.boxes, limit, known)
        for place, box in zip(places.tolist(), boxes.round(3).tolist(), strict=True):
            found[place] = box, f"boxes written as x y width height instead of {known}"
        return found
    kinds, objects = kinds_of(table), ~table.crowd & ~np.isin(table.image_ids[table.image_of], list(doubtful))
    corners = table.corners()
    for row in np.flatnonzero(kinds.outside & kinds.wide & objects).tolist():
        x0, y0, x1, y1 = corners[row].tolist()
        found[int(places[row])] = [x0, y0, x1 - x0, y1 - y0], "boxes clipped to their image"
    for row in np.flatnonzero(~kinds.wide & objects).tolist():
        found[int(places[row])] = None, "boxes without a pixel left out"
    for row in np.flatnonzero(kinds.again).tolist():
        found[int(places[row])] = None, "objects annotated twice left out"
    return found
