"""The best epoch so far: when one is better, how long it is waited for, and what a state of an earlier version says."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from shared.errors import UsageError
from shared.loop.best import Best, check_measured, keep_weights, publish_both, read_best
from shared.loop.task import Task
from shared.recipes.recipe import RuntimeConfig


def over(*values: float) -> Best:
    best = Best()
    for epoch, value in enumerate(values, start=1):
        best = best.after({"box_ap": value, "box_ap50": 1.0}, 10 * epoch, epoch)
    return best


def test_the_first_of_equal_ones_is_the_best_and_nan_never_is() -> None:
    best = over(math.nan, 0.2, 0.5, 0.5, math.nan)
    assert (best.value, best.step, best.epoch, best.waited, best.name) == (0.5, 30, 3, 2, "box_ap")
    assert over(math.nan, math.nan).step == 0
    assert best.stale(2) and not best.stale(3) and not best.stale(None)


def test_it_is_read_as_it_was_written_and_from_states_of_the_value_alone() -> None:
    for best in (over(0.1, 0.4, 0.3), Best(), over(math.nan)):
        assert read_best(json.loads(json.dumps(best.plain()))) == best
    assert read_best(0.25) == Best(0.25) and read_best(None) == Best()
    with pytest.raises(TypeError):
        read_best({"value": 1.0, "unknown": 2})


def test_a_training_without_a_metric_is_refused() -> None:
    class Measured(Task):
        def evaluate(self, loader):
            return {"top1": 1.0}

    plain, keeps = RuntimeConfig(), RuntimeConfig(keep_best=True)
    check_measured(Task(), plain, validated=False, probed=False)
    check_measured(Measured(), keeps, validated=True, probed=False)
    check_measured(Task(), keeps, validated=False, probed=True)
    for runtime, flag in ((keeps, "--keep-best"), (replace(plain, patience=3), "--patience")):
        for task, validated in ((Measured(), False), (Task(), True)):
            with pytest.raises(UsageError, match=f"{flag} compares epochs by a metric.*or --probe"):
                check_measured(task, runtime, validated=validated, probed=False)


class One(Task):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))


def test_the_best_is_exported_before_the_last_whose_weights_are_put_back(tmp_path, caplog) -> None:
    exported: list[tuple[float, int, bool, str | None]] = []

    def publish(task: One, epoch: int, metrics: dict, last: bool, note: str | None = None) -> None:
        exported.append((task.weight.item(), epoch, last, note))

    task, best = One(7.0), over(0.1, 0.4)
    keep_weights(tmp_path, best, One(2.0))
    publish_both(publish, task, best, tmp_path, 30, 3, {"box_ap": 0.3})
    assert exported == [
        (2.0, 2, False, "the best of 3 epochs by box_ap: 0.4000; the last has 0.3000"),
        (7.0, 3, True, None),
    ]
    assert task.weight.item() == 7.0
    exported.clear()
    publish_both(publish, task, best, tmp_path, 20, 2, {"box_ap": 0.4})
    assert [(weight, last) for weight, _, last, _ in exported] == [(7.0, True)]
    assert exported[0][3] is not None and exported[0][3].startswith("the best of 2 epochs")
    exported.clear()
    publish_both(publish, task, best, tmp_path / "nothing", 30, 3, {"box_ap": 0.3})
    assert [(weight, last) for weight, _, last, _ in exported] == [(7.0, True)]
    assert "its weights were not kept" in caplog.text
