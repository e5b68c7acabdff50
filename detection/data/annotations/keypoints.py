"""The keypoints of a COCO file as one column: (A, K, 3), x y and how far each point is labelled.

    "keypoints": [x, y, v, x, y, v, ...]     v is 0 not labelled, 1 hidden, 2 seen

An annotation without them has none labelled. All categories of a file that have keypoints have the same.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.skeleton import Skeleton
from shared.errors import DataError
from shared.feeding.columns import compact, floats, together


def read_skeletons(categories: list[Any], path: Path) -> dict[int, Skeleton]:
    """{category id: skeleton} of the categories that name keypoints.

    Raises:
        DataError: one cannot be understood, or two are of different points.
    """
    found: dict[int, Skeleton] = {}
    for entry in categories:
        if entry.get("keypoints"):
            found[entry["id"]] = Skeleton.from_words(entry, f"{path}: category '{entry['name']}'")
    if len({skeleton.names for skeleton in found.values()}) > 1:
        raise DataError(f"{path}: categories have different keypoints; a network learns one skeleton, so part the file")
    return found


class KeypointRows:
    """Keypoints on their way from JSON to a column, one annotation after another."""

    def __init__(self) -> None:
        self.numbers, self.lengths = array("d"), array("i")

    def take(self, values: Any) -> None:
        """A list of numbers; None is none. Raises TypeError."""
        if values is None:
            values = []
        self.numbers.extend(values)
        self.lengths.append(len(values))

    def column(
        self, count: int, category_ids: np.ndarray, names: dict[int, str], refuse: Callable[..., None]
    ) -> np.ndarray:
        """(A, K, 3) float32, or float64 where float32 would change a number; K is 0 where nobody has any.

        Args:
            count: K; 0 where no category says it, then the annotations do.
            category_ids: (A,).
            names: {category id: name}, for refusals.
            refuse: told which annotations are wrong, (A,) bool, and what to say of one of them.
        """
        lengths, numbers = np.array(self.lengths, np.int64), floats(self.numbers)
        some = lengths > 0
        odd = lengths % 3 > 0
        refuse(odd, lambda row: f"has {lengths[row]} keypoint numbers, which are no triples x y visibility")
        of_category = count > 0
        count = count or (int(lengths[some][0]) // 3 if some.any() else 0)
        whose = "its category '{}' names" if of_category else "the annotations before it have"
        refuse(
            some & (lengths != 3 * count),
            lambda row: (
                f"has {lengths[row] // 3} keypoints where {whose.format(names[int(category_ids[row])])} {count}"
            ),
        )
        points = np.zeros((len(lengths), 3 * count))
        points[some] = numbers.reshape(-1, 3 * count) if count else 0
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
    """Columns (A, K, 3) of several files as one; where a file has no keypoints, none are labelled.

    Raises:
        DataError: they differ in K.
    """
    counts = {part.shape[1] for part in parts} - {0}
    if len(counts) > 1:
        raise DataError(f"{path} holds objects of {' and '.join(map(str, sorted(counts)))} keypoints; part them")
    count = max(counts, default=0)
    return together([part if part.shape[1] else np.zeros((len(part), count, 3), np.float32) for part in parts])


def insist(column: np.ndarray | None, path: Path) -> None:
    """Raise DataError unless some keypoint is labelled."""
    if column is None or not (column[:, :, 2] > 0).any():
        raise DataError(
            f"{path} has no keypoints; give annotations that have them, as COCO's person_keypoints files do, "
            "or take a network that learns boxes alone"
        )
