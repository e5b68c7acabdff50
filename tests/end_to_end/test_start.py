"""A detector starts from another run's weights when it is told to, and says so when it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
DETECT = (
    "detect train --size 64 --batch-size 4 --epochs 1 --device cpu --num-workers 0 --pictures 0 --data-path {coco} "
)
FCOS = "--network fcos --backbone test_resnet --width 64 --depth 1 "


def tensors(run: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    weights = json.loads((run / "result.json").read_text())["weights"]
    return load_file(run.parents[1] / weights / "model.safetensors")


def card(run: Path) -> dict[str, Any]:
    weights = json.loads((run / "result.json").read_text())["weights"]
    return json.loads((run.parents[1] / weights / "card.json").read_text())


def learned(told: dict[str, Any], *, head: bool) -> dict[str, Any]:
    """The weights of a class head, or those of all else; statistics of batch norms move at any rate."""
    return {
        name: value
        for name, value in told.items()
        if ("classification_head" in name) == head and "running" not in name and "num_batches" not in name
    }


@pytest.fixture
def detect(run: Callable, coco: Path) -> Callable[..., Any]:
    return lambda words: run(DETECT.format(coco=coco) + words)


def test_a_run_goes_on_from_another_and_names_it_as_its_parent(detect: Callable, tmp_path: Path) -> None:
    import torch

    assert detect(FCOS + "--tag word --name one").code == 0
    one = tmp_path / "runs/one"
    ways = {
        "folder": "--init-from runs/one",
        "tag": "--init-from word",
        "full": "--init-from fcos-test_resnet/word",
        "seed": FCOS + "--tag word --resume-epoch 0",
    }
    for name, words in ways.items():
        ended = detect(f"{words} --lr 0 --name {name}")
        assert ended.code == 0, ended.err
        two = tmp_path / "runs" / name
        before, after = tensors(one), tensors(two)
        assert before.keys() == after.keys()
        for head in (True, False):
            mine, its = learned(after, head=head), learned(before, head=head)
            assert len(mine) > 3 and all(torch.equal(mine[n], its[n]) for n in mine), name
        (parent,) = card(two)["parents"]
        assert parent["arch"] == "fcos-test_resnet" and parent["tag"] == "word"
        assert card(two)["args"] == card(one)["args"]
        one = two if name == "seed" else one


def test_reset_head_begins_the_class_head_anew_and_nothing_else(detect: Callable, tmp_path: Path) -> None:
    import torch

    assert detect(FCOS + "--name one").code == 0
    ended = detect("--init-from runs/one --reset-head --freeze-body --binary-mode --name two")
    assert ended.code == 0, ended.err
    before, after = tensors(tmp_path / "runs/one"), tensors(tmp_path / "runs/two")
    assert card(tmp_path / "runs/two")["classes"]["names"] == ["object"]
    body = learned(after, head=False)
    assert all(torch.equal(value, before[name]) for name, value in body.items())
    heads = learned(after, head=True)
    assert any(value.shape != before[name].shape for name, value in heads.items())
    towers = [name for name, value in heads.items() if value.dim() == 4 and value.shape == before[name].shape]
    assert towers and not any(torch.equal(heads[name], before[name]) for name in towers)


def test_classes_a_detector_does_not_know_are_refused_unless_its_head_is_reset(
    detect: Callable, coco: Path, tmp_path: Path
) -> None:
    assert detect(FCOS + "--name one").code == 0
    told = json.loads((coco / "annotations/instances_train.json").read_text())
    told["categories"][0]["name"] = "zebra crossing"
    (tmp_path / "other.json").write_text(json.dumps(told))
    words = f"--init-from runs/one --data-path {coco}/train --coco-json-path {tmp_path}/other.json "
    refused = detect(words)
    assert refused.code == 4 and "the data also has zebra crossing; use --reset-head" in refused.complaint
    assert detect(words + "--reset-head --name two").code == 0
    assert "zebra crossing" in card(tmp_path / "runs/two")["classes"]["names"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (FCOS + "--tag word --resume-epoch 0", 4, "has no fcos-test_resnet tagged 'word'; give the detector"),
        (FCOS + "--resume-epoch 0", 4, "has no fcos-test_resnet; give the detector or run to start from"),
        ("--init-from nobody", 4, "no weights tagged 'nobody'"),
        (FCOS + "--reset-head", 2, "give the detector with --init-from"),
        (FCOS + "--backbone-epoch 0", 4, "has no weights for test_resnet; train some with `pretrain train"),
    ],
)
def test_nothing_to_start_from_is_said_in_one_sentence(words: str, code: int, says: str, detect: Callable) -> None:
    ended = detect(words)
    assert ended.code == code and says in ended.complaint


def test_another_network_than_the_weights_are_of_is_refused(detect: Callable) -> None:
    assert detect(FCOS + "--name one").code == 0
    refused = detect("--init-from runs/one --network faster_rcnn")
    assert refused.code == 4 and "has the network fcos, not faster_rcnn" in refused.complaint


def test_backbone_epoch_alone_means_the_only_tag_there_is(detect: Callable, run: Callable, shards: Path) -> None:
    words = f"pretrain train --model test_resnet --size 32 --batch-size 8 --epochs 1 --device cpu --data-path {shards} "
    assert run(words + "--num-workers 0 --tag first").code == 0
    dry = detect(FCOS + "--backbone-epoch 0 --dry-run --dry-steps 0")
    assert dry.code == 0 and "test_resnet first@" in dry.out
    assert run(words + "--num-workers 0 --tag second").code == 0
    refused = detect(FCOS + "--backbone-epoch 0 --dry-run --dry-steps 0")
    assert refused.code == 4 and "has the tags first, second; choose one with --backbone-tag" in refused.complaint


def test_a_warm_up_that_nothing_went_on_from_is_pointed_out(detect: Callable, tmp_path: Path) -> None:
    def log(name: str) -> str:
        return (tmp_path / "runs" / name / "train.log").read_text()

    assert detect(FCOS + "--tag coco --freeze-backbone --name warm").code == 0
    assert "nothing went on from" not in log("warm")
    assert detect(FCOS + "--tag coco --name cold").code == 0
    assert "is a warm-up that no run has started from; start from it with --init-from" in log("cold")
    assert detect("--init-from runs/warm --tag coco --name next").code == 0
    assert detect(FCOS + "--tag coco --name later").code == 0
    assert "nothing went on from" not in log("next") + log("later")
