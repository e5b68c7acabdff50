"""The photographs with most missed objects and with most false detections: truth on the left, detections on the right.

explanation.images -> those to show -> FOLDER/NAME.jpg of each, and its line of `explained.json`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from detection.data.coco import CocoDetection
from detection.drawing.draw import draw_detections
from detection.eval.coco import CocoEvaluator
from detection.eval.results import Found
from detection.explaining.explanation import Explanation
from detection.types import Detections, Target
from shared.errors import plural
from shared.files import written_aside

LABELED = 12  # detections of a picture with their name and score, the best ones
GAP = 8  # pixels between the two sides


def most_mistaken(images: Sequence[tuple[int, int, int]], count: int) -> list[tuple[int, int, int]]:
    """Half of them the images with most missed objects, half those with most false detections, none twice."""
    by_missed = sorted((each for each in images if each[1]), key=lambda each: -each[1])
    by_false = sorted((each for each in images if each[2]), key=lambda each: -each[2])
    chosen = by_missed[: (count + 1) // 2]
    chosen += [each for each in by_false if each not in chosen][: count - len(chosen)]
    return chosen + [each for each in by_missed if each not in chosen][: count - len(chosen)]


def draw_mistakes(evaluator: CocoEvaluator, told: Explanation, folder: Path, count: int) -> list[dict[str, Any]]:
    """Write up to `count` pictures of the photographs with most mistakes -> their lines for `explained.json`."""
    data, lines = evaluator.dataset, []
    folder.mkdir(exist_ok=True)
    for place, missed, false in most_mistaken(told.images, count):
        image_id, name = data.image_ids[place], data.path(place).name
        picture = beside(data, place, evaluator.found.get(image_id), told.score)
        path = folder / f"{len(lines):02d}.jpg"
        with written_aside(path) as partial:
            picture.save(partial, format="JPEG", quality=85)
        caption = f"{plural(missed, 'object')} missed, {plural(false, 'false detection')}"
        lines.append({"file": f"{folder.name}/{path.name}", "name": name, "caption": caption})
    return lines


def beside(data: CocoDetection, place: int, found: Found | None, score: float) -> Image.Image:
    """A photograph with its true objects, and beside it with what was found at this score or more."""
    image, target, names = data.photograph(place), data.target(place), data.classes.names
    truth = Target(boxes=target["boxes"], labels=target["labels"])
    sides = [
        draw_detections(image, as_detections(None, data), names, truth=truth),
        draw_detections(image, as_detections(found, data), names, min_score=score, labeled=LABELED),
    ]
    both = Image.new("RGB", (sum(side.width for side in sides) + GAP, sides[0].height), "white")
    both.paste(sides[0], (0, 0))
    both.paste(sides[1], (sides[0].width + GAP, 0))
    return both


def as_detections(found: Found | None, data: CocoDetection) -> Detections:
    """What an evaluator holds of an image, as detections of listed classes with labels."""
    rows = np.zeros((0, 6)) if found is None else found.rows
    ids = np.array(data.classes.source_ids)
    rows = rows[np.isin(rows[:, 5], ids)]
    labels = [data.classes.source_ids.index(category) for category in rows[:, 5].astype(np.int64).tolist()]
    corners = np.concatenate((rows[:, :2], rows[:, :2] + rows[:, 2:4]), 1)
    return Detections(
        boxes=torch.from_numpy(corners),
        labels=torch.tensor(labels, dtype=torch.int64),
        scores=torch.from_numpy(rows[:, 4]),
    )
