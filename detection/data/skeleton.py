"""What keypoints are called, which belong together, and how exact each can be expected to be.

    category of a COCO file, or a YAML, or a number -> Skeleton: names, edges, mirrored order, sigmas

It travels in the weights' card beside the classes, so that results and pictures need no other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Skeleton:
    """K keypoints of an object.

    Args:
        names: of keypoint 0, 1, ...
        edges: pairs of keypoints, counted from 0, that pictures join with a line.
        mirrored: which keypoint of the photograph each one is in its mirror image: left elbow for right elbow.
        sigmas: how far labellers differ, in sides of the object, keypoint by keypoint: what pycocotools calls the same.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    mirrored: tuple[int, ...]
    sigmas: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Skeleton:
        return cls(
            tuple(saved["names"]),
            tuple((int(a), int(b)) for a, b in saved["edges"]),
            tuple(int(i) for i in saved["mirrored"]),
            tuple(float(s) for s in saved["sigmas"]),
        )
