"""The keypoints of a COCO file as a column (A, K, 3): x y visibility.

    "keypoints": [x, y, v, x, y, v, ...]     v is 0 not labeled, 1 occluded, 2 visible

Keypoints of annotations without any are not labeled. All categories with keypoints have the same ones.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.json_values import category_id
from detection.data.annotations.skeleton import Skeleton, usable_lines
from shared.errors import DataError
from shared.feeding.columns import compact, floats, together


def read_skeletons(categories: list[Any], path: Path) -> tuple[dict[int, Skeleton], list[str]]:
    """{category id: skeleton} of the categories with keypoint names, and notes about skeleton lines.

    Raises:
        DataError: an invalid skeleton, or categories with different keypoints.
    """
    found: dict[int, Skeleton] = {}
    notes: list[str] = []
    for entry in categories:
        if entry.get("keypoints"):
            words, more = usable_lines(entry)
            notes += more
            category = category_id(entry)
            assert category is not None, "categories are checked when they are read"
            found[category] = Skeleton.from_words(words, f"{path}: category '{entry['name']}'")
    if len({skeleton.names for skeleton in found.values()}) > 1:
        raise DataError(f"{path}: categories have different keypoints, but a network has one skeleton; split the file")
    return found, notes


class KeypointRows:
    """Collects keypoints, one annotation after another."""

    def __init__(self) -> None:
        self.numbers, self.lengths = array("d"), array("i")

    def take(self, values: Any) -> None:
        """Add a list of numbers, or None. Raises TypeError."""
        if values is None:
            values = []
        self.numbers.extend(values)
        self.lengths.append(len(values))

    def column(
        self, count: int, category_ids: np.ndarray, names: dict[int, str], refuse: Callable[..., None]
    ) -> np.ndarray:
        """(A, K, 3) float32, or float64 if float32 would change a number; K is 0 without keypoints.

        Args:
            count: K; 0 to take it from the annotations.
            category_ids: (A,).
            names: {category id: name}, for error messages.
            refuse: called with the invalid annotations, (A,) bool, and a function from row to message.
        """
        lengths, numbers = np.array(self.lengths, np.int64), floats(self.numbers)
        some = lengths > 0
        odd = lengths % 3 > 0
        refuse(odd, lambda row: f"has {lengths[row]} keypoint numbers, not triples x y visibility")
        of_category = count > 0
        count = count or (int(lengths[some][0]) // 3 if some.any() else 0)
        whose = "its category '{}' names" if of_category else "the annotations before it have"
        refuse(
            some & (lengths != 3 * count),
            lambda row: (
                f"has {lengths[row] // 3} keypoints where {whose.format(names[int(category_ids[row])])} {count}"
            ),
        )
        points, sound = np.zeros((len(lengths), 3 * count)), some & (lengths == 3 * count)
        points[sound] = numbers[np.repeat(sound, lengths)].reshape(-1, 3 * count) if count else 0
        refuse(~np.isfinite(points).all(axis=1), lambda row: "has keypoints that are not finite")
        points = points.reshape(len(lengths), count, 3)
        seen = points[:, :, 2]
        wrong = ~((seen == 0) | (seen == 1) | (seen == 2))
        refuse(
            wrong.any(axis=1),
            lambda row: f"has the keypoint visibility {seen[row][wrong[row]][0]:g} where 0, 1 or 2 belongs",
        )
        return compact(points.reshape(-1)).reshape(points.shape)


def stacked(parts: list[np.ndarray], path: Path) -> np.ndarray:
    """Concatenate columns (A, K, 3); keypoints of files without any are not labeled.

    Raises:
        DataError: different K.
    """
    counts = {part.shape[1] for part in parts} - {0}
    if len(counts) > 1:
        raise DataError(f"{path} has objects with {' and '.join(map(str, sorted(counts)))} keypoints; separate them")
    count = max(counts, default=0)
    return together([part if part.shape[1] else np.zeros((len(part), count, 3), np.float32) for part in parts])


def insist(column: np.ndarray | None, path: Path) -> None:
    """Raise DataError if no keypoint is labeled."""
    if column is None or not (column[:, :, 2] > 0).any():
        raise DataError(
            f"{path} has no keypoints; give annotations that have them, as COCO's person_keypoints files do, "
            "or use a network without keypoints"
        )
