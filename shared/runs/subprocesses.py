"""A command in a process of its own, which is asked to stop when this one is.

    SIGTERM or SIGUSR1 here -> the same signal there -> it saves its state and ends with 75 -> its exit code

Without that, a scheduler that ends this process would leave the other one training. Ctrl-C needs nothing: a terminal
sends it to both.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)


def run_logged(command: Sequence[str], log: Path) -> int:
    """Run a command with its output added to a file -> its exit code, negative for the signal that ended it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        other = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        with other, passed_on(other):
            return other.wait()


@contextmanager
def passed_on(other: subprocess.Popen) -> Iterator[None]:
    """Signals that ask this process to stop go to the other one; in the main thread, which alone may set handlers."""

    def pass_on(number: int, _: Any) -> None:
        other.send_signal(number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, pass_on) for number in PASSED_ON if main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
