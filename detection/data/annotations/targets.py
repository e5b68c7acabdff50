"""The annotations used for training, and notes about the others.

    annotation -> a crowd?  narrower than a pixel inside its image?  a duplicate?  a mask without a pixel? -> no target
    image      -> fewer labeled keypoints than required?                                                -> skipped

Evaluation uses all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detection.data.annotations.box_format import check_box_format, check_points
from detection.data.annotations.coco_json import CocoTable, exact_duplicates
from detection.data.annotations.skeleton import Skeleton
from detection.data.masks.encoding import empty
from shared.errors import DataError

CROWDS = "(iscrowd), not trained on and not counted in evaluation"
LARGEST_AREA = 1.5  # of the box, rounded up to pixels
TINY_SHARE = 0.01  # of the box: no mask covers less of it in every annotation of a file


def note(count: int, one: str, many: str, what: str) -> list[str]:
    """One note, or none if the count is 0."""
    return [f"{count} {one if count == 1 else many} {what}"] if count else []


def find_targets(table: CocoTable, finds: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(A,) bool: the annotations used for training; and notes about the others.

    Raises:
        DataError: there are none.
    """
    check_box_format(table)
    objects = ~table.crowd
    outside, wide, again = kinds_of(table)
    notes = note(int((outside & wide & objects).sum()), "box reaches", "boxes reach", "outside the image, clipped")
    notes += note(int((~wide & objects).sum()), "box is", "boxes are", "narrower than 1 pixel, dropped")
    notes += note(int(again.sum()), "annotation is", "annotations are", "duplicated, counted once")
    crowds = note(int(table.crowd.sum()), "annotation is a crowd", "annotations are crowds", CROWDS)
    notes += [*crowds, *area_notes(table, wide & objects)]
    targets = wide & objects & ~again
    if not targets.any():
        why = f": {'; '.join(notes)}" if notes else ""
        way_out = "; set iscrowd to 0 if each is one object" if table.crowd.all() else ""
        raise DataError(f"{table.path} has no usable boxes{why}; give annotations of objects ('instances'){way_out}")
    check_points(table, targets)
    if "masks" in finds:
        targets, more = _with_masks(table, targets)
        notes += more
    return targets, notes


class Kinds(NamedTuple):
    """Each (A,) bool. outside: a side of the box is outside the image. wide: inside it, the box is at least a pixel
    wide and high. again: of the objects that are, a later one of the same class and box."""

    outside: np.ndarray
    wide: np.ndarray
    again: np.ndarray


def kinds_of(table: CocoTable) -> Kinds:
    """What the boxes of a table are, as `find_targets` looks at them."""
    corners = table.corners()
    outside = (corners != np.hstack((table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]))).any(axis=1)
    wide = (corners[:, 2:] - corners[:, :2] >= 1).all(axis=1)
    again = exact_duplicates(table) & wide & ~table.crowd
    return Kinds(np.asarray(outside), np.asarray(wide), np.asarray(again))


def area_notes(table: CocoTable, objects: np.ndarray) -> list[str]:
    """A note about areas that cannot be: 0 or less, larger than their box, or all the same whatever the box.

    They stay as they are, as in pycocotools, which leaves objects of a negative area out.

    Args:
        objects: (A,) bool: annotations to look at.
    """
    areas, sides = table.areas[objects], table.boxes[objects, 2:]
    if not len(areas):
        return []
    with np.errstate(over="ignore"):
        boxes, largest = sides.prod(axis=1), LARGEST_AREA * (sides + 1).prod(axis=1)
        unlike = boxes.max() > 1.1 * boxes.min() or areas[0] < TINY_SHARE * boxes.min()
    low, large = int((areas <= 0).sum()), int((areas > largest).sum())
    if (len(areas) > 2 or areas[0] == 1) and (areas == areas[0]).all() and unlike:
        what = f"all {len(areas)} areas are {areas[0]:g}, whatever the box"
    elif low or large:
        kinds = [f"{low} of {len(areas)} areas {'is' if low == 1 else 'are'} 0 or less"] if low else []
        kinds += [f"{large} of {len(areas)} areas {'is' if large == 1 else 'are'} larger than the box"] if large else []
        what = " and ".join(kinds)
    else:
        return []
    return [
        f"{what}: AP of small, medium and large objects and of keypoints follows them, and objects of a negative "
        "area do not count; remove 'area' from the file to have it measured"
    ]


def _with_masks(table: CocoTable, targets: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The targets whose mask has a pixel in the image."""
    assert table.masks is not None
    rows = np.flatnonzero(targets)
    outside, nothing = masks_outside(table, rows)
    notes = note(int(outside.sum()), "polygon reaches", "polygons reach", "outside the image, clipped")
    notes += note(int(nothing.sum()), "mask has", "masks have", "no pixel in the image, dropped")
    if nothing.all():
        raise DataError(f"{table.path} has no mask inside its image; check that image sizes and polygons match")
    targets = targets.copy()
    targets[rows[nothing]] = False
    return targets, notes


def masks_outside(table: CocoTable, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) indices of annotations -> (R,) bool each: the polygon reaches outside the image; the mask has no pixel in
    it."""
    assert table.masks is not None
    outlines, sizes = table.masks.select(rows), table.sizes[table.image_of[rows]]
    nothing = empty(outlines, sizes)
    extents, limit = outlines.extents(), sizes[:, ::-1]
    return ((extents[:, :2] < 0) | (extents[:, 2:] > limit)).any(axis=1) & ~nothing, nothing


def labeled_points(table: CocoTable, targets: np.ndarray) -> np.ndarray:
    """(I,) number of labeled keypoints in each image's targets."""
    assert table.keypoints is not None
    counts = (table.keypoints[targets, :, 2] > 0).sum(axis=1)
    return np.bincount(table.image_of[targets], counts, minlength=len(table.image_ids))


def default_min_keypoints(skeleton: Skeleton) -> int:
    """Minimum of labeled keypoints in a training image: 10 for COCO's person, as in torchvision, else 1."""
    return 10 if skeleton.is_person else 1
