"""Tests of a data set with the program that will use it.

    truth as detections    the annotations, evaluated as if they were detected, have AP 1
    loss at the start      of FCOS, whose classes all begin at a probability of 1 %: what theory says
    one batch              FCOS, trained on four images alone, learns them: the loss of its classes halves
    resume                 FCOS, stopped in the middle of an epoch and resumed, ends with the same bits

The last three train a small network for some steps in a folder of their own, in processes of their own; minutes on a
CPU. They tell wrong labels and sizes that no check of the files can see from ones that can be learned, and images that
are not read the same twice.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from detection.eval.official import undefined_as_nan
from detection.inference.trained import evaluate_results
from detection.recipe import DataConfig
from detection.training.datasets import Place, places
from shared.errors import Refusal
from shared.findings import Sheet
from shared.runs import self_test

TRUTH, START, BATCH = "truth as detections", "loss at the start", "one batch"
LOWEST = 0.999  # AP of a perfect detector, on data without objects annotated twice
IMAGES, STEPS = 4, 40
PRIOR = 0.01  # probability of every class at the start: Lin et al., "Focal Loss for Dense Object Detection", 2017
EXPECTED = 0.25 * (1 - PRIOR) ** 2 * -math.log(PRIOR)  # focal loss of a place with an object; the others add little
TOLERANCE = 0.35  # of EXPECTED: weights are drawn, and many places without an object add up
FLAGS = (
    "--network fcos --width 64 --depth 1 --backbone resnet10t --opt adamw --lr 0.001 --wd 0 --clip-grad-norm 5 "
    "--pictures 0"
)
LEARN = f"--aug-level 0 --limit {IMAGES} --batch-size {IMAGES} --epochs {STEPS} --name probe"


def evaluate_truth(config: DataConfig, sheet: Sheet) -> None:
    """Evaluate the validation annotations against themselves, and add what came out."""
    try:
        metrics = undefined_as_nan(evaluate_results(config, "truth"))
    except Refusal as refusal:
        sheet.tests.append((TRUTH, False, str(refusal)))
        return
    low = {name: value for name, value in metrics.items() if name.endswith("_ap") and value < LOWEST}
    name, value = min(low.items(), key=lambda pair: pair[1], default=next(iter(metrics.items())))
    came_out = f"{name} {value:.4f}" + ("; objects annotated twice or without a pixel cannot be found" if low else "")
    sheet.tests.append((TRUTH, not low, came_out))


def train_on_some(config: DataConfig, size: int, sheet: Sheet) -> None:
    """Train a small FCOS on a few training images, stop and resume another, and add what came out.

    Args:
        size: height and width of its input, pixels.
    """
    place = places(config)[0]
    if place.annotations is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        words = flags_of(config, place, size)
        tried = self_test.train("detection", [*words, *LEARN.split()], Path(folder), "probe")
        if tried.complaint is not None:
            sheet.tests.append((BATCH, False, tried.complaint))
            return
        sheet.tests += judged(tried.losses)
        sheet.tests.append(self_test.resume("detection", words, Path(folder)))


def flags_of(config: DataConfig, place: Place, size: int) -> list[Any]:
    """The small network on this data."""
    words = [*FLAGS.split(), "--data-path", place.images, "--coco-json-path", place.annotations]
    words += ["--size", size, "--dataset", config.dataset]
    return words + [flag for flag, given in (("--upright", config.upright), ("--as-stored", config.as_stored)) if given]


def judged(losses: list[dict[str, Any]]) -> list[self_test.Result]:
    """Rows of losses, by step -> the results of both tests."""
    start = self_test.begun(START, "classification", losses[0]["classification"], EXPECTED, TOLERANCE)
    return [start, self_test.learned(BATCH, "classification", IMAGES, losses)]
