"""Which annotations are trained on, and what there is to tell of the others.

    annotation -> a crowd?  narrower than a pixel inside its image?  there twice?  a mask without a pixel? -> no target
    image      -> fewer labelled keypoints than asked for?                                                 -> left out

All of them stay for evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detection.data.annotations.coco_json import CocoTable, exact_duplicates
from detection.data.annotations.skeleton import Skeleton
from detection.data.masks.silhouettes import empty
from shared.errors import DataError


def note(count: int, one: str, many: str, what: str) -> list[str]:
    """A sentence, or none where there is nothing to tell."""
    return [f"{count} {one if count == 1 else many} {what}"] if count else []


def find_targets(table: CocoTable, finds: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(A,) bool: the annotations that are trained on; and what there is to tell.

    Raises:
        DataError: there is none.
    """
    corners, objects = table.corners(), ~table.crowd
    outside = (corners != np.hstack((table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]))).any(axis=1)
    wide = (corners[:, 2:] - corners[:, :2] >= 1).all(axis=1)
    again = exact_duplicates(table) & wide & objects
    notes = note(int((outside & wide & objects).sum()), "box reaches", "boxes reach", "outside the image, clipped")
    notes += note(int((~wide & objects).sum()), "box is", "boxes are", "narrower than 1 pixel, dropped")
    notes += note(int(again.sum()), "annotation is", "annotations are", "there twice or more, counted once")
    targets = wide & objects & ~again
    if not targets.any():
        raise DataError(f"{table.path} has no usable boxes at all; give annotations of objects ('instances')")
    if "masks" in finds:
        targets, more = _with_masks(table, targets)
        notes += more
    return targets, notes


def _with_masks(table: CocoTable, targets: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The targets whose mask has a pixel in the image."""
    assert table.masks is not None
    rows = np.flatnonzero(targets)
    outlines, sizes = table.masks.select(rows), table.sizes[table.image_of[rows]]
    nothing = empty(outlines, sizes)
    extents, limit = outlines.extents(), sizes[:, ::-1]
    outside = ((extents[:, :2] < 0) | (extents[:, 2:] > limit)).any(axis=1) & ~nothing
    notes = note(int(outside.sum()), "polygon reaches", "polygons reach", "outside the image, clipped")
    notes += note(int(nothing.sum()), "mask has", "masks have", "no pixel in the image, dropped")
    if nothing.all():
        raise DataError(
            f"{table.path} has no mask that lies in its image; look whether sizes and polygons belong together"
        )
    targets = targets.copy()
    targets[rows[nothing]] = False
    return targets, notes


def labelled_points(table: CocoTable, targets: np.ndarray) -> np.ndarray:
    """(I,) how many keypoints of each image's targets are labelled."""
    assert table.keypoints is not None
    counts = (table.keypoints[targets, :, 2] > 0).sum(axis=1)
    return np.bincount(table.image_of[targets], counts, minlength=len(table.image_ids))


def usual_min_keypoints(skeleton: Skeleton) -> int:
    """How many labelled keypoints a training image has: 10 for COCO's person, as its reference trainers do, else 1."""
    return 10 if skeleton.is_person else 1
