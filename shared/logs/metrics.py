"""Metrics of a run: one call writes to JSON lines, CSV and TensorBoard.

    RunLog.metrics -> metrics.jsonl    every row: {"kind", "step", "epoch", "time", and the values by name}
                      results.csv      a row per epoch: train/loss ... val/box_ap ...
                      events.out...    TensorBoard, the same names as in the csv
                      --log-to         the services of trackers.py, the same names
    RunLog.note    -> train.log, console

A resumed run drops the rows after the step it resumes from, so that no step appears twice; nothing else is removed.
Importing this page imports neither torch nor rich.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from shared.files import write_aside
from shared.logs.console import setup_logging
from shared.logs.trackers import OPENERS, Tracker

log = logging.getLogger(__name__)


class RunLog:
    """The metric files of one run.

    Args:
        run_dir: created if missing.
        enabled: False in all processes but the main one; every call then does nothing.
        resume_step: the step the run continues from; later rows are dropped. None keeps all rows.
        repeat: the validation after `resume_step` is going to be repeated; its rows are dropped too.
        tensorboard: write event files too.
        log_to: services to log to besides, names of `trackers.OPENERS`; others are ignored.
        offline: they may not use the network.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        enabled: bool = True,
        resume_step: int | None = None,
        repeat: bool = False,
        tensorboard: bool = True,
        log_to: Sequence[str] = (),
        offline: bool = False,
    ) -> None:
        self.run_dir, self.enabled = Path(run_dir), enabled
        self.resume_step, self.tensorboard = resume_step, tensorboard
        self.events: Any = None
        self.table: dict[int, dict[str, Any]] = {}  # rows of results.csv by step
        self.latest_train: dict[str, float] = {}
        self.trackers: list[Tracker] = []
        setup_logging(self.run_dir, enabled=enabled)
        if enabled:
            if resume_step is not None:
                drop_rows_after(self.run_dir / "metrics.jsonl", resume_step, repeat=repeat)
            self.table = read_table(self.run_dir / "results.csv", resume_step)
            services = [kind for kind in dict.fromkeys(log_to) if kind in OPENERS]
            self.trackers = [Tracker(kind, self.run_dir, offline=offline) for kind in services]

    def metrics(self, step: int, epoch: float, values: Mapping[str, float], kind: Literal["train", "val"]) -> None:
        """Log named values everywhere. `epoch` counts finished epochs: 2.5 is the middle of the third.

        A row of results.csv is written for every validation, and for training at the end of an epoch.
        """
        if not self.enabled:
            return
        values = {name: float(value) for name, value in values.items()}
        row = {"kind": kind, "step": step, "epoch": round(epoch, 6), "time": round(time.time(), 3)}
        with open(self.run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({**{name: or_none(value) for name, value in values.items()}, **row}) + "\n")
        named = {f"{kind}/{name}": value for name, value in values.items()}
        self.add_scalars(step, named)
        finite = {name: value for name, value in named.items() if math.isfinite(value)}
        for tracker in self.trackers:
            tracker.log(step, {**finite, "epoch": epoch})
        if kind == "train":
            self.latest_train = named
        epoch_ends = epoch > 0 and abs(epoch - round(epoch)) < 1e-9
        if kind == "val" or epoch_ends:
            known = self.table.get(step, {})
            self.table[step] = {"epoch": f"{epoch:g}", "step": step, **self.latest_train, **known, **named}
            write_table(self.run_dir / "results.csv", self.table)

    def note(self, text: str) -> None:
        """Log a message to train.log and the console."""
        if self.enabled:
            log.info("%s", text)

    def add_scalars(self, step: int, named: Mapping[str, float]) -> None:
        if not self.tensorboard:
            return
        if self.events is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            purge = None if self.resume_step is None else self.resume_step + 1
            self.events = SummaryWriter(str(self.run_dir), purge_step=purge)
        for name, value in named.items():
            if not math.isfinite(value):
                continue
            self.events.add_scalar(name, value, step)

    def close(self, *, failed: bool = False) -> None:
        """Close the files; later messages go to the console only.

        Args:
            failed: the run ends with an error, which the services are told.
        """
        for tracker in self.trackers:
            tracker.close(failed=failed)
        self.trackers = []
        if self.events is not None:
            self.events.close()
            self.events = None
        setup_logging(None, enabled=self.enabled)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, in order; an incomplete last line of a killed run is skipped."""
    try:
        text = (run_dir / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [row for line in text.splitlines() if (row := parse_row(line)) is not None]


def parse_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def drop_rows_after(path: Path, step: int, *, repeat: bool = False) -> None:
    """Remove later rows from metrics.jsonl; with `repeat` the validation rows of `step` too."""
    rows = [row for row in read_metrics(path.parent) if row["step"] <= step]
    rows = [row for row in rows if not (repeat and row["step"] == step and row.get("kind") == "val")]
    write_aside(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_table(path: Path, last_step: int | None) -> dict[int, dict[str, Any]]:
    """results.csv -> its rows by step, up to `last_step`."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{k: v or "" for k, v in row.items() if k} for row in csv.DictReader(file)]
    by_step = {int(row["step"]): row for row in rows if row.get("step", "").isdigit()}
    return {step: row for step, row in by_step.items() if last_step is None or step <= last_step}


def write_table(path: Path, table: Mapping[int, Mapping[str, Any]]) -> None:
    """Write results.csv; columns keep their order, new ones are appended and empty in older rows."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for _, row in sorted(table.items()):
        writer.writerow({name: cell(v) for name, v in row.items()})
    write_aside(path, text.getvalue())


def cell(value: Any) -> Any:
    """A value as results.csv has it."""
    if not isinstance(value, float):
        return value
    return f"{value:.6g}" if math.isfinite(value) else "n/a"


def show_metric(value: float | None) -> str:
    """0.41237 -> '0.4124'; 'n/a' for a metric that is not defined, such as AP of a class without objects."""
    return "n/a" if value is None or not math.isfinite(value) else f"{value:.4f}"


def or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN
