"""The annotations used for training, and notes about the others.

    annotation -> a crowd?  narrower than a pixel inside its image?  a duplicate?  a mask without a pixel? -> no target
    image      -> fewer labeled keypoints than required?                                                -> skipped

Evaluation uses all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detection.data.annotations.coco_json import CocoTable, exact_duplicates
from detection.data.annotations.skeleton import Skeleton
from detection.data.masks.silhouettes import empty
from shared.errors import DataError


def note(count: int, one: str, many: str, what: str) -> list[str]:
    """One note, or none if the count is 0."""
    return [f"{count} {one if count == 1 else many} {what}"] if count else []


def find_targets(table: CocoTable, finds: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """(A,) bool: the annotations used for training; and notes about the others.

    Raises:
        DataError: there are none.
    """
    corners, objects = table.corners(), ~table.crowd
    outside = (corners != np.hstack((table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]))).any(axis=1)
    wide = (corners[:, 2:] - corners[:, :2] >= 1).all(axis=1)
    again = exact_duplicates(table) & wide & objects
    notes = note(int((outside & wide & objects).sum()), "box reaches", "boxes reach", "outside the image, clipped")
    notes += note(int((~wide & objects).sum()), "box is", "boxes are", "narrower than 1 pixel, dropped")
    notes += note(int(again.sum()), "annotation is", "annotations are", "duplicated, counted once")
    targets = wide & objects & ~again
    if not targets.any():
        raise DataError(f"{table.path} has no usable boxes; give annotations of objects ('instances')")
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
        raise DataError(f"{table.path} has no mask inside its image; check that image sizes and polygons match")
    targets = targets.copy()
    targets[rows[nothing]] = False
    return targets, notes


def labeled_points(table: CocoTable, targets: np.ndarray) -> np.ndarray:
    """(I,) number of labeled keypoints in each image's targets."""
    assert table.keypoints is not None
    counts = (table.keypoints[targets, :, 2] > 0).sum(axis=1)
    return np.bincount(table.image_of[targets], counts, minlength=len(table.image_ids))


def default_min_keypoints(skeleton: Skeleton) -> int:
    """Minimum of labeled keypoints in a training image: 10 for COCO's person, as in torchvision, else 1."""
    return 10 if skeleton.is_person else 1
