"""The objects of one annotation file: boxes, masks, keypoints, areas, crowds and classes."""

from __future__ import annotations

import numpy as np

from detection.data.annotations.box_format import check_box_format, check_points
from detection.data.annotations.classes import ClassMap, class_notes
from detection.data.annotations.targets import area_notes, kinds_of, masks_outside
from detection.data.masks.paste import codec
from detection.doctor.reading import Read
from shared.errors import DataError, plural
from shared.findings import Sheet

SLACK = 1.0  # pixels: a careless drawing reaches so far over an edge
APART, APART_SHARE = 3.0, 0.1  # pixels and share of a box's side by which a mask's extent may differ from it
BLOCK = 100_000  # masks that are looked at together


def examine_objects(read: Read, where: str, sheet: Sheet) -> np.ndarray:
    """Add findings about the objects; (A,) bool: those that training would use."""
    table = read.table
    if not len(table.boxes):
        sheet.add("no-objects", where, f"{table.path} has no annotation that can be used")
        return np.zeros(0, dtype=bool)
    try:
        check_box_format(table)
    except DataError as refusal:  # all boxes are wrong, and what else could be said of them as well
        sheet.refused("box-format", where, refusal)
        return np.zeros(len(table.boxes), dtype=bool)
    kinds, objects = kinds_of(table), ~table.crowd

    def add(kind: str, wrong: np.ndarray, one: str, many: str) -> None:
        rows = np.flatnonzero(wrong)
        what = f"{plural(len(rows), 'box') if 'object' not in one else plural(len(rows), 'object')}"
        what += f" {one.removeprefix('object ') if len(rows) == 1 else many}"
        sheet.add(kind, where, what, len(rows), read.named(rows))

    limit = table.sizes[table.image_of][:, ::-1]
    ends = table.boxes[:, :2] + table.boxes[:, 2:]
    beyond = ((table.boxes[:, :2] < -SLACK) | (ends > limit + SLACK)).any(axis=1)
    add("box-outside", beyond & kinds.wide & objects, "reaches outside its image", "reach outside their images")
    add("box-degenerate", ~kinds.wide & objects, "has no pixel in its image", "have no pixel in their images")
    add("object-twice", kinds.again, "object is annotated twice", "are annotated twice")
    targets = kinds.wide & objects & ~kinds.again
    if not targets.any():
        sheet.add("no-objects", where, f"{table.path} has no box that can be used")
        return targets
    for sentence in area_notes(table, kinds.wide & objects):
        sheet.add("area", where, sentence.partition(":")[0])
    try:
        check_points(table, targets)
    except DataError as refusal:
        sheet.refused("point-format", where, refusal)
        return targets
    examine_masks(read, targets, where, sheet)
    examine_keypoints(read, targets, where, sheet)
    return targets


def examine_masks(read: Read, targets: np.ndarray, where: str, sheet: Sheet) -> None:
    """Add findings about masks, against their images and boxes."""
    table = read.table
    if table.masks is None:
        return
    rows = np.flatnonzero(targets & ((table.masks.rings > 0) | (table.masks.in_code > 0)))
    outside, nothing = masks_outside(table, rows)
    extents, sizes = table.masks.select(rows).extents(), table.sizes[table.image_of[rows]][:, ::-1]
    with np.errstate(invalid="ignore"):
        far = outside & ((extents[:, :2] < -SLACK) | (extents[:, 2:] > sizes + SLACK)).any(axis=1)
    for kind, wrong, what in (
        ("mask-outside", rows[far], "reaching outside the image"),
        ("mask-empty", rows[nothing], "without a pixel in the image"),
        ("mask-not-in-box", rows[apart(read, rows, extents) & ~nothing], "of another extent than the box"),
    ):
        sheet.add(kind, where, f"{plural(len(wrong), 'mask')} {what}", len(wrong), read.named(wrong))


def apart(read: Read, rows: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """(R,) bool: the extent of the mask differs from the box by more than a careless drawing.

    Args:
        extents: (R, 4) x0 y0 x1 y1 of polygons; NaN for RLE, which are looked at here.
    """
    table, extents = read.table, extents.copy()
    assert table.masks is not None
    in_code = np.flatnonzero(table.masks.in_code[rows] > 0)
    for block in np.array_split(in_code, len(in_code) // BLOCK + 1):
        if len(block):
            sizes = table.sizes[table.image_of[rows[block]]].tolist()
            codes = [
                {"size": s, "counts": table.masks.code(r)} for r, s in zip(rows[block].tolist(), sizes, strict=True)
            ]
            found = codec.toBbox(codes)
            extents[block] = np.hstack((found[:, :2], found[:, :2] + found[:, 2:]))
    boxes = table.boxes[rows]
    slack = np.maximum(APART, APART_SHARE * boxes[:, 2:])
    corners = np.hstack((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]))
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(extents - corners) > np.hstack((slack, slack))).any(axis=1))


def examine_keypoints(read: Read, targets: np.ndarray, where: str, sheet: Sheet) -> None:
    """Add a finding about labeled keypoints outside their images."""
    points, table = read.table.keypoints, read.table
    if points is None or not points.shape[1]:
        return
    limit = table.sizes[table.image_of][:, None, ::-1]
    beyond = ((points[..., :2] < -SLACK) | (points[..., :2] > limit + SLACK)).any(axis=2) & (points[..., 2] > 0)
    rows = np.flatnonzero(beyond.any(axis=1) & targets)
    what = f"{plural(len(rows), 'object')} with labeled keypoints outside the image"
    sheet.add("keypoint-outside", where, what, len(rows), read.named(rows))


def examine_classes(read: Read, targets: np.ndarray, where: str, sheet: Sheet, *, training: bool) -> None:
    """Add findings about the categories: without objects, of crowds alone, alike, with holes in their ids."""
    table = read.table
    if not targets.any():
        return
    used, of_crowds = (set(np.unique(table.category_ids[rows]).tolist()) for rows in (targets, table.crowd))
    alone = [name for number, name in table.categories.items() if number in of_crowds - used]
    sheet.add("only-crowds", where, f"{plural(len(alone), 'class')} of crowds alone", len(alone), alone)
    bare = [name for number, name in table.categories.items() if number not in used | of_crowds]
    if training:
        sheet.add("class-without-objects", where, f"{plural(len(bare), 'class')} without an object", len(bare), bare)
    names = dict.fromkeys(table.categories.values())
    if len(names) == len(table.categories):  # else they are listed twice, which is said
        notes = class_notes(ClassMap.from_categories(table.categories), table.categories, range(len(names)))
        for note in notes:
            sheet.add("classes-alike", where, note.partition(";")[0])
    ids = sorted(table.categories)
    holes = ids[-1] - ids[0] + 1 - len(ids)
    if training and (holes or ids[0] not in (0, 1)):
        what = f"category ids from {ids[0]} to {ids[-1]}, {plural(holes, 'number')} unused"
        sheet.add("ids-with-holes", where, what)


def only(read: Read, keep: np.ndarray) -> Read:
    """(I,) bool -> the same of these images."""
    rows = keep[read.table.image_of]
    return read._replace(table=read.table.select(keep), ids=read.ids[rows], places=read.places[rows])
