"""Keypoints that cannot be: counted again, and marked as not labeled where they are outside or not as many as named.

num_keypoints of another number than labeled points -> counted
a labeled point outside its image, others inside    -> 0 0 0: not labeled, as COCO writes points that are not seen
all labeled points outside                          -> left: they are in other units, or of another image
zeros behind the last point                         -> cut off
another number of points, or no numbers             -> all not labeled: which point is which, nobody can tell;
                                                       the object keeps its box
"""

from __future__ import annotations

import math
from typing import Any

from detection.data.annotations.json_values import category_id, whole_number
from detection.doctor.changes import Changes
from detection.doctor.objects import SLACK

UNLABELED = "objects whose keypoints could not be used marked as not labeled"


def mend_keypoints(top: dict[str, Any], doubtful: set[int], changes: Changes) -> bool:
    """Mend the keypoints of all annotations in place; whether any was changed.

    Args:
        doubtful: ids of images whose size is wrong, so that nothing can be said to be outside.
    """
    entries = [entry for entry in top["annotations"] if isinstance(entry, dict) and is_list(entry.get("keypoints"))]
    count = points_of(top, entries)
    if not count:
        return False
    sizes = {
        whole_number(image.get("id")): (whole_number(image.get("width")), whole_number(image.get("height")))
        for image in top["images"]
        if isinstance(image, dict) and whole_number(image.get("id")) not in doubtful
    }
    changed, outside = False, []
    for place, entry in enumerate(top["annotations"]):
        if not isinstance(entry, dict) or not is_list(entry.get("keypoints")):
            continue
        numbers, done = sound(entry["keypoints"], count)
        width, height = sizes.get(whole_number(entry.get("image_id")), (None, None))
        if width and height and done is None:
            beyond = [
                k for k in range(0, len(numbers), 3) if numbers[k + 2] > 0 and is_outside(numbers, k, width, height)
            ]
            if beyond and len(beyond) == labeled(numbers):
                outside.append(f"annotation {entry.get('id')}")
            elif beyond:
                for k in beyond:
                    numbers[k : k + 3] = [0, 0, 0]
                changes.done["keypoints outside their images marked as not labeled"] += len(beyond)
        if done is not None:
            changes.done[done] += 1
        told = "num_keypoints" in entry and whole_number(entry["num_keypoints"]) != labeled(numbers)
        if told and numbers == entry["keypoints"]:
            changes.done["numbers of keypoints counted again"] += 1
        if told or numbers != entry["keypoints"]:
            counted = {"num_keypoints": labeled(numbers)} if "num_keypoints" in entry else {}
            top["annotations"][place] = {**entry, "keypoints": numbers, **counted}
            changed = True
    if outside:
        why = "no labeled keypoint of the object is inside its image; they are in other units, or of another image"
        changes.leave("keypoint-outside", why, outside)
    return changed


def is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def points_of(top: dict[str, Any], entries: list[dict[str, Any]]) -> int:
    """Points of an object: as the categories name them, else as many as the first object has; 0 for none, or where
    categories differ."""
    named = {
        len(e["keypoints"]) for e in top["categories"] if category_id(e) is not None and is_list(e.get("keypoints"))
    }
    if named:
        return named.pop() if len(named) == 1 else 0
    return next((len(e["keypoints"]) // 3 for e in entries if len(e["keypoints"]) % 3 == 0), 0)


def sound(values: list[Any], count: int) -> tuple[list[Any], str | None]:
    """3 x count numbers that can be used, and what was done to get there; None for nothing."""
    wanted = 3 * count
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in values)
    if numbers and len(values) > wanted and not any(values[wanted:]):
        cut, done = sound(values[:wanted], count)
        return cut, done or "objects with zeros behind their keypoints cut"
    if numbers and len(values) == wanted and all(seen in (0, 1, 2) for seen in values[2::3]):
        return list(values), None
    return [0] * wanted, UNLABELED


def is_outside(numbers: list[Any], k: int, width: int, height: int) -> bool:
    x, y = numbers[k], numbers[k + 1]
    return not (-SLACK <= x <= width + SLACK and -SLACK <= y <= height + SLACK)


def labeled(numbers: list[Any]) -> int:
    return sum(seen > 0 for seen in numbers[2::3])
