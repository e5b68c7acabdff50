"""Shapes that are one object: those of one class and one group, if at most one of them is a box alone.

polygon (cell, 3) + polygon (cell, 3)    one object of two rings
box (cell, 4) + polygon (cell, 4)        one object with this box and this mask
box (cell, 5) + box (cell, 5)            two objects: the group says something else
"""

from __future__ import annotations

from collections.abc import Sequence

from detection.data.formats.records import Mask, Thing, around
from detection.data.masks.rle import coco_mask


def grouped(shapes: Sequence[tuple[Thing, object]]) -> list[Thing]:
    """Shapes with their groups, None for none -> objects, in the order of their first shapes."""
    found: dict[object, list[Thing]] = {}
    for place, (thing, group) in enumerate(shapes):
        found.setdefault(place if group is None else (thing.name, group), []).append(thing)
    return [thing for things in found.values() for thing in merged(things)]


def merged(things: list[Thing]) -> list[Thing]:
    """The shapes of a group as one object, or as they are."""
    boxes = [thing.box for thing in things if thing.mask is None]
    masks = [thing.mask for thing in things if thing.mask is not None]
    if len(things) == 1 or not masks or len(boxes) > 1 or len({type(mask) for mask in masks}) > 1:
        return things
    if any(thing.points for thing in things):
        return things
    mask: Mask = [ring for each in masks if isinstance(each, list) for ring in each]
    if not mask:
        code = coco_mask.merge(masks)
        mask = {"size": list(code["size"]), "counts": code["counts"].decode()}
    corners = [v for x, y, w, h in (thing.box for thing in things) for v in (x, y, x + w, y + h)]
    return [things[0]._replace(box=boxes[0] if boxes else around(corners), mask=mask)]
