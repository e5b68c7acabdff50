"""Tests of a data set with the program that will use it.

    truth as detections    the annotations, evaluated as if they were detected, have AP 1
    loss at the start      of FCOS, whose classes all begin at a probability of 1 %: what theory says
    one batch              FCOS, trained on four images alone, learns them: the loss of its classes halves

The last two train a small network for 40 steps in a folder of their own, in a process of their own; minutes on a CPU.
They tell wrong labels and sizes that no check of the files can see from ones that can be learned.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from detection.eval.official import undefined_as_nan
from detection.inference.trained import evaluate_results
from detection.recipe import DataConfig
from detection.training.datasets import Place, places
from shared.errors import Refusal
from shared.findings import Sheet

TRUTH, START, BATCH = "truth as detections", "loss at the start", "one batch"
LOWEST = 0.999  # AP of a perfect detector, on data without objects annotated twice
IMAGES, STEPS = 4, 40
PRIOR = 0.01  # probability of every class at the start: Lin et al., "Focal Loss for Dense Object Detection", 2017
EXPECTED = 0.25 * (1 - PRIOR) ** 2 * -math.log(PRIOR)  # focal loss of a place with an object; the others add little
TOLERANCE = 0.35  # of EXPECTED: weights are drawn, and many places without an object add up
FLAGS = (
    "--network fcos --width 64 --depth 1 --backbone resnet10t --aug-level 0 --opt adamw --lr 0.001 --wd 0 "
    "--clip-grad-norm 5 --num-workers 0 --pictures 0 --log-every 1 --save-every 1000000 --name probe --offline"
)


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


def learn_one_batch(config: DataConfig, size: int, sheet: Sheet) -> None:
    """Train a small FCOS on a few training images, and add what came out.

    Args:
        size: height and width of its input, pixels.
    """
    place = places(config)[0]
    if place.annotations is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command(config, place, size, folder), capture_output=True, text=True)
        path = Path(folder) / "probe" / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    losses = [row for row in rows if row["kind"] == "train"]
    if done.returncode or not losses:
        sheet.tests.append((BATCH, False, (done.stderr.strip().splitlines() or ["training did not begin"])[-1]))
        return
    sheet.tests += judged(losses)


def command(config: DataConfig, place: Place, size: int, folder: str) -> list[str]:
    """The training of one batch."""
    words: list[Any] = [sys.executable, "-m", "detection", "train", *FLAGS.split(), "--output-dir", folder]
    words += ["--weights-dir", f"{folder}/weights", "--data-path", place.images, "--coco-json-path", place.annotations]
    words += ["--limit", IMAGES, "--batch-size", IMAGES, "--epochs", STEPS, "--size", size, "--dataset", config.dataset]
    words += [flag for flag, given in (("--upright", config.upright), ("--as-stored", config.as_stored)) if given]
    return [str(word) for word in words]


def judged(losses: list[dict[str, Any]]) -> list[tuple[str, bool, str]]:
    """Rows of losses, by step -> the results of both tests."""
    first, last = losses[0], losses[-1]
    begins, ends = first["classification"], last["classification"]
    near = abs(first["classification"] - EXPECTED) <= TOLERANCE * EXPECTED
    told = f"classification {first['classification']:.2f}, where theory says {EXPECTED:.2f}"
    learned = ends < begins / 2
    went = f"{begins:.2f} to {ends:.2f} in {last['step']} steps"
    fell = f"the classification loss of {IMAGES} images went from {went}{'' if learned else ', and should halve'}"
    return [(START, near, told), (BATCH, learned, fell)]
