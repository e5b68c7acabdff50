"""Detectors and LVIS: the limit of detections in its evaluation, and annotations that are not those of the detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detection.nets import detector, is_agnostic
from detection.recipe import LVIS_DETECTIONS
from shared.errors import DataError, UsageError
from shared.weights.card import Card, Exported


def limit_of(card: Card, dataset: str, most: int | None) -> dict[str, Any]:
    """The option that limits a network's detections per image: as told, or 300 for LVIS if its card tells no number.

    Raises:
        UsageError: the network has no limit.
    """
    network = card.args["network"]
    if "max_detections" not in detector.options(network):
        if most is not None:
            raise UsageError(f"{network} has no limit of detections per image; remove --max-detections")
        return {}
    unlimited = dataset != "lvis" or is_agnostic(network)  # of those without classes recall at 1,000 is measured
    if most is None and not unlimited and card.args["network_args"].get("max_detections") is None:
        most = LVIS_DETECTIONS
    return {} if most is None else {"max_detections": most}


def of_another_set(exported: Exported, path: Path, dataset: str, error: DataError) -> DataError:
    """The error for annotations of LVIS with a detector that knows other classes, or the reverse."""
    own, count = exported.card.recipe.get("dataset"), f"{len(exported.card.classes['names']):,} classes"
    if dataset == "lvis" and own != "lvis":
        return DataError(
            f"{path} is an LVIS file, and {exported} knows {count} of other annotations; evaluate weights that "
            f"were trained with --dataset lvis, or a network that is told its classes by name ({error})"
        )
    if own == "lvis" and dataset != "lvis":
        return DataError(
            f"{exported} was trained on LVIS and knows its {count}, and {path} has others; evaluate it with "
            f"--dataset lvis and LVIS's annotations ({error})"
        )
    return error
