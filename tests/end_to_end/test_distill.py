"""Distillation as a command: from a tag to a tag that names its teacher, or a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = (
    "pretrain train --model test_resnet --size 32 --epochs 1 --batch-size 4 --opt adamw --lr 0.001 --device cpu -j 0 "
)


@pytest.mark.slow
def test_a_tag_teaches_a_smaller_network_and_stays_its_parent(shards: Path, run: Callable, left: Callable) -> None:
    words = WORDS + f"--data-path {shards} "
    taught = run(words + "--model test_vit --tag large --name teacher")
    assert taught.code == 0, taught.err
    teacher = left("teacher").result()["weights"].rsplit("/", 1)[-1]
    ended = run(words + "--method distill --teacher-tag large --name student --model-ema --save-every 2")
    assert ended.code == 0, ended.err
    assert "teacher test_vit large@" in ended.out
    card = left("student").card()
    assert card["parents"] == [{"arch": "test_vit", "tag": "large", "digest": teacher}]
    assert (card["arch"], card["tag"], card["method"]) == ("test_resnet", "distill", "distill")
    lineage = run("pretrain lineage distill")
    assert lineage.code == 0 and "from test_vit large@" in lineage.out
    again = run(words + "--method distill --teacher-tag large --name student --model-ema --save-every 2 --resume")
    assert again.code == 0, again.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        ("--teacher-tag large", 4, "large"),
        ("--teacher timm:test_vit", 4, "could not be downloaded"),
        ("", 2, "distill needs a teacher; give --teacher-tag TAG"),
        ("--teacher-tags large", 2, "did you mean '--teacher-tag'"),
    ],
)
def test_a_teacher_that_does_not_load_ends_the_command(
    words: str, code: int, complaint: str, shards: Path, run: Callable, tmp_path: Path
) -> None:
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    ended = run(WORDS + f"--data-path {shards} --method distill {words}", env=env)
    assert ended.code == code and complaint in ended.complaint, ended.err
