"""Notes about the data of a run: photographs that come twice, objects that the network cannot see or find.

headers' marks -> candidates -> digests of whole files -> the same photograph twice, or in training and validation
boxes and the size of the input -> objects smaller than a pixel
objects of an image and the network's queries -> more objects than it can find
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from detection.data.annotations.coco_json import CocoTable
from detection.data.augment.presets import Augmentation, Output
from detection.data.augment.sizes import Size, fitted
from detection.data.coco import CocoDetection
from shared.errors import DataError, plural

NAMED = 3  # photographs to name in a note


def notes_on_photographs(train: CocoDetection, val: CocoDetection | None) -> list[str]:
    """Notes about photographs that come twice in training, or in training and validation, by their content."""
    sets = [train] if val is None else [train, val]
    groups = same_files(sets)
    again = [rows for rows in groups if sum(which == 0 for which, _ in rows) > 1]
    both = [rows for rows in groups if {which for which, _ in rows} == {0, 1}]
    notes = []
    if again:
        extra = sum(sum(which == 0 for which, _ in rows) - 1 for rows in again)
        names = _names(sets, [[(which, row) for which, row in rows if which == 0] for rows in again])
        notes.append(f"{plural(extra, 'training image')} repeat another one, byte for byte, such as {names}")
    if both:
        known = sum(sum(which == 1 for which, _ in rows) for rows in both)
        notes.append(
            f"{known} of the {plural(len(sets[1]), 'validation image')} are also in training, byte for byte, such as "
            f"{_names(sets, both)}; metrics on them say little"
        )
    return notes


def same_files(sets: Sequence[Any]) -> list[list[tuple[int, int]]]:
    """Groups of photographs of equal content, byte for byte, each as (number of the set, row).

    Args:
        sets: data sets, with `photographs`, `read(row)` and a length.
    """
    where = [(which, row) for which, data in enumerate(sets) for row in range(len(data))]
    marks = np.concatenate([data.photographs.marks for data in sets])
    _, group, count = np.unique(marks, return_inverse=True, return_counts=True)
    groups: dict[str, list[tuple[int, int]]] = {}
    for place in np.flatnonzero((count[group] > 1) & (marks != 0)).tolist():
        which, row = where[place]
        try:
            digest = hashlib.sha256(sets[which].read(row)).hexdigest()
        except (OSError, DataError):
            continue
        groups.setdefault(digest, []).append((which, row))
    return [rows for rows in groups.values() if len(rows) > 1]


def notes_on_shared(train: CocoDetection, val: CocoDetection, where: str) -> list[str]:
    """A note about validation photographs that are in the training data of another data set, by their content.

    Args:
        where: what to call that training data.
    """
    notes = notes_on_photographs(train, val)
    return [note.replace("also in training", f"also in the {where}") for note in notes if "also in training" in note]


def _names(sets: list[CocoDetection], groups: list[list[tuple[int, int]]]) -> str:
    some = [" and ".join(sets[which].path(row).name for which, row in rows[:2]) for rows in groups[:NAMED]]
    return "; ".join(dict.fromkeys(some))


def notes_on_small(data: CocoDetection) -> list[str]:
    """A note about objects that are smaller than a pixel of the network's input, at the largest size it varies to."""
    if not isinstance(data.augment, Augmentation):
        return []
    output = data.augment.output
    lost = int(((sides_seen(data.table, output) < 1).any(axis=1) & data.is_target).sum())
    if not lost:
        return []
    side = f"{max(output.size)} pixels" if output.long is None else f"at most {output.long} pixels"
    objects = "1 object is" if lost == 1 else f"{lost:,} objects are"
    lost_how = f"less than a pixel wide or high after the resize to {side} and cannot be found"
    return [f"{objects} {lost_how}; a larger --size helps"]


def sides_seen(table: CocoTable, output: Output) -> np.ndarray:
    """(A, 2) widths and heights of the boxes after the resize, in pixels, at the largest size it varies to."""
    shapes, kind = np.unique(table.sizes, axis=0, return_inverse=True)
    after = np.array([_largest(output, (height, width)) for height, width in shapes.tolist()])
    factor = (after / shapes)[kind.reshape(-1)][table.image_of][:, ::-1]
    corners = table.corners()
    return (corners[:, 2:] - corners[:, :2]) * factor


def _largest(output: Output, size: Size) -> Size:
    """The output size of an image of (height, width) `size`, at the largest of the short sides."""
    if output.short and output.long:
        return fitted(size, max(output.short), output.long, output.rule)
    return output.of(size)


def notes_on_queries(data: CocoDetection, most: int | None) -> list[str]:
    """A note about images with more objects than the network has queries."""
    if most is None:
        return []
    counts = Counter(data.table.image_of[data.is_target].tolist())
    crowded = sum(count > most for count in counts.values())
    if not crowded:
        return []
    images = "1 image has" if crowded == 1 else f"{crowded:,} images have"
    return [
        f"{images} more objects than the network's {most} queries, at most {max(counts.values()):,}; "
        f"the others are never learned, give --num-queries {max(counts.values())}"
    ]
