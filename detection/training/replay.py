"""`detect replay`: rebuild the task of a saved step."""

from __future__ import annotations

from typing import Any

from backbones import backbone
from detection.nets import detector
from detection.training.task import DetectTask
from shared.feeding.pixels import PixelStats


def task_of(facts: dict[str, Any]) -> DetectTask:
    """The task from the facts that `detect train` saved, with random weights."""
    net = backbone.build(facts["backbone"], **facts["backbone_args"])
    built = detector.build(facts["network"], net, facts["num_classes"], **facts["network_args"])
    mean, std = facts["pixels"]
    return DetectTask(built, PixelStats(tuple(mean), tuple(std)))
