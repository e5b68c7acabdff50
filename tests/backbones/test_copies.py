"""Copies of a network in one file: all are named, one is taken, and a flag chooses another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import backbone
from backbones.foreign import recognize
from shared.errors import WeightsError
from shared.weights.transfer import fill

NAME = "test_resnet"
FIRST = "net.conv1.0.weight"


def tensors(value: float) -> dict[str, Tensor]:
    """A whole network whose parameters have one value."""
    net: Any = backbone.build(NAME)
    return {name: torch.full_like(v, value) if v.is_floating_point() else v for name, v in net.net.state_dict().items()}


def behind(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in named.items()}


def without_statistics(named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in named.items() if "running" not in name and "batches" not in name}


def taken(content: Any, key: str | None = None) -> tuple[float, str]:
    """The value of the copy that is taken, and what is said about it."""
    net = backbone.build(NAME)
    found = recognize(content, NAME, net, key=key)
    fill(net, found.tensors, source="file", digest="", allow_missing=("*.num_batches_tracked",))
    assert not found.left_out
    return float(net.state_dict()[FIRST].flatten()[0]), found.copies_note


@pytest.mark.parametrize(
    ("content", "first", "key", "other"),
    [
        ({"model": tensors(1), "model_ema": tensors(2)}, 2, "model", 1),
        ({"state_dict": tensors(1), "state_dict_ema": tensors(2)}, 2, "state_dict", 1),
        ({"model": tensors(1), "ema": {"module": tensors(2)}}, 2, "model", 1),
        ({"best": tensors(1), "last": tensors(2)}, 1, "last", 2),
        ({"last_state_dict": tensors(1), "best_state_dict": tensors(2)}, 2, "last_state_dict", 1),
        ({"student": tensors(1), "teacher": tensors(2)}, 2, "student", 1),
        ({"state_dict": behind("model.", tensors(1)) | behind("ema_model.", tensors(2))}, 2, "state_dict.model", 1),
        (behind("model.", tensors(1)) | behind("ema_model.module.", tensors(2)), 2, "model", 1),
        ({"model": tensors(1), "checkpoints": [{"weights": tensors(2)}]}, 1, "checkpoints", 2),
    ],
)
def test_preferred_copy_is_taken_and_said_and_another_is_chosen(
    content: Any, first: float, key: str, other: float
) -> None:
    value, said = taken(content)
    assert value == first and "of several copies; the file also has" in said and "--checkpoint-key" in said
    assert key.rpartition(".")[2] in said
    assert taken(content, key)[0] == other


def test_average_without_running_statistics_is_not_the_default_and_is_refused_when_chosen() -> None:
    content = behind("model.", tensors(1)) | behind("ema_model.", without_statistics(tensors(2)))
    value, said = taken(content)
    assert value == 1 and "took model of several copies; the file also has ema_model (lacks " in said
    with pytest.raises(WeightsError, match="missing .*running_mean"):
        taken(content, "ema_model")


def test_one_copy_says_nothing() -> None:
    assert taken({"epoch": 3, "state_dict": behind("module.", tensors(1)), "optimizer": {"state": {0: {}}}}) == (1, "")


def test_key_of_no_copy_names_those_that_are_there() -> None:
    content = {"model": tensors(1), "model_ema": tensors(2)}
    with pytest.raises(WeightsError, match="--checkpoint-key emma: the file has no such copy .*model, model_ema"):
        taken(content, "emma")


def test_copies_that_nothing_ranks_are_a_question() -> None:
    content = behind("base_encoder.", tensors(1)) | behind("momentum_encoder.", tensors(2))
    with pytest.raises(WeightsError, match="choose it with --checkpoint-key base_encoder"):
        taken(content)
    assert taken(content, "momentum_encoder")[0] == 2
