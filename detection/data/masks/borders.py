"""The outlines of a mask of pixels, along the edges of its pixels: polygons that cover exactly these pixels.

RLE -> pixels -> edges between on and off, object on the right -> closed rings, corners alone
"""

from __future__ import annotations

from typing import Any

import numpy as np

from detection.data.masks.rle import coco_mask, compressed


def borders(code: dict[str, Any]) -> list[list[float]]:
    """RLE -> rings x y x y ..., those of holes walked the other way around; none for an empty mask."""
    height, width = code["size"]
    counts = code["counts"]
    packed = compressed(counts, (height, width)) if isinstance(counts, list) else counts
    mask = np.pad(coco_mask.decode({"size": [height, width], "counts": packed}), 1).astype(np.int8)
    down, across = np.diff(mask, axis=0)[:, 1:-1], np.diff(mask, axis=1)[1:-1]
    edges: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(places: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in places.tolist():
            edges.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))

    add(np.argwhere(down == 1), (0, 0), (1, 0))  # the upper side, to the right
    add(np.argwhere(down == -1), (1, 0), (0, 0))  # the lower side, to the left
    add(np.argwhere(across == 1), (0, 1), (0, 0))  # the left side, upwards
    add(np.argwhere(across == -1), (0, 0), (0, 1))  # the right side, downwards
    rings: list[list[float]] = []
    while edges:
        first = here = min(edges)
        way, corners = (0, 0), list[tuple[int, int]]()
        while True:
            ahead = edges[here]
            # where two pixels touch at a corner, turn towards the object, so that each ring stays simple
            there = min(ahead, key=lambda end: turn(way, (end[0] - here[0], end[1] - here[1])))
            ahead.remove(there)
            if not ahead:
                del edges[here]
            step = (there[0] - here[0], there[1] - here[1])
            if step != way:
                corners.append(here)
            way, here = step, there
            if here == first:
                break
        rings.append([float(value) for corner in corners for value in corner])
    return rings


def turn(before: tuple[int, int], after: tuple[int, int]) -> int:
    """-1 for a turn to the right, as the object lies, 0 straight on, 1 to the left; y points down."""
    return -(before[0] * after[1] - before[1] * after[0])
