"""Logging set-up: the project's loggers write to the console and to train.log of a run.

Importing this page imports neither torch nor rich.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from shared.text import printable, say

PROJECT = ("shared", "backbones", "pretrain", "detection")
FILE_ONLY = {"file_only": True}  # extra= of messages that the progress bar shows on the console


class Console(logging.Handler):
    """Prints messages to the current stdout, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "file_only", False):
            prefix = "warning: " if record.levelno >= logging.WARNING else ""
            say(f"{prefix}{record.getMessage()}")


class OneLine(logging.Formatter):
    """A formatter whose messages stay on their line, whatever names they contain."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


class RunFile(logging.FileHandler):
    """train.log. Its lines are on the console too, so a full disk costs one warning, not the run."""

    complained = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.complained:
            self.complained = True
            say(f"warning: {self.baseFilename} cannot be written ({sys.exc_info()[1]})", stream=sys.stderr)


class Held(logging.Handler):
    """Keeps the messages of a run that has no folder yet, for its train.log."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def setup_logging(run_dir: Path | None = None, *, enabled: bool = True, hold: bool = False) -> None:
    """Send the project's loggers to the console and to `run_dir`/train.log.

    A second call replaces the first. If not `enabled` (not the main rank): only warnings, on the console. With `hold`,
    messages are also kept for the train.log of the next call.
    """
    handlers: list[logging.Handler] = [Console(), *([Held()] if hold and enabled else [])]
    if run_dir is not None and enabled:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = RunFile(run_dir / "train.log", encoding="utf-8")
        file.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers.append(file)
        for held in [handler for handler in logging.getLogger(PROJECT[0]).handlers if isinstance(handler, Held)]:
            for record in held.records:
                file.handle(record)
    for name in PROJECT:
        logger = logging.getLogger(name)
        for old in [handler for handler in logger.handlers if getattr(handler, "of_the_run", False)]:
            logger.removeHandler(old)
            old.close()
        for handler in handlers:
            vars(handler)["of_the_run"] = True
            logger.addHandler(handler)
        logger.setLevel(logging.INFO if enabled else logging.WARNING)
