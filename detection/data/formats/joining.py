"""An outline of several parts as one ring, since YOLO's lines have one each, and back.

[[a0 a1 a2], [b0 b1 b2]]  ->  a0 a1 a2 a0 b0 b1 b2 b0     the way between them is walked twice, and has no area
with holes                ->  a0 a1 a2 b0 b1 b2 b0 a2     one ring for ever: parts of a COCO polygon are added, so that
                                                          a hole of its own would be filled
"""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]


def joined(rings: Sequence[Sequence[float]], *, holes: bool = False) -> list[float]:
    """Rings x y x y ... -> one ring; each part starts at its corner that is nearest to where it is joined.

    Args:
        holes: some rings are holes in others.
    """
    if len(rings) == 1:
        return list(rings[0])
    parts = [list(zip(ring[0::2], ring[1::2], strict=True)) for ring in rings]
    start = parts[0][-1 if holes else 0]
    whole = list(parts[0]) if holes else [*parts[0], start]
    for number, part in enumerate(parts[1:]):
        first = min(range(len(part)), key=lambda i: (part[i][0] - start[0]) ** 2 + (part[i][1] - start[1]) ** 2)
        whole += [
            *([start] if number and not holes else []),
            *part[first:],
            *part[: first + 1],
            *([start] if holes else []),
        ]
    return [value for point in whole for value in point]


def parted(ring: Sequence[float]) -> list[list[float]]:
    """What `joined` made -> its rings; any other ring alone."""
    points: list[Point] = list(zip(ring[0::2], ring[1::2], strict=True))
    stops = [at for at in range(1, len(points)) if points[at] == points[0]]
    if not stops or stops[-1] == len(points) - 1:
        return [list(ring)]
    first, *others = (points[a:b] for a, b in zip([0, *(at + 1 for at in stops)], [*stops, len(points)], strict=True))
    if len(first) < 3 or any(len(part) < 4 or part[0] != part[-1] for part in others):
        return [list(ring)]
    return [[value for point in part for value in point] for part in (first, *(part[:-1] for part in others))]
