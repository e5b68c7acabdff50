"""A resumed run that ends with other bits than the straight one fails the doctor's test, and says where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from shared.loop.state import save_state, write_state
from shared.runs import self_test
from shared.runs.self_test import begun, compared, learned, stopped_copy


def ended(run: Path, **other: Any) -> Path:
    """A run folder whose last state is after step 11."""
    told = {"step": 11, "task": {"weight": torch.arange(4.0)}, "optimizer": {"state": {0: {"step": 11}}}, **other}
    save_state(run / "last", told["step"], told)
    return run


def test_equal_bits_pass(tmp_path: Path) -> None:
    name, passed, told = compared(ended(tmp_path / "a"), ended(tmp_path / "b"), 5)
    assert (name, passed) == ("resume", True)
    assert told == (
        "stopped after step 5 of 11 and resumed in a second process: "
        "the same bits in all 2 digests of weights and optimizer"
    )


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            {"task": {"weight": torch.arange(4.0).nextafter(torch.tensor(9.0))}},
            "1 of 2 digests of weights and optimizer",
        ),
        ({"optimizer": {"state": {0: {"step": 10}}}}, "such as optimizer.state.0.step"),
        ({"task": {}}, "such as task.weight"),
        ({"step": 9}, "it ended at step 9"),
    ],
)
def test_another_end_fails_and_is_named(other: dict[str, Any], says: str, tmp_path: Path) -> None:
    _, passed, told = compared(ended(tmp_path / "a"), ended(tmp_path / "b", **other), 5)
    assert not passed and says in told


def test_a_run_without_a_state_fails(tmp_path: Path) -> None:
    assert not compared(ended(tmp_path / "a"), tmp_path / "b", 5)[1]


def test_a_stopped_copy_has_the_last_kept_state_and_nothing_that_came_later(tmp_path: Path) -> None:
    run = ended(tmp_path / "run")
    (run / "recipe.yaml").write_text("opt: sgd\n")
    (run / "result.json").write_text("{}")
    for step in (0, 3, 5):
        path = write_state(run / "audit", step, {"step": step})
        told = {"state": path.name, "losses": [], "digests": {}, "facts": {}, "recipe": "", "where": {}}
        path.with_name(f"step-{step:08d}.json").write_text(json.dumps(told))
    assert stopped_copy(run, tmp_path / "copy") == 5
    files = sorted(path.name for path in (tmp_path / "copy").rglob("*") if path.is_file())
    assert len(files) == 2 and files[0] == "recipe.yaml" and files[1].startswith("step-00000005-")


def test_a_copy_of_the_start_alone_is_no_test(tmp_path: Path) -> None:
    run = ended(tmp_path / "run")
    path = write_state(run / "audit", 0, {"step": 0})
    told = {"state": path.name, "losses": [], "digests": {}, "facts": {}, "recipe": "", "where": {}}
    (run / "audit" / "step-00000000.json").write_text(json.dumps(told))
    assert stopped_copy(run, tmp_path / "copy") is None


def test_a_training_that_fails_gives_its_last_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        self_test, "train", lambda *_: self_test.Tried(tmp_path, [], "detect: the images are gone; put them back")
    )
    assert self_test.resume("detection", [], tmp_path) == (
        "resume",
        False,
        "detect: the images are gone; put them back",
    )


def test_losses_against_theory_and_their_fall() -> None:
    assert begun("start", "classification", 2.25, 2.30, 0.1)[1]
    assert begun("start", "classification", 3.0, 2.3, 0.1) == (
        "start",
        False,
        "classification 3.00, where theory says 2.30",
    )
    rows = [{"classification": 3.0, "step": 1}, {"classification": 2.0, "step": 40}]
    assert learned("batch", "classification", 1, rows) == (
        "batch",
        False,
        "the classification loss of 1 image went from 3.00 to 2.00 in 40 steps, and should halve",
    )
