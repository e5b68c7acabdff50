"""`detect replay`: a step of a detector whose loss was not finite, run again."""

from __future__ import annotations

from pathlib import Path

from backbones import backbone
from detection.nets import detector
from detection.task import DetectTask
from shared.errors import WeightsError
from shared.pixels import PixelStats
from shared.replay import Kept, read_replay
from shared.replay import replay as run_again


def replay(path: Path) -> list[str]:
    """Lines for a person.

    Raises:
        WeightsError: it is no kept step of a detector.
    """
    kept = read_replay(path)
    return run_again(kept, task_of(kept, path))


def task_of(kept: Kept, path: Path) -> DetectTask:
    """The task that the step was of, on random weights."""
    try:
        facts = kept.facts
        net = backbone.build(facts["backbone"], **facts["backbone_args"])
        built = detector.build(facts["network"], net, facts["num_classes"], **facts["network_args"])
        mean, std = facts["pixels"]
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path} is no step of a detector; name one that `detect train` kept") from None
    return DetectTask(built, PixelStats(tuple(mean), tuple(std)))
