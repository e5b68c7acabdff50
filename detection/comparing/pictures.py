"""Photographs whose matches changed most: what A found on the left, what B found on the right, true objects in both."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from detection.comparing.differences import Changed
from detection.drawing.draw import draw_detections, sheet
from detection.eval.coco import CocoEvaluator
from detection.explaining.mistakes import LABELED, as_detections
from detection.types import Target
from shared.errors import BadSample

WIDEST = 1400  # pixels of a pair


class Picture(NamedTuple):
    name: str  # of the file
    caption: str
    uri: str


def pictures(
    both: tuple[CocoEvaluator, CocoEvaluator],
    scores: tuple[float, float],
    changed: Sequence[Changed],
    names: tuple[str, str] = ("A", "B"),
) -> tuple[list[Picture], int]:
    """A pair for each photograph, and how many could not be read.

    Args:
        scores: from which detections of each are shown.
        names: of both, for captions.
    """
    drawn, unread = [], 0
    for one in changed:
        try:
            name = both[0].dataset.path(one.place).name
            drawn.append(Picture(name, caption(one, names), pair(both, scores, one.place)))
        except (BadSample, OSError):
            unread += 1
    return drawn, unread


def caption(one: Changed, names: tuple[str, str]) -> str:
    only = f"only {names[0]} finds {one.only_a:.3g} object{'' if one.only_a == 1 else 's'}, only {names[1]}"
    false = f"false detections: {names[0]} {one.false_a:.3g}, {names[1]} {one.false_b:.3g}"
    return f"{only} {one.only_b:.3g}; {false}"


def pair(both: tuple[CocoEvaluator, CocoEvaluator], scores: tuple[float, float], place: int) -> str:
    """Both sides as one JPEG in a data URI."""
    data = both[0].dataset
    image, target = data.photograph(place), data.target(place)
    truth = Target(boxes=target["boxes"], labels=target["labels"])
    sides = [
        draw_detections(
            image,
            as_detections(one.found.get(data.image_ids[place]), data),
            data.classes.names,
            truth=truth,
            min_score=score,
            labeled=LABELED,
        )
        for one, score in zip(both, scores, strict=True)
    ]
    page = sheet(sides, 2)
    page.thumbnail((WIDEST, WIDEST))
    buffer = io.BytesIO()
    page.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
