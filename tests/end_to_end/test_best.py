"""--keep-best and --patience: the best epoch is exported beside the last, also by a run that was killed and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_resume import finish_despite_kills  # noqa: F401 - a fixture

# 28 images in steps of 8, of two micro batches: epochs end after 4, 7, 11 and 14 steps
WORDS = (
    "pretrain train --model test_resnet --size 32 --epochs 6 --batch-size 4 --grad-accum-steps 2 --lr 0.01 "
    "--save-every 2 --log-every 1 --device cpu --seed 3 --name run --tag mine -j 0 --keep-best --patience 2 "
)
TOP1 = {8: 0.2, 14: 0.5, 22: 0.3, 28: 0.4}  # by micro batches trained on: the second of four epochs is the best


def planted() -> None:
    from torch.nn import BatchNorm2d

    from pretrain.methods.supervised import Supervised

    def evaluate(self: Any, loader: Any) -> dict[str, float]:
        norm = next(module for module in self.modules() if isinstance(module, BatchNorm2d))
        return {"top1": TOP1[int(norm.num_batches_tracked)]}  # type: ignore[arg-type]

    Supervised.evaluate = evaluate  # type: ignore[method-assign]


def exports(folder: Path) -> dict[int, dict[str, Any]]:
    """Cards by epoch."""
    cards = [json.loads(path.read_text()) for path in folder.glob("weights/test_resnet/mine/*/card.json")]
    return {card["epoch"]: card for card in cards}


@pytest.mark.slow
def test_the_best_epoch_is_exported_beside_the_last_and_a_killed_run_ends_the_same(
    shards: Path,
    run: Callable,
    left: Callable,
    finish_despite_kills: Callable,  # noqa: F811
    tmp_path: Path,
) -> None:
    words = WORDS + f"--data-path {shards}"
    (tmp_path / "straight").mkdir()
    ended = run(words, cwd=tmp_path / "straight", prepare=planted)
    assert ended.code == 0, ended.err
    assert "stopped early: 2 evaluations without a better top1" in ended.out
    assert finish_despite_kills(words, seed=4, longest=8, prepare=planted) >= 2
    straight, killed = exports(tmp_path / "straight"), exports(tmp_path)
    assert straight.keys() == killed.keys() == {2, 4}
    for epoch in (2, 4):
        assert straight[epoch]["sha256"] == killed[epoch]["sha256"]
    assert straight[2]["sha256"] != straight[4]["sha256"]
    assert [straight[epoch]["finished"] for epoch in (2, 4)] == [False, True]
    assert straight[2]["note"] == "the best of 4 epochs by top1: 0.5000; the last has 0.4000"
    assert straight[2]["metrics"] == {"top1": 0.5} and straight[4]["note"] is None
    result = left("run").result()
    assert result["finished"] and result["step"] == 14 and result["metrics"] == {"top1": 0.4}
    assert left("run").state()["best"] == left("run", tmp_path / "straight").state()["best"]

    again = run(words + " --resume", prepare=planted)
    assert again.code == 0 and "is finished" in again.out
    assert exports(tmp_path) == killed and left("run").result() == result

    def with_a_better_one() -> None:
        planted()
        TOP1.update({36: 0.9, 42: 0.1})

    longer = run(words.replace("--patience 2", "--patience 3") + " --resume", prepare=with_a_better_one)
    assert longer.code == 0, longer.err
    assert exports(tmp_path).keys() == {2, 4, 5, 6} and left("run").result()["step"] == 21
