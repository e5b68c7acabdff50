"""--log-to: the services get what the files get, a resumed run goes on in its place, no failure reaches the training.

wandb, mlflow and trackio themselves are used, without a network, where they are installed; else those are skipped.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detection.cli import main as detect
from pretrain.cli import main as pretrain
from shared.errors import UsageError
from shared.logs import trackers
from shared.logs.console import setup_logging
from shared.logs.metrics import RunLog, read_metrics
from shared.logs.trackers import About, Tracker, check_installed, read_ids

SERVICES = tuple(trackers.OPENERS)


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    yield
    setup_logging(None)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """A service in memory, in the place of wandb: what it was opened with, its rows, and how runs ended."""
    seen: dict[str, list[Any]] = {"opened": [], "rows": [], "ended": []}

    def opened(about: About) -> Any:
        seen["opened"].append(about)
        about.keep(about.known or "its-id")
        return lambda step, values: seen["rows"].append((step, values)), seen["ended"].append

    monkeypatch.setitem(trackers.OPENERS, "wandb", opened)
    return seen


def three_rows(log: RunLog, first: int = 1) -> None:
    log.metrics(first, first / 2, {"loss": 0.5, "lr": 0.1}, "train")
    log.metrics(first + 1, first / 2 + 0.5, {"loss": float("nan"), "lr": 0.1}, "train")
    log.metrics(first + 1, first / 2 + 0.5, {"box_ap": 0.25}, "val")


def test_the_service_gets_what_the_files_get(tmp_path: Path, service: dict[str, list[Any]]) -> None:
    (tmp_path / "recipe.yaml").write_text("# optim\nlr: 0.1\n")
    with RunLog(tmp_path, tensorboard=False, log_to=("wandb", "tensorboard", "wandb"), offline=True) as log:
        three_rows(log)
    assert service["rows"] == [
        (1, {"train/loss": 0.5, "train/lr": 0.1, "epoch": 0.5}),
        (2, {"train/lr": 0.1, "epoch": 1.0}),
        (2, {"val/box_ap": 0.25, "epoch": 1.0}),
    ]
    (about,) = service["opened"]
    assert about.config == {"lr": 0.1} and about.offline and about.known is None
    assert service["ended"] == [False]


def test_a_resumed_run_goes_on_under_its_id(tmp_path: Path, service: dict[str, list[Any]]) -> None:
    for first in (1, 3):
        with RunLog(tmp_path, tensorboard=False, resume_step=first - 1, log_to=["wandb"]) as log:
            three_rows(log, first)
    assert [about.known for about in service["opened"]] == [None, "its-id"]
    assert [step for step, _ in service["rows"]] == [1, 2, 2, 3, 4, 4]


def test_the_service_is_told_that_a_run_failed(tmp_path: Path, service: dict[str, list[Any]]) -> None:
    with pytest.raises(ZeroDivisionError), RunLog(tmp_path, tensorboard=False, log_to=["wandb"]):
        raise ZeroDivisionError
    assert service["ended"] == [True]


def test_only_the_main_process_logs(tmp_path: Path, service: dict[str, list[Any]]) -> None:
    with RunLog(tmp_path / "run", enabled=False, log_to=["wandb"]) as log:
        three_rows(log)
    assert not service["opened"] and not (tmp_path / "run").exists()


@pytest.mark.parametrize("when", ["open", "write", "end"])
def test_a_service_that_fails_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    def fail(at: str) -> None:
        if at == when:
            raise ConnectionError("no route\nto host")

    def opened(about: About) -> Any:
        fail("open")
        return lambda step, values: fail("write"), lambda failed: fail("end")

    monkeypatch.setitem(trackers.OPENERS, "wandb", opened)
    with RunLog(tmp_path, tensorboard=False, log_to=["wandb"]) as log:
        three_rows(log)
    told = capsys.readouterr().out
    assert told.count("warning") == 1 and "wandb cannot be logged to (no route); the run goes on" in told
    assert len(read_metrics(tmp_path)) == 3


def test_a_service_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = threading.Event()

    def opened(about: About) -> Any:
        return lambda step, values: answer.wait(), lambda failed: None

    monkeypatch.setitem(trackers.OPENERS, "wandb", opened)
    monkeypatch.setattr(trackers, "END", 0.05)
    with RunLog(tmp_path, tensorboard=False, log_to=["wandb"]) as log:
        three_rows(log)
    answer.set()
    assert len(read_metrics(tmp_path)) == 3 and "did not take everything" in capsys.readouterr().out


@pytest.mark.parametrize("kind", SERVICES)
def test_a_package_that_is_absent_is_named_at_the_door(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"chordate\[{kind}\]"):
        check_installed(["tensorboard", kind])
    check_installed(["tensorboard"])


@pytest.mark.parametrize("main", [pretrain, detect])
def test_that_is_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], main: Any
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data-path", "nowhere", "--log-to", "mlflow"]) == 2
    told = capsys.readouterr().err
    assert "chordate[mlflow]" in told and told.count("\n") == 1 and not list(tmp_path.iterdir())


def test_ids_that_are_damaged_begin_anew(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"wandb": 3}'):
        (tmp_path / trackers.IDS).write_text(text)
        assert read_ids(tmp_path) == {}


# --- the services themselves, without a network ---------------------------------------------


def twice(run_dir: Path, kind: str) -> None:
    """A run, and its second part after a resume."""
    run_dir.mkdir(exist_ok=True)
    (run_dir / "recipe.yaml").write_text("lr: 0.1\nname: null\nsize: [3, 4]\n")
    for first in (1, 3):
        tracker = Tracker(kind, run_dir, offline=True)
        tracker.log(first, {"train/loss": 1 / first, "val/AP of a cat & dog": 0.5})
        tracker.close()
        assert not tracker.broken and not tracker.thread.is_alive()


def test_mlflow_has_one_run_with_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # which needs no database
    twice(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("chordate").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run" and run.data.params["lr"] == "0.1"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (3, 1 / 3)]
    assert "val/AP of a cat _ dog" in run.data.metrics


def test_mlflow_offline_talks_to_no_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        Tracker("mlflow", tmp_path, offline=True).close()
    assert "--offline" in caplog.text


def test_wandb_keeps_both_parts_of_a_run_under_one_id(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    twice(tmp_path / "run", "wandb")
    known = json.loads((tmp_path / "run" / trackers.IDS).read_text())["wandb"]
    kept = sorted((tmp_path / "run" / "wandb").glob(f"offline-run-*-{known}"))
    assert kept and all(list(folder.glob("*.wandb")) for folder in kept)


def test_trackio_has_one_run_with_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_PROJECT", f"chordate-{tmp_path.name}")
    twice(tmp_path / "run", "trackio")
    (run,) = trackio.Api().runs(f"chordate-{tmp_path.name}")
    assert run.name == read_ids(tmp_path / "run")["trackio"]
