"""`detect show-augment`: training samples as the network sees them, drawn on one image.

recipe -> the data and the feed of `detect train` -> the first samples of epoch 0 -> drawn -> one image
"""

from __future__ import annotations

from pathlib import Path

import torch

from detection.drawing.draw import draw_detections, sheet
from detection.recipe import DetectRecipe
from detection.training.datasets import open_data, repeats_of
from detection.types import Detections
from shared.errors import UsageError
from shared.feeding.feed import Fetch, plan_of
from shared.feeding.image import limit_pixels
from shared.files import written_aside

COLUMNS = 4


def show(recipe: DetectRecipe, output: Path, count: int) -> list[str]:
    """Write the image; the lines to print: one per sample, and one per unreadable image.

    Raises:
        UsageError: --count is below 1, or the image cannot be written.
        DataError: the data cannot be used.
    """
    if count < 1:
        raise UsageError(f"--count {count} is below 1; give at least 1")
    limit_pixels(recipe.runtime.max_pixels)
    data, seed = open_data(recipe), recipe.runtime.seed
    plan = plan_of(data.samples, seed, 1, None, repeats_of(data, recipe.data))
    fetch, nothing = (
        Fetch(data.samples, plan, seed),
        Detections(boxes=torch.zeros(0, 4), labels=torch.zeros(0), scores=torch.zeros(0)),
    )
    pictures, lines, bad = [], [], []
    for place in range(min(count, len(plan))):
        image, target = fetch.sample(0, place, bad)
        train = data.trains[target.get("dataset", 0)]
        pictures.append(draw_detections(image, nothing, train.classes.names, truth=target, skeleton=train.skeleton))
        height, width = image.shape[-2:]
        lines.append(f"image {target['image_id']}: {width}x{height}, {len(target['boxes'])} boxes")
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_aside(output) as partial:
            sheet(pictures, COLUMNS).convert("RGB").save(partial)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {output} ({error}); give an --output that ends in .jpg or .png") from None
    return [*lines, *(f"skipped {sentence}" for sentence in bad), f"{len(lines)} samples in {output}"]
