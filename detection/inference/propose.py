"""`detect propose`: the boxes that a network proposes on every image of a data set, stored by image id.

Trained, training and validation images -> OUTPUT/NAME.safetensors for each annotation file, with what made them
                                        -> average recall of the boxes, in passing
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detection.data.annotations.classes import ClassMap
from detection.data.coco import CocoDetection
from detection.data.photographs import chosen
from detection.data.proposal_parts import ProposalParts
from detection.eval.recall import RecallEvaluator
from detection.inference.trained import Trained
from detection.recipe import DataConfig
from detection.training.datasets import EVALUATED, Place, images_of, kind_of, lvis_of, places
from detection.types import Detections
from shared.devices.ahead import ahead
from shared.feeding.feed import in_order
from shared.logs.metrics import show_metric
from shared.text import say

log = logging.getLogger(__name__)
EVERY = 500  # images between lines of progress


def propose(
    config: DataConfig, trained: Trained, out: Path, *, batch_size: int, workers: int, size: tuple[int, ...] | None
) -> list[str]:
    """Write the proposals of the training and the validation images; a stopped command is continued.

    Args:
        out: folder of a file per annotation file, none of which may be there.
        size: height and width in pixels; None for that of training.

    Returns:
        Lines that say what was written, with the recall of the boxes.

    Raises:
        UsageError: the network makes no proposals.
        DataError: a file exists, or images cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    lines, names = [], set()
    for place in places(config):
        if place is None:
            continue
        name = (place.annotations or place.images).name.partition(".json")[0]
        name = name if name not in names else f"{place.images.name}-{name}"
        names.add(name)
        dataset = opened(config, place, trained, size)
        path = out / f"{name}.safetensors"
        lines.append(f"{path}: {stored(dataset, trained, path, batch_size=batch_size, workers=workers, size=size)}")
    return lines


def opened(config: DataConfig, place: Place, trained: Trained, size: tuple[int, ...] | None) -> CocoDetection:
    """The images of one annotation file, every category taken as one."""
    dataset: CocoDetection = images_of(kind_of(config, ()))(
        place.images,
        place.annotations,
        ClassMap.binary(),
        trained.resize(size, config.max_size),
        limit=config.limit,
        lvis=lvis_of(config),
        turn=chosen(upright=config.upright, as_stored=config.as_stored),
    )
    dataset.check_usable(EVALUATED)
    for note in dataset.notes:
        log.info("%s: %s", dataset.table.path.name, note)
    return dataset


def stored(dataset: CocoDetection, trained: Trained, path: Path, *, batch_size: int, workers: int, size: Any) -> str:
    """Propose on one data set and write the file; a sentence about it."""
    exported = trained.exported
    settings = {"size": size, "network_args": exported.card.args["network_args"]}
    facts = {"weights": json.dumps(exported.reference), "settings": json.dumps(settings, default=str)}
    parts = ProposalParts(path, dataset.table, facts)
    evaluator, total = RecallEvaluator(dataset), 0
    left = Remaining(dataset, [row for row, i in enumerate(dataset.image_ids) if i not in parts])
    for number, (pictures, targets) in enumerate(ahead(in_order(left, batch_size, workers=workers), trained.device)):
        found = trained.task.propose(pictures)
        for picture, target, one in zip(pictures, targets, found, strict=True):
            height, width = evaluator.original_size(target["image_id"])
            scale = height / picture.shape[-2], width / picture.shape[-1]
            rows = in_file_pixels(one, scale)
            parts.add(target["image_id"], rows)
            evaluator.add(target["image_id"], one, scale)
            total += len(rows)
        if number * batch_size // EVERY < (number + 1) * batch_size // EVERY:
            say(f"proposed on {min((number + 1) * batch_size, len(left))} of {len(left)} images")
    parts.close()
    if len(left) < len(dataset):
        return f"{len(dataset)} images, continued after {len(dataset) - len(left)}"
    measured = ", ".join(f"{name} {show_metric(value)}" for name, value in evaluator.summary().items())
    return f"{total:,} boxes on {len(dataset)} images, {measured}"


def in_file_pixels(found: Detections, scale: tuple[float, float]) -> np.ndarray:
    """(P, 5) boxes with scores, in pixels of the annotation file. scale: (vertical, horizontal)"""
    down, across = scale
    boxes = found["boxes"].cpu().double() * torch.tensor([across, down, across, down], dtype=torch.float64)
    return torch.cat((boxes, found["scores"].cpu().double()[:, None]), 1).numpy().astype(np.float32)


class Remaining:
    """Some rows of a data set, as a data set."""

    def __init__(self, dataset: CocoDetection, rows: list[int]) -> None:
        self.dataset, self.rows, self.sizes = dataset, rows, [len(rows)]
        self.fingerprint = dataset.fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, index: int, rng: np.random.Generator) -> Any:
        return self.dataset.load(self.rows[index], rng)

    def collate(self, samples: list[Any]) -> Any:
        return self.dataset.collate(samples)
