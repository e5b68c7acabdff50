"""Signals that ask a run to stop: it saves, says how to go on, and ends.

SIGTERM, SIGUSR1    exit code 75: a scheduler asked; start the run again with --resume
SIGINT (Ctrl-C)     exit code 130: a person asked; a second one ends the run without saving
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from shared.errors import Interrupted, Stopped

NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")


class StopRequest:
    """A context in which the signals set `asked` instead of ending the process; the old handlers return afterwards.

    In another thread than the main one, which alone may set handlers, signals do what they did before.
    """

    def __init__(self) -> None:
        self.asked: str | None = None  # the signal's name
        self.idle: Callable[[], str] | None = None  # while the state needs no saving: a signal stops at once, with this
        self.old: dict[str, Any] = {}

    def __enter__(self) -> Self:
        for name in NAMES if threading.current_thread() is threading.main_thread() else ():
            number = getattr(signal, name)
            if name == "SIGINT" and signal.getsignal(number) == signal.SIG_IGN:
                continue  # jobs in the background of a shell must not end with those in front
            self.old[name] = signal.signal(number, self.take)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name, handler in self.old.items():
            signal.signal(getattr(signal, name), signal.SIG_DFL if handler is None else handler)

    def take(self, number: int, _: Any) -> None:
        self.asked = signal.Signals(number).name
        if self.idle is not None:
            raise self.stopped(self.idle())
        if self.asked == "SIGINT":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(
                1, b"\nstopping after this step, to save; Ctrl-C again stops without saving\n"
            )  # print may be busy

    def at(self, step: int, total: int, *, saved: int, command: str) -> str:
        """The message of a run that was asked to stop.

        Args:
            saved: the step of the last saved state; 0 for none.
            command: the command that continues the run.
        """
        where = f"stopped by {self.reason} at step {step} of {total}"
        if saved == step:
            return f"{where}; the state is saved, continue with `{command}`"
        if saved:
            return f"{where}; the state of step {saved} is saved, continue with `{command}`"
        return f"{where}; nothing is saved yet, since streamed shards are saved at epoch ends; start the run again"

    @property
    def reason(self) -> str:
        return "Ctrl-C" if self.asked == "SIGINT" else "a signal"

    def stopped(self, sentence: str) -> Stopped:
        """The error that ends the run."""
        return Interrupted(sentence) if self.asked == "SIGINT" else Stopped(sentence)
