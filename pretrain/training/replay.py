"""`pretrain replay`: rebuild the task of a saved step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backbones import backbone
from pretrain.methods import Facts, Method, method
from shared.feeding.pixels import PixelStats


def task_of(facts: dict[str, Any]) -> Method:
    """The task from its saved facts, with random weights."""
    net = backbone.build(facts["backbone"], **facts["backbone_args"])
    (height, width), (mean, std) = facts["size"], facts["pixels"]
    weights_dir = Path(facts.get("weights_dir", "weights"))  # not in steps saved before there were teachers
    about = Facts((height, width), facts["num_classes"], PixelStats(tuple(mean), tuple(std)), weights_dir)
    return method.build(facts["method"], net, about, **facts["method_args"])
