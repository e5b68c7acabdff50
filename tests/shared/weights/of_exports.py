"""A small network to export, and what a refusal of its weights must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.errors import WeightsError


def network(seed: int = 0, width: int = 4) -> nn.Module:
    """A convolution, a batch norm with running statistics of its own, a linear layer."""
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(3, width, 3))
    net.add_module("norm", nn.BatchNorm2d(width))
    net.add_module("head", nn.Linear(width, 5))
    net.norm.running_mean.normal_()
    nn.init.normal_(net.norm.weight)
    return net


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def weights_of(export: Path) -> Path:
    return export / "model.safetensors"


def refused(attempt: Callable[[], Any], saying: str) -> str:
    """The sentence with which something is refused, which must be one, say this, and end with exit code 4."""
    with pytest.raises(WeightsError, match=saying) as told:
        attempt()
    sentence = str(told.value)
    assert told.value.exit_code == 4
    assert "\n" not in sentence and "Traceback" not in sentence
    assert ";" in sentence or "," in sentence, "a sentence ends with the way out"
    return sentence
