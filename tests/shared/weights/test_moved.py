"""Weights are found from any folder and after a move; what was changed is not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from torch import nn

from shared.errors import WeightsError
from shared.weights.card import Card, Exported
from shared.weights.moved import at_path, where
from shared.weights.store import Store


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    store = Store(tmp_path / "project" / "weights")
    run = tmp_path / "project" / "runs" / "one"
    run.mkdir(parents=True)
    metrics = {"top1": 0.5, "accuracy_of_the_alphabet": 0.1, "undefined": float("nan")}
    exported = store.put(nn.Linear(2, 2), Card(arch="line", tag="mine", epoch=3, metrics=metrics))
    (run / "result.json").write_text(json.dumps({**where(exported, run), "finished": True}))
    return exported


def test_the_headline_stays_first_and_what_is_undefined_is_null(exported: Exported) -> None:
    assert next(iter(exported.card.metrics.items())) == ("top1", 0.5)
    assert exported.card.metrics["undefined"] is None


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_follow_the_umask(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        path = Store(tmp_path / "weights").put(nn.Linear(2, 2), Card(arch="line", tag="mine", epoch=3)).path
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize("moved", ["nothing", "project", "run", "weights"])
def test_a_run_finds_its_weights(
    moved: str, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, root = tmp_path / "project" / "runs" / "one", Path("weights")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    if moved == "project":
        (tmp_path / "project").rename(tmp_path / "renamed")
        run = tmp_path / "renamed" / "runs" / "one"
    elif moved == "run":
        run = run.rename(tmp_path / "elsewhere" / "copy")
    elif moved == "weights":
        root = (tmp_path / "project" / "weights").rename(tmp_path / "elsewhere" / "store")
    found = at_path(run, root)
    assert found is not None and found.digest == exported.digest


def test_an_export_is_named_by_path_under_any_name(exported: Exported, tmp_path: Path) -> None:
    copy = shutil.copytree(exported.path, tmp_path / "my model")
    for found in (at_path(copy, tmp_path), Store(tmp_path).find("line", str(copy))):
        assert found is not None and found.reference == exported.reference
        Store(tmp_path).load(nn.Linear(2, 2), found)
    with pytest.raises(WeightsError, match="has weights of line, not curve"):
        Store(tmp_path).find("curve", str(copy))


def test_a_result_of_an_earlier_version_finds_its_weights(exported: Exported, tmp_path: Path) -> None:
    run = tmp_path / "project" / "runs" / "one"
    relative = exported.path.relative_to(tmp_path / "project")
    (run / "result.json").write_text(json.dumps({"weights": str(relative), "finished": True}))
    found = at_path(run, tmp_path / "nowhere")
    assert found is not None and found.digest == exported.digest


def test_a_changed_card_and_weights_that_are_gone_are_refused(exported: Exported, tmp_path: Path) -> None:
    card = exported.path / "card.json"
    card.write_text(card.read_text().replace("mine", "ours"))
    with pytest.raises(WeightsError, match="was modified"):
        at_path(exported.path, tmp_path)
    shutil.rmtree(tmp_path / "project" / "weights")
    with pytest.raises(WeightsError, match="neither in .* nor in .*; give the folder they were moved to"):
        at_path(tmp_path / "project" / "runs" / "one", tmp_path)
