"""`pretrain replay`: a step of pretraining whose loss was not finite, run again."""

from __future__ import annotations

from pathlib import Path

from backbones import backbone
from pretrain.methods import Facts, Method, method
from shared.errors import WeightsError
from shared.pixels import PixelStats
from shared.replay import Kept, read_replay
from shared.replay import replay as run_again


def replay(path: Path) -> list[str]:
    """Lines for a person.

    Raises:
        WeightsError: it is no kept step of pretraining.
    """
    kept = read_replay(path)
    return run_again(kept, task_of(kept, path))


def task_of(kept: Kept, path: Path) -> Method:
    """The task that the step was of, on random weights."""
    try:
        told = kept.facts
        net = backbone.build(told["backbone"], **told["backbone_args"])
        (height, width), (mean, std) = told["size"], told["pixels"]
        facts = Facts((height, width), told["num_classes"], PixelStats(tuple(mean), tuple(std)))
        return method.build(told["method"], net, facts, **told["method_args"])
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path} is no step of pretraining; name one that `pretrain train` kept") from None
