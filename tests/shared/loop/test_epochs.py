"""Ends of epochs are counted from steps alone, also where one step spans several epochs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from shared.loop.best import Best
from shared.loop.epochs import EpochEnd, Epochs, is_finished, read_epoch_end


@pytest.mark.parametrize(
    ("per_epoch", "count", "ends"),
    [
        (4.0, 3, {4: 1, 8: 2, 12: 3}),
        (3.5, 4, {4: 1, 7: 2, 11: 3, 14: 4}),
        (0.4, 10, {1: 2, 2: 5, 3: 7, 4: 10}),  # one step is two and a half epochs
        (0.1, 3, {1: 3}),
    ],
)
def test_every_epoch_end_has_its_step(per_epoch: float, count: int, ends: dict[int, int]) -> None:
    epochs = Epochs(per_epoch, math.ceil(count * per_epoch), count)
    steps = range(epochs.total + 1)
    assert {step: epochs.number(step) for step in steps if epochs.ends(step)} == ends


def test_every_third_epoch_is_due_though_steps_pass_over_it() -> None:
    epochs = Epochs(0.4, 40, 100)
    assert [epochs.number(step) for step in range(1, 9) if epochs.due(step, 3)] == [5, 7, 10, 12, 15, 20]
    assert epochs.due(40, 1000), "and the last is always due"
    whole = Epochs(2.0, 12, 6)
    assert [step for step in range(13) if whole.due(step, 2)] == [4, 8, 12]


def test_what_was_done_is_read_back_for_its_step_only(tmp_path: Path) -> None:
    EpochEnd(8, {"box_ap": 0.1, "box_ap_large": math.nan}, Best(0.1, "box_ap", 8, 2)).write(tmp_path)
    assert json.loads((tmp_path / "epoch-end.json").read_text())["metrics"] == {"box_ap": 0.1, "box_ap_large": None}
    done = read_epoch_end(tmp_path, 8)
    assert done is not None and done.metrics["box_ap"] == 0.1 and math.isnan(done.metrics["box_ap_large"])
    assert not done.exported and done.best == Best(0.1, "box_ap", 8, 2)
    assert read_epoch_end(tmp_path, 12) is None
    (tmp_path / "epoch-end.json").write_text("{")
    assert read_epoch_end(tmp_path, 8) is None


def test_a_result_finishes_the_step_that_it_names(tmp_path: Path) -> None:
    assert not is_finished(tmp_path, 4)
    for content, finished in (('{"finished": true, "step": 4}', True), ('{"finished": false, "step": 4}', False)):
        (tmp_path / "result.json").write_text(content)
        assert is_finished(tmp_path, 4) == finished and not is_finished(tmp_path, 8)
