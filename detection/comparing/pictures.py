"""Photographs whose matches changed most: what A found on the left, what B found on the right, true objects in both."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

from detection.comparing.differences import Changed, Comparison
from detection.drawing.draw import draw_detections, sheet
from detection.eval.coco import CocoEvaluator
from detection.explaining.mistakes import LABELED, as_detections
from detection.types import Target
from shared.errors import BadSample, plural

WIDEST = 1400  # pixels of a pair


class Picture(NamedTuple):
    name: str  # of the file
    caption: str
    uri: str


def pictures(a: CocoEvaluator, b: CocoEvaluator, told: Comparison, count: int) -> tuple[list[Picture], int]:
    """Up to `count` pairs, and how many photographs could not be read."""
    drawn, unread = [], 0
    for changed in told.changed[:count]:
        try:
            drawn.append(Picture(a.dataset.path(changed.place).name, caption(changed), pair(a, b, told, changed)))
        except (BadSample, OSError):
            unread += 1
    return drawn, unread


def caption(changed: Changed) -> str:
    return (
        f"only A finds {plural(changed.only_a, 'object')}, only B {changed.only_b}; "
        f"false detections: A {changed.false_a}, B {changed.false_b}"
    )


def pair(a: CocoEvaluator, b: CocoEvaluator, told: Comparison, changed: Changed) -> str:
    """Both sides as one JPEG in a data URI."""
    data, place = a.dataset, changed.place
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
        for one, score in zip((a, b), told.scores, strict=True)
    ]
    both = sheet(sides, 2)
    both.thumbnail((WIDEST, WIDEST))
    buffer = io.BytesIO()
    both.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
