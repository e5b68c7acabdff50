"""Progress of training: a bar on a terminal, plain lines elsewhere and in train.log.

Importing this page imports neither torch nor rich.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO

from shared.host import process_peak
from shared.logs.console import FILE_ONLY
from shared.text import say

log = logging.getLogger(__name__)


class Progress:
    """A progress bar on a terminal; a line every `log_every` steps elsewhere and in train.log.

        with Progress("train") as progress:
            progress.update(step, total, {"loss": 0.7}, images=64, wait_seconds=0.01, epoch=2.5)

    Rates and the time left are those of the last `window` steps. NO_COLOR and TERM=dumb are respected.

    Args:
        label: one word, such as "train".
        log_every: steps between plain lines.
        enabled: False in all processes but the main one.
        stream: output stream; None for stdout.
        clock: returns seconds; replaced in tests.
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
            columns[2].markup = False  # names of losses are not rich markup
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
        """Report that step `step` of `total` is done, with its images and the seconds it waited for them.

        `losses` is None if they were not read from the device; the last known ones are shown.
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
                say(line, stream=self.stream)

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
        done = list(self.recent)[1:]  # the first entry only marks the start of the window
        return {
            "images_per_s": sum(images for _, _, images, _ in done) / seconds,
            "wait_share": min(1.0, sum(waited for *_, waited in done) / seconds),
            "seconds_per_step": seconds / steps,
        }


def describe_losses(losses: Mapping[str, float]) -> str:
    """'loss 0.7 (cls 0.5, box 0.2)'; the total is summed if it is not given."""
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
    """(label, peak memory in bytes): of the GPU if it is in use, otherwise of the process."""
    torch = sys.modules.get("torch")  # no GPU is in use if torch was not imported
    if torch is not None and torch.cuda.is_initialized():
        return "gpu mem", torch.cuda.max_memory_allocated()
    return "mem", process_peak() or 0


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "")
