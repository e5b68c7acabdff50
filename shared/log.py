"""What a run says while it runs: one call logs a number everywhere, one bar or line shows how it goes.

    RunLog.metrics -> metrics.jsonl    every row: {"kind", "step", "epoch", "time", and the values by name}
                      results.csv      a row per epoch: train/loss ... val/box_ap ...
                      events.out...    TensorBoard, the same names as in the csv
    RunLog.note    -> train.log, console
    Progress       -> a bar on a terminal, plain lines elsewhere, plain lines in train.log

A resumed run drops the rows beyond the step it resumes from, so curves never double; nothing else is ever removed.
Importing this page imports neither torch nor rich.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, TextIO

log = logging.getLogger(__name__)

PROJECT = ("shared", "backbones", "pretrain", "detection")
FILE_ONLY = {"file_only": True}  # extra= of what a terminal shows in another way


# --- logging ------------------------------------------------------------------------------------


class Console(logging.Handler):
    """Messages on what is stdout at that moment, since a bar replaces it; errors are the command's own business."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "file_only", False):
            prefix = "warning: " if record.levelno >= logging.WARNING else ""
            print(f"{prefix}{record.getMessage()}", flush=True)


def setup_logging(run_dir: Path | None = None, *, enabled: bool = True) -> None:
    """Send the project's loggers to the console and to `run_dir`/train.log.

    Called again it replaces what it did before. Not `enabled` (not the main rank): only warnings, on the console.
    """
    handlers: list[logging.Handler] = [Console()]
    if run_dir is not None and enabled:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(run_dir / "train.log", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers.append(file)
    for name in PROJECT:
        logger = logging.getLogger(name)
        for old in [handler for handler in logger.handlers if getattr(handler, "of_the_run", False)]:
            logger.removeHandler(old)
            old.close()
        for handler in handlers:
            vars(handler)["of_the_run"] = True
            logger.addHandler(handler)
        logger.setLevel(logging.INFO if enabled else logging.WARNING)


# --- numbers ------------------------------------------------------------------------------------


class RunLog:
    """The record of one run, in its folder.

    Args:
        run_dir: made when missing.
        enabled: only the main rank writes; elsewhere every call is silent.
        resume_step: the step the run continues from; rows beyond it are dropped. None starts, or appends.
        tensorboard: write event files too.
    """

    def __init__(
        self, run_dir: Path, *, enabled: bool = True, resume_step: int | None = None, tensorboard: bool = True
    ) -> None:
        self.run_dir, self.enabled = Path(run_dir), enabled
        self.resume_step, self.tensorboard = resume_step, tensorboard
        self.events: Any = None
        self.table: dict[int, dict[str, Any]] = {}  # rows of results.csv by step
        self.latest_train: dict[str, float] = {}
        setup_logging(self.run_dir, enabled=enabled)
        if enabled:
            if resume_step is not None:
                drop_rows_after(self.run_dir / "metrics.jsonl", resume_step)
            self.table = read_table(self.run_dir / "results.csv", resume_step)

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
        if kind == "train":
            self.latest_train = named
        epoch_ends = epoch > 0 and abs(epoch - round(epoch)) < 1e-9
        if kind == "val" or epoch_ends:
            known = self.table.get(step, {})
            self.table[step] = {"epoch": f"{epoch:g}", "step": step, **self.latest_train, **known, **named}
            write_table(self.run_dir / "results.csv", self.table)

    def note(self, text: str) -> None:
        """A sentence for train.log and the console."""
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
            self.events.add_scalar(name, value, step)

    def close(self) -> None:
        """Everything is on disk; later messages go to the console only."""
        if self.events is not None:
            self.events.close()
            self.events = None
        setup_logging(None, enabled=self.enabled)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, in order; a last line that a killed run left half written is passed over."""
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


def drop_rows_after(path: Path, step: int) -> None:
    rows = [row for row in read_metrics(path.parent) if row["step"] <= step]
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
    """Columns keep their order; a new one is appended, and empty where it was not known yet."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for _, row in sorted(table.items()):
        writer.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})
    write_aside(path, text.getvalue())


def write_aside(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None  # NaN is no JSON


# --- progress -----------------------------------------------------------------------------------


class Progress:
    """How a long walk goes: a bar on a terminal, a line every `log_every` steps elsewhere and in train.log.

        with Progress("train") as progress:
            progress.update(step, total, {"loss": 0.7}, images=64, wait_seconds=0.01, epoch=2.5)

    Rates and the time left are those of the last `window` steps. NO_COLOR and TERM=dumb are respected.

    Args:
        label: what is going on, in a word.
        log_every: steps between two plain lines.
        enabled: only the main rank shows anything.
        stream: where it is shown, stdout if None.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        label: str = "train",
        *,
        log_every: int = 50,
        window: int = 50,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.log_every, self.enabled = label, max(1, log_every), enabled
        self.stream, self.clock = stream, clock
        self.recent: deque[tuple[float, int, int, float]] = deque(maxlen=window + 1)  # when, step, images, waited
        self.losses: Mapping[str, float] = {}
        self.bar: Any = None
        self.bar_drawn = -math.inf

    def __enter__(self) -> Self:
        self.recent.append((self.clock(), -1, 0, 0.0))
        if self.enabled and is_terminal(self.stream or sys.stdout):
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            columns = (TextColumn("{task.description}", markup=False), BarColumn(16), TextColumn("{task.fields[line]}"))
            self.bar = RichProgress(
                *columns, console=RichConsole(file=self.stream), refresh_per_second=4, transient=True
            )
            columns[2].markup = False  # names of losses are no markup
            self.bar.add_task(self.label, total=None, line="")
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(
        self,
        step: int,
        total: int,
        losses: Mapping[str, float] | None,
        images: int,
        wait_seconds: float,
        *,
        epoch: float | None = None,
    ) -> None:
        """One step is done: the `step`-th of `total`, over this many images, after this long a wait for them.

        `losses` may be None where they were not read from the device; the last known are shown.
        """
        if not self.enabled:
            return
        now = self.clock()
        if len(self.recent) == 1 and self.recent[0][1] < 0:
            self.recent[0] = (self.recent[0][0], step - 1, 0, 0.0)  # a resumed run does not start at 0
        self.recent.append((now, step, images, wait_seconds))
        self.losses = self.losses if losses is None else losses
        due = step % self.log_every == 0 or step >= total
        if self.bar is not None and (due or now - self.bar_drawn > 0.25):
            self.bar_drawn = now
            self.bar.update(self.bar.task_ids[0], total=total, completed=step, line=self.line(step, total, epoch))
        if due:
            line = f"{self.label}  {self.line(step, total, epoch)}"
            log.info("%s", line, extra=FILE_ONLY)
            if self.bar is None:
                print(line, file=self.stream or sys.stdout, flush=True)

    def line(self, step: int, total: int, epoch: float | None) -> str:
        """epoch 1.25  step 250/2000  loss 0.7 (cls 0.5, box 0.2)  312 images/s  wait 3%  eta 2:10  mem 1.2 GB"""
        rates = self.rates()
        parts = [] if epoch is None else [f"epoch {epoch:.2f}"]
        parts.append(f"step {step}/{total}")
        if self.losses:
            parts.append(describe_losses(self.losses))
        if rates["images_per_s"]:
            parts.append(f"{rates['images_per_s']:{'.1f' if rates['images_per_s'] < 10 else ',.0f'}} images/s")
        parts.append(f"wait {rates['wait_share']:.0%}")
        parts.append(f"eta {clock_time((total - step) * rates['seconds_per_step'])}")
        kind, used = memory_used()
        parts.append(f"{kind} {used / 2**30:.1f} GB")
        return "  ".join(parts)

    def rates(self) -> dict[str, float]:
        """Over the window: images_per_s, wait_share (0 to 1), seconds_per_step."""
        seconds = self.recent[-1][0] - self.recent[0][0]
        steps = self.recent[-1][1] - self.recent[0][1]
        if seconds <= 0 or steps <= 0:
            return {"images_per_s": 0.0, "wait_share": 0.0, "seconds_per_step": 0.0}
        done = list(self.recent)[1:]  # the first marks only where the window opens
        return {
            "images_per_s": sum(images for _, _, images, _ in done) / seconds,
            "wait_share": min(1.0, sum(waited for *_, waited in done) / seconds),
            "seconds_per_step": seconds / steps,
        }


def describe_losses(losses: Mapping[str, float]) -> str:
    """loss 0.7 (cls 0.5, box 0.2): the total first, whether it was given or not."""
    parts = {name: value for name, value in losses.items() if name != "loss"}
    total = losses["loss"] if "loss" in losses else sum(parts.values())
    if len(parts) < 2:
        return f"loss {total:.4g}"
    return f"loss {total:.4g} ({', '.join(f'{name} {value:.3g}' for name, value in parts.items())})"


def clock_time(seconds: float) -> str:
    """7385 -> 2:03:05, 65 -> 1:05"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def memory_used() -> tuple[str, int]:
    """The most memory used so far, in bytes: the GPU's if it is in use, otherwise the process's own."""
    torch = sys.modules.get("torch")  # who did not import it uses no GPU
    if torch is not None and torch.cuda.is_initialized():
        return "gpu mem", torch.cuda.max_memory_allocated()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return "mem", peak if sys.platform == "darwin" else peak * 1024


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "")
