"""Sizes in the annotations that are not those of the photographs: the file's own, where its objects fit no other way.

    no size, objects fit the file                           -> the file's
    another size, objects do not fit the file               -> left: it is another photograph, or was made smaller
    another size, a mask has it too                         -> left: the masks were drawn on that size
    the same proportions, or height and width exchanged     -> the file's, where an object of such an image reaches
                                                               beyond the size that is listed, or there is no object;
                                                               else left: it may have been resized or turned later
    any other size                                          -> the file's

Boxes stay as they are. Photographs whose EXIF exchanges height and width are left: the size was to tell which way.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from detection.data.annotations.json_values import whole_number
from detection.data.photographs import ROUNDING
from detection.doctor.changes import Changes
from detection.doctor.pictures import Seen
from shared.feeding.headers import Picture, read_headers
from shared.feeding.orientation import BEYOND

Size = tuple[int, int]  # height, width
KIND = "image-size"
CARELESS = 0.05  # of a side, by which a careless drawing reaches over an edge; what reaches further is a proof
REASONS = {
    "reach": "objects reach beyond the photograph, so it is another one, or was made smaller after it was annotated",
    "masks": "masks have the size that is listed, so the photograph may have been changed after it was annotated",
    "exif": "EXIF turns the photograph, and no size tells whether its objects were drawn before or after that",
    "scaled": "the photograph has the proportions that are listed, so it may have been resized after it was annotated, "
    "and its boxes would have to be resized too",
    "exchanged": "height and width are exchanged, in the list or by turning the photograph, and the boxes fit both",
}


class Objects(NamedTuple):
    """What the annotations of an image say about its size.

    far: (x, y) that boxes and labeled keypoints reach. masks: sizes of masks in RLE. count: of objects.
    """

    far: tuple[float, float]
    masks: frozenset[Size]
    count: int

    def fit(self, size: Size, careless: float = 0.0) -> bool:
        """Whether they reach over the edge by no more than a pixel, and a share of the side."""
        height, width = (side * (1 + careless) + ROUNDING for side in size)
        return self.far[0] <= width and self.far[1] <= height


def mend_sizes(
    top: dict[str, Any], seen: Seen, unusable: list[int], changes: Changes, *, boxes_fit: bool
) -> tuple[bool, set[int]]:
    """Give entries of the list 'images' the size of their files, in place.

    Args:
        unusable: places in that list of entries that cannot be used.
        boxes_fit: boxes are in COCO's format, so that it can be asked whether they fit.

    Returns:
        Whether any was changed, and the ids of images whose size is wrong and was left.
    """
    listed = seen.read_.table
    wrong = {int(listed.image_ids[row]): row for row in seen.photographs.another_size}
    bare = without_size(top, unusable, {*listed.image_ids.tolist(), *seen.missing})
    ids = {*wrong, *bare}
    if not ids:
        return False, set()
    objects = objects_of(top, ids)
    new: dict[int, Size] = {}  # by image id
    names = {image_id: seen.name(row) for image_id, row in wrong.items()} | {i: e["file_name"] for i, e in bare.items()}
    order = list(names)
    headers = read_headers([Picture(seen.folder / names[image_id]) for image_id in order])
    actual = {
        image_id: (int(height), int(width))
        for row, (image_id, (height, width)) in enumerate(zip(order, headers.sizes, strict=True))
        if row not in headers.reasons
    }
    turned = {image_id for row, image_id in enumerate(order) if headers.orientations[row] >= BEYOND}
    for image_id in bare:
        if image_id in actual and image_id not in turned and (not boxes_fit or objects[image_id].fit(actual[image_id])):
            new[image_id] = actual[image_id]
    if wrong and not boxes_fit:
        changes.leave(KIND, "boxes are in another format, so they do not tell; run --fix on what it wrote now")
    elif wrong:
        said = {image_id: (int(h), int(w)) for image_id, row in wrong.items() for h, w in [listed.sizes[row]]}
        new |= judged(said, {i: actual[i] for i in wrong}, objects, turned, names, changes)
    places = {whole_number(entry["id"]): entry for entry in bare.values()}
    for number, entry in enumerate(top["images"]):
        image_id = whole_number(entry.get("id")) if isinstance(entry, dict) else None
        if image_id in new and (number not in set(unusable) or entry is places.get(image_id)):
            height, width = new[image_id]
            top["images"][number] = {**entry, "height": height, "width": width}
            changes.done["image sizes taken from the files"] += 1
    return bool(new), wrong.keys() - new.keys()


def judged(
    said: dict[int, Size],
    actual: dict[int, Size],
    objects: dict[int, Objects],
    turned: set[int],
    names: dict[int, str],
    changes: Changes,
) -> dict[int, Size]:
    """The sizes that are certain, by image id; the others are left, with the reason."""
    new: dict[int, Size] = {}
    left: dict[str, list[int]] = defaultdict(list)
    doubtful: dict[str, list[int]] = defaultdict(list)
    proved: set[str] = set()  # ways in which an image of this file is listed wrongly for certain
    for image_id, size in said.items():
        there, own = actual[image_id], objects[image_id]
        way = relation(size, there)
        if image_id in turned:
            left["exif"].append(image_id)
        elif size in own.masks and own.count:
            left["masks"].append(image_id)
        elif not own.fit(there):
            left["reach"].append(image_id)
        elif not own.count or way is None or there in own.masks:
            new[image_id] = there
        elif not own.fit(size, CARELESS):
            new[image_id] = there
            proved.add(way)
        else:
            doubtful[way].append(image_id)
    for way, ids in doubtful.items():
        if way in proved and not left["reach"]:
            new |= {image_id: actual[image_id] for image_id in ids}
        else:
            left[way] += ids
    for reason, ids in left.items():
        if ids:
            some = [f"{names[i]}: is {actual[i][1]}x{actual[i][0]}, listed as {said[i][1]}x{said[i][0]}" for i in ids]
            changes.leave(KIND, REASONS[reason], some)
    return new


def relation(listed: Size, actual: Size) -> str | None:
    """How the photograph may have come to another size after it was annotated; None for no way that is common."""
    if listed == actual[::-1]:
        return "exchanged"
    return "scaled" if abs(listed[0] * actual[1] / actual[0] - listed[1]) <= 1 else None


def without_size(top: dict[str, Any], unusable: list[int], known: set[int]) -> dict[int, dict[str, Any]]:
    """Entries of 'images' that lack nothing but a size, by their id; those whose id is `known` already do not count."""
    found: dict[int, dict[str, Any]] = {}
    for place in unusable:
        entry = top["images"][place]
        image_id = whole_number(entry.get("id")) if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if image_id is None or not isinstance(name, str) or not name or image_id in known or image_id in found:
            continue
        inside = Path(os.path.normpath(name))
        if not inside.is_absolute() and inside.parts[0] != os.pardir:
            found[image_id] = entry
    return found


def objects_of(top: dict[str, Any], ids: set[int]) -> dict[int, Objects]:
    """The objects of some images; entries that cannot be read say nothing."""
    far = {image_id: (0.0, 0.0) for image_id in ids}
    masks: dict[int, set[Size]] = defaultdict(set)
    count: dict[int, int] = defaultdict(int)
    for entry in top["annotations"]:
        image_id = whole_number(entry.get("image_id")) if isinstance(entry, dict) else None
        if image_id not in far:
            continue
        count[image_id] += 1
        for x, y in reached(entry):
            far[image_id] = max(far[image_id][0], x), max(far[image_id][1], y)
        runs = entry.get("segmentation")
        if isinstance(runs, dict) and isinstance(runs.get("size"), list) and len(runs["size"]) == 2:
            masks[image_id].add(tuple(runs["size"]))
    return {image_id: Objects(far[image_id], frozenset(masks[image_id]), count[image_id]) for image_id in ids}


def reached(entry: dict[str, Any]) -> list[tuple[float, float]]:
    """The far corner of the box, and the labeled keypoints; none of what is no number."""
    points = []
    try:
        x, y, width, height = map(float, entry["bbox"])
        points.append((x + width, y + height))
        numbers = list(map(float, entry.get("keypoints") or ()))
        points += [(x, y) for x, y, v in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=False) if v > 0]
    except (TypeError, ValueError, KeyError):
        pass
    return points
