"""The masks of a COCO file as columns: flat polygons and RLE strings, not decoded.

    [[x, y, x, y, ...], ...]         -> numbers (T,), length of each ring (R,), number of rings of each annotation (A,)
    {"counts": "...", "size": [..]}  -> codes (bytes), length of each annotation's code (A,)
    {"counts": [5, 3, ...], ...}     -> the same

COCO's polygons take 4 bytes per number: float32, if it restores every number of the file exactly.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from detection.data.masks.rle import compressed, run_lengths
from shared.feeding.columns import compact, ends, exact, floats, stretches

FIELDS = ("numbers", "in_ring", "rings", "codes", "in_code")
FARTHEST = 100_000  # maximum coordinate in pixels; the rasterizer uses C ints
BLOCK = 1 << 16  # annotations processed at a time


@dataclass(frozen=True)
class Outlines:
    """The masks of A annotations: polygons, an RLE, or neither.

    Args:
        numbers: (T,) float32 or float64: x y x y ... of all rings, concatenated.
        in_ring: (R,) int32: numbers in each ring.
        rings: (A,) int32: rings of each annotation.
        codes: (B,) uint8: compressed RLE, concatenated.
        in_code: (A,) int32: bytes in each annotation's RLE.
    """

    numbers: np.ndarray
    in_ring: np.ndarray
    rings: np.ndarray
    codes: np.ndarray
    in_code: np.ndarray

    def __len__(self) -> int:
        return len(self.rings)

    @cached_property
    def ring_ends(self) -> np.ndarray:
        """(R + 1,) int64: offsets of the rings in `numbers`."""
        return ends(self.in_ring)

    @cached_property
    def first_ring(self) -> np.ndarray:
        """(A + 1,) int64."""
        return ends(self.rings)

    @cached_property
    def code_ends(self) -> np.ndarray:
        """(A + 1,) int64."""
        return ends(self.in_code)

    def polygons(self, number: int) -> list[np.ndarray]:
        """The rings of an annotation, each (P,) float64 as x y x y ...; none for an RLE."""
        places = self.ring_ends[self.first_ring[number] : self.first_ring[number + 1] + 1]
        flat = exact(self.numbers[places[0] : places[-1]]) if len(places) > 1 else self.numbers[:0]
        return [flat[a - places[0] : b - places[0]] for a, b in pairwise(places)]

    def code(self, number: int) -> bytes:
        """The compressed RLE of an annotation; empty for polygons."""
        return self.codes[self.code_ends[number] : self.code_ends[number + 1]].tobytes()

    def segmentation(self, number: int, size: tuple[int, int]) -> list[list[float]] | dict[str, Any]:
        """As in COCO files and pycocotools."""
        if code := self.code(number):
            return {"size": list(size), "counts": code.decode()}
        return [ring.tolist() for ring in self.polygons(number)]

    def select(self, picked: np.ndarray) -> Outlines:
        """Indices (M,) or (A,) bool -> the masks of these annotations, in this order."""
        picked = np.flatnonzero(picked) if picked.dtype == bool else picked
        first, last = self.first_ring[picked], self.first_ring[picked + 1]
        rings = self.rings[picked]
        codes = stretches(self.codes, self.code_ends[picked], self.in_code[picked])
        begin = self.ring_ends[first]
        numbers = stretches(self.numbers, begin, self.ring_ends[last] - begin)
        in_ring = stretches(self.in_ring, first, rings)
        return Outlines(numbers, in_ring, rings, codes, self.in_code[picked])

    def extents(self) -> np.ndarray:
        """(A, 4) float64: bounding box x0 y0 x1 y1 of the polygons; NaN without polygons."""
        found = np.full((len(self), 4), np.nan)
        some = np.flatnonzero(self.rings)
        if len(some):
            starts = self.ring_ends[self.first_ring[some]] // 2
            for axis, way in ((0, np.minimum), (1, np.minimum), (2, np.maximum), (3, np.maximum)):
                found[some, axis] = way.reduceat(self.numbers[axis % 2 :: 2], starts)
        return found

    def areas(self) -> np.ndarray:
        """(A,) float64: pixels of an RLE, or the sum of signed polygon areas, an approximation with holes or
        crossings.
        """
        found = np.zeros(len(self))
        some = np.flatnonzero(self.rings)
        for block in np.array_split(some, len(some) // BLOCK + 1):
            part = self.select(block)
            if len(part.numbers):
                x, y = part.numbers[0::2].astype(np.float64), part.numbers[1::2].astype(np.float64)
                turn = x * np.append(y[1:], 0) - np.append(x[1:], 0) * y
                stops, starts = part.ring_ends[1:] // 2 - 1, part.ring_ends[:-1] // 2
                turn[stops] = x[stops] * y[starts] - x[starts] * y[stops]  # close the ring
                whole = np.abs(np.add.reduceat(turn, starts)) / 2
                found[block] = np.add.reduceat(whole, part.first_ring[:-1])
        for block, counts, first in self.runs():
            odd = (np.arange(len(counts)) - np.repeat(first[:-1], np.diff(first))) % 2 == 1
            found[block] = np.add.reduceat(counts * odd, first[:-1])
        return found

    def runs(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """All run lengths: annotation indices (M,), their concatenated runs, offsets (M + 1,)."""
        some = np.flatnonzero(self.in_code)
        for block in np.array_split(some, len(some) // BLOCK + 1):
            if len(block):
                part = self.select(block)
                yield block, *run_lengths(part.codes, part.code_ends)


class OutlineRows:
    """Collects masks, one annotation after another.

    `dropped` counts the rings of an odd number or fewer than 6 numbers that `outlines` left out, beside sound ones.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self.numbers, self.in_ring, self.rings = array("d"), array("i"), array("i")
        self.codes, self.in_code, self.sizes = bytearray(), array("i"), array("i")

    def take(self, segmentation: Any) -> None:
        """Add a segmentation of the JSON, or None. Raises TypeError, ValueError, KeyError, OverflowError.

        Nothing is added if it raises.
        """
        if type(segmentation) is list:
            self._take_rings(segmentation)
            return
        numbers, lengths, code, size = array("d"), array("i"), b"", array("i", (0, 0))
        if isinstance(segmentation, dict):
            height, width = map(_whole, segmentation["size"])
            size, counts = array("i", (height, width)), segmentation["counts"]
            code = counts.encode("ascii") if isinstance(counts, str) else compressed(counts, (height, width))
            if not code:
                raise ValueError("no counts")
        elif segmentation is not None:
            for ring in segmentation:
                numbers.extend(ring)
                lengths.append(len(ring))
        self.numbers += numbers
        self.in_ring += lengths
        self.sizes += size
        self.codes += code
        self.in_code.append(len(code))
        self.rings.append(len(lengths))

    def _take_rings(self, rings: list[Any]) -> None:
        """Add polygons, as most segmentations are; what was added is taken back if one of them raises."""
        numbers, in_ring = len(self.numbers), len(self.in_ring)
        try:
            for ring in rings:
                self.numbers.extend(ring)
                self.in_ring.append(len(ring))
        except (TypeError, ValueError, OverflowError):
            del self.numbers[numbers:], self.in_ring[in_ring:]
            raise
        self.sizes.extend((0, 0))
        self.in_code.append(0)
        self.rings.append(len(rings))

    def there(self) -> np.ndarray:
        """(A,) bool: annotations with a mask."""
        return (np.array(self.rings) > 0) | (np.array(self.in_code) > 0)

    def outlines(self, sizes: np.ndarray, refuse: Callable[[np.ndarray, Callable[[int], str]], None]) -> Outlines:
        """All masks, checked, in the order they were added.

        A ring of an odd number or fewer than 6 numbers is left out if its annotation has others, and counted.

        Args:
            sizes: (A, 2) height and width of each annotation's image.
            refuse: called with the invalid annotations, (A,) bool, and a function from row to message.
        """
        numbers, in_ring = floats(self.numbers), np.array(self.in_ring, np.int32)
        rings, in_code = np.array(self.rings, np.int32), np.array(self.in_code, np.int32)
        odd = (in_ring % 2 == 1) | (in_ring < 6)
        if odd.any():
            owner = np.repeat(np.arange(len(rings)), rings)
            sound = np.bincount(owner[~odd], minlength=len(rings))
            hopeless = (rings > 0) & (sound == 0)
            lengths = {int(row): int(size) for row, size in zip(owner[odd][::-1], in_ring[odd][::-1], strict=True)}
            what = "a polygon is at least 6 numbers x y x y ..."
            refuse(hopeless, lambda row: f"has a polygon of {lengths[row]} numbers; {what}")
            self.dropped = int((odd & ~hopeless[owner]).sum())
            numbers, in_ring, rings = numbers[np.repeat(~odd, in_ring)], in_ring[~odd], sound.astype(np.int32)
        owner = np.repeat(np.arange(len(rings)), rings)

        def of_ring(wrong: np.ndarray) -> np.ndarray:
            return np.bincount(owner[wrong], minlength=len(rings)) > 0

        far = ~(np.abs(numbers) <= FARTHEST)
        if far.any():
            at = int(far.argmax())
            ring = np.zeros(len(in_ring), dtype=bool)
            ring[np.searchsorted(np.cumsum(in_ring), at, side="right")] = True
            refuse(of_ring(ring), lambda row: f"has a polygon with {numbers[at]}; its numbers are finite pixels")
        own_sizes = np.array(self.sizes, np.int32).reshape(-1, 2)
        refuse(
            (in_code > 0) & (own_sizes != sizes).any(axis=1),
            lambda row: (
                f"has an RLE of {own_sizes[row][1]}x{own_sizes[row][0]} pixels "
                f"in an image of {sizes[row][1]}x{sizes[row][0]}"
            ),
        )
        found = Outlines(compact(numbers), in_ring, rings, np.frombuffer(bytes(self.codes), np.uint8), in_code)
        self._check_runs(found, sizes, refuse)
        return found

    def _check_runs(self, found: Outlines, sizes: np.ndarray, refuse: Callable[..., None]) -> None:
        wrong = np.zeros(len(found), dtype=bool)
        for block, counts, first in found.runs():
            pixels = np.add.reduceat(counts, first[:-1])
            whole = sizes[block].astype(np.int64).prod(axis=1)
            wrong[block] = (np.minimum.reduceat(counts, first[:-1]) < 0) | (pixels != whole)
        refuse(wrong, lambda row: f"has an RLE that does not add up to {sizes[row][1]}x{sizes[row][0]} pixels")


def _whole(side: Any) -> int:
    """A side of an RLE, which some programs write as 640.0."""
    if int(side) != side:
        raise ValueError("a side is not whole")
    return int(side)
