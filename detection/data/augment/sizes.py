"""Output size of a resize that keeps the aspect ratio: a short side, and a limit for the long side.

    rule            both sides                                   360x640   384x640   100x298    of short 800, long 1333
    torchvision     side * min(short / min, long / max),         749x1333  799x1333  447x1332
                    rounded down
    detr            the short side rounded to the nearest, the   750x1333  800x1333  447x1332
                    long side from that, rounded down
    transformers    as detr, the long side from the short side   750x1333  800x1333  447x1333
                    before it is rounded
    legacy          as torchvision, after adding a millionth     749x1333  799x1333  447x1333

torchvision is the rule of its detectors and of its random short sides, detr that of the authors' code of DETR,
Deformable DETR and SMCA, transformers that of the image processors of Hugging Face's DETR family. legacy is how weights
without a rule in their card were trained. All compute in float64, in the references' order, since the last bit decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Size = tuple[int, int]  # height, width
ROUNDING = 1e-6  # of the legacy rule


def torchvision(size: Size, short: int, long: int) -> Size:
    scale = min(short / min(size), long / max(size))
    return math.floor(size[0] * scale), math.floor(size[1] * scale)


def detr(size: Size, short: int, long: int) -> Size:
    return _from_the_short_side(size, short, long, rounded_first=True)


def transformers(size: Size, short: int, long: int) -> Size:
    return _from_the_short_side(size, short, long, rounded_first=False)


def legacy(size: Size, short: int, long: int) -> Size:
    scale = min(short / min(size), long / max(size))
    return int(size[0] * scale + ROUNDING), int(size[1] * scale + ROUNDING)


def _from_the_short_side(size: Size, short: int, long: int, *, rounded_first: bool) -> Size:
    low, high = min(size), max(size)
    exact: float = short
    if high / low * short > long:
        exact = long * low / high
    side = round(exact)
    if side == low:
        return size
    other = int((side if rounded_first and side else exact) * high / low)  # a side of 0 is made 1 by `fitted`
    return (side, other) if size[0] <= size[1] else (other, side)


RULES: dict[str, Callable[[Size, int, int], Size]] = {
    "torchvision": torchvision,
    "detr": detr,
    "transformers": transformers,
    "legacy": legacy,
}


def fitted(size: Size, short: int, long: int, rule: str) -> Size:
    """The output size by a rule: a short side of `short`, or a long side of `long` if that is smaller.

    Args:
        size: height and width in pixels.
        rule: a name of RULES.

    Returns:
        Height and width, each at least 1 pixel.
    """
    height, width = RULES[rule](size, short, long)
    return max(1, height), max(1, width)


def within(size: Size, canvas: Size) -> Size:
    """A size that fits into a canvas: as it is, or smaller with the same aspect ratio; each side at least 1 pixel."""
    scale = min(1.0, *(most / side for side, most in zip(size, canvas, strict=True)))
    height, width = (max(1, math.floor(side * scale + ROUNDING)) for side in size)
    return height, width
