"""Tests of a data set with the program that will use it: the annotations, taken for detections, have AP 1."""

from __future__ import annotations

from detection.eval.official import undefined_as_nan
from detection.inference.trained import evaluate_results
from detection.recipe import DataConfig
from shared.errors import Refusal
from shared.findings import Sheet

NAME = "truth as detections"
LOWEST = 0.999  # AP of a perfect detector, on data without objects annotated twice


def evaluate_truth(config: DataConfig, sheet: Sheet) -> None:
    """Evaluate the validation annotations against themselves, and add what came out."""
    try:
        metrics = undefined_as_nan(evaluate_results(config, "truth"))
    except Refusal as refusal:
        sheet.tests.append((NAME, False, str(refusal)))
        return
    low = {name: value for name, value in metrics.items() if is_precision(name) and value < LOWEST}
    name, value = min(low.items(), key=lambda pair: pair[1], default=next(iter(metrics.items())))
    came_out = f"{name} {value:.4f}" + ("; objects annotated twice or without a pixel cannot be found" if low else "")
    sheet.tests.append((NAME, not low, came_out))


def is_precision(name: str) -> bool:
    """Whether a metric should be 1 for a perfect detector: average precision of boxes, masks and keypoints."""
    return name.endswith("_ap")
