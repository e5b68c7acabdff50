"""Numbers are logged once, everywhere, and stay true over kills and resumes; progress says how fast and how long."""

from __future__ import annotations

import csv
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.logs.console import setup_logging
from shared.logs.metrics import RunLog, read_metrics
from shared.logs.progress import Progress, clock_time, describe_losses, memory_used


@pytest.fixture(autouse=True)
def quiet_afterwards():
    yield
    setup_logging(None)


def table(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def epochs(log: RunLog, first: int, last: int, **more: float) -> None:
    """Epochs of two steps, logged as the loop logs them."""
    for epoch in range(first, last):
        for half in (1, 2):
            log.metrics(2 * epoch + half, epoch + half / 2, {"loss": 1 / (2 * epoch + half), "lr": 0.1}, "train")
        log.metrics(2 * epoch + 2, epoch + 1, {"box_ap": epoch / 10, **more}, "val")


def test_one_call_reaches_jsonl_csv_and_tensorboard(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        epochs(log, 0, 2)
    rows = read_metrics(tmp_path)
    assert [(row["kind"], row["step"], row["epoch"]) for row in rows[:3]] == [
        ("train", 1, 0.5),
        ("train", 2, 1.0),
        ("val", 2, 1.0),
    ]
    assert rows[1]["loss"] == 0.5
    assert [list(row.items())[:5] for row in table(tmp_path)] == [
        [("epoch", "1"), ("step", "2"), ("train/loss", "0.5"), ("train/lr", "0.1"), ("val/box_ap", "0")],
        [("epoch", "2"), ("step", "4"), ("train/loss", "0.25"), ("train/lr", "0.1"), ("val/box_ap", "0.1")],
    ]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("val/box_ap")] == [2, 4]


def test_resumed_run_has_the_rows_of_a_straight_run(tmp_path: Path) -> None:
    with RunLog(tmp_path / "straight", tensorboard=False) as log:
        epochs(log, 0, 4)
    with RunLog(tmp_path / "killed", tensorboard=False) as log:
        epochs(log, 0, 3)
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "ste')  # killed in the middle of a line
    with RunLog(tmp_path / "killed", resume_step=4, tensorboard=False) as log:  # its state is older than its log
        epochs(log, 2, 4)

    def without_time(run: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "time"} for row in read_metrics(tmp_path / run)]

    assert without_time("killed") == without_time("straight")
    assert table(tmp_path / "killed") == table(tmp_path / "straight")
    assert not list(tmp_path.rglob("*.partial"))


def test_starting_again_without_resuming_removes_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        epochs(log, 0, 2)
    with RunLog(tmp_path, tensorboard=False) as log:
        epochs(log, 2, 3)
    assert [row["step"] for row in table(tmp_path)] == ["2", "4", "6"]
    assert len(read_metrics(tmp_path)) == 9


def test_columns_keep_their_order_and_new_ones_are_appended_also_after_a_resume(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        epochs(log, 0, 1)
        epochs(log, 1, 2, box_ap50=0.5)
    columns = ["epoch", "step", "train/loss", "train/lr", "val/box_ap", "val/box_ap50"]
    assert list(table(tmp_path)[0]) == columns
    assert [row["val/box_ap50"] for row in table(tmp_path)] == ["", "0.5"]
    with RunLog(tmp_path, resume_step=4, tensorboard=False) as log:
        epochs(log, 2, 3, box_ap75=0.1)
    assert list(table(tmp_path)[0]) == [*columns, "val/box_ap75"]


def test_training_without_validation_still_gets_a_row_per_epoch(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        for step in range(1, 10):
            log.metrics(step, step / 3, {"loss": step}, "train")
    assert [(row["epoch"], row["train/loss"]) for row in table(tmp_path)] == [("1", "3"), ("2", "6"), ("3", "9")]


def test_values_that_are_no_numbers_leave_valid_json(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        log.metrics(1, 0.1, {"loss": float("nan"), "other": float("inf"), "fine": 1.0}, "train")
    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (row["loss"], row["other"], row["fine"]) == (None, None, 1.0)


def test_other_ranks_write_and_say_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path / "run", enabled=False) as log:
        log.note("hello")
        epochs(log, 0, 1)
        logging.getLogger("detection.training.train").info("hello")
        with Progress(enabled=False, log_every=1) as progress:
            progress.update(1, 1, {"loss": 1.0}, 1, 0.0)
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().out == ""


def test_notes_and_loggers_of_the_project_reach_console_and_file_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(tmp_path)
    with RunLog(tmp_path, tensorboard=False) as log:
        log.note("100 % of <tensors>")
        logging.getLogger("detection.training.train").warning("3 boxes dropped")
        logging.getLogger("somebody.else").info("not ours")
    assert capsys.readouterr().out == "100 % of <tensors>\nwarning: 3 boxes dropped\n"
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO    100 % of <tensors>", "WARNING 3 boxes dropped"]


def walk(stream: io.StringIO, tmp_path: Path, *, steps: int = 60) -> str:
    """Steps of 0.5 s (0.25 s after step 30), 0.1 s of it waiting, 16 images each."""
    now = 0.0
    setup_logging(tmp_path)
    with Progress(log_every=20, window=10, stream=stream, clock=lambda: now) as progress:
        for step in range(1, steps + 1):
            now += 0.5 if step <= 30 else 0.25
            losses = {"cls": 0.5, "box": 0.25} if step % 20 == 0 else None
            progress.update(step, 100, losses, 16, 0.1, epoch=step / 10)
    return stream.getvalue()


def test_plain_lines_say_epoch_losses_speed_wait_and_time_left_over_a_sliding_window(tmp_path: Path) -> None:
    lines = walk(io.StringIO(), tmp_path).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(
        "train  epoch 2.00  step 20/100  loss 0.75 (cls 0.5, box 0.25)  32 images/s  wait 20%  eta 0:40  mem "
    )
    assert "64 images/s  wait 40%  eta 0:15" in lines[1]  # the slow start is forgotten
    assert (tmp_path / "train.log").read_text().count(" step ") == 3


def test_first_rates_of_a_resumed_run_count_from_where_it_resumed() -> None:
    now, stream = 0.0, io.StringIO()
    with Progress(log_every=1, stream=stream, clock=lambda: now) as progress:
        now = 2.0
        progress.update(901, 1000, {"loss": 1.0}, 8, 0.0)
    assert "4.0 images/s  wait 0%  eta 3:18" in stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_the_file_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = walk(Terminal(), tmp_path)
    assert "images/s" in shown and "\x1b[38" in shown
    assert (tmp_path / "train.log").read_text().count(" step ") == 3


def test_no_color_and_dumb_terminals_are_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[38" not in walk(Terminal(), tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in walk(Terminal(), tmp_path)


def test_small_words() -> None:
    assert [clock_time(seconds) for seconds in (0, 65.2, 7385)] == ["0:00", "1:05", "2:03:05"]
    assert describe_losses({"rotation": 1.5}) == "loss 1.5"
    assert describe_losses({"loss": 3.0, "a": 1.0, "b": 1.0}) == "loss 3 (a 1, b 1)"
    assert memory_used()[1] > 2**20


def test_importing_the_page_imports_neither_torch_nor_rich() -> None:
    code = "import sys, shared.logs.metrics, shared.logs.progress; "
    code += "print([name for name in ('torch', 'rich', 'tensorboard') if name in sys.modules])"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
