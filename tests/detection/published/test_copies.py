"""A detector's file with several copies, or with flags of its program beside the tensors."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detection.cli import main
from detection.published.foreign import recognize
from shared.errors import WeightsError
from shared.weights.store import Store
from tests.detection.nets.of_transformers import detr_of_transformers
from tests.detection.published.of_others import as_official, loud_set_network

QUERIES = "query_embed.weight"


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    net = loud_set_network("detr")
    return as_official(detr_of_transformers(net, 91), "detr", net)


def averaged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, QUERIES: tensors[QUERIES] + 1}


def behind(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("content", "default", "key"),
    [
        (lambda a, b: {"model": a, "model_ema": b}, "b", "model"),
        (lambda a, b: {"model": a, "ema": {"module": b}}, "b", "model"),
        (lambda a, b: {"best": b, "last": a}, "b", "last"),
        (lambda a, b: {"state_dict": behind("model.", a) | behind("ema_model.", b)}, "b", "state_dict.model"),
    ],
)
def test_preferred_copy_is_said_and_another_is_chosen(
    official: dict[str, Tensor], content: Any, default: str, key: str
) -> None:
    file, values = content(official, averaged(official)), {"a": official, "b": averaged(official)}
    found = recognize(file)
    assert torch.equal(found.tensors[QUERIES], values[default][QUERIES])
    assert "of several copies; the file also has" in found.copies_note and "--checkpoint-key" in found.copies_note
    assert torch.equal(recognize(file, key).tensors[QUERIES], official[QUERIES])
    with pytest.raises(WeightsError, match="--checkpoint-key none: the file has no such copy"):
        recognize(file, "none")


def test_average_without_statistics_is_not_the_default(official: dict[str, Tensor]) -> None:
    lean = {name: value for name, value in averaged(official).items() if "running" not in name}
    found = recognize(behind("model.", official) | behind("ema_model.", lean))
    assert torch.equal(found.tensors[QUERIES], official[QUERIES]) and "ema_model (lacks " in found.copies_note


def test_command_says_the_copy_and_reads_the_flags_of_the_program(
    official: dict[str, Tensor], tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = Namespace(nheads=4, dilation=True, backbone="resnet18")
    torch.save({"model": official, "model_ema": averaged(official), "args": flags}, tmp_path / "detr.pth")
    words = ("import", tmp_path / "detr.pth", "--network", "detr", "--tag", "x", "--weights-dir", store.root)
    code = main([*map(str, words), "--backbone", "resnet18", "--checkpoint-key", "model"])
    out, err = capsys.readouterr()
    assert code == 0, err
    card = store.find("detr-resnet18", "x").card
    assert card.args["network_args"]["heads"] == 4 and card.args["backbone_args"] == {"dilation": True}
    assert "took model of several copies; the file also has model_ema" in out and card.source["key"] == "model"
    assert "epsilon of batch norm: 1e-05" in out
