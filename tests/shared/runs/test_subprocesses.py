"""A process that is asked to stop asks the one that it started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.runs.subprocesses import run_logged

CHILD = """
import signal, sys, time
signal.signal(signal.{name}, lambda *_: (print("saved", flush=True), sys.exit(75)))
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import sys
from pathlib import Path
from shared.runs.subprocesses import run_logged
sys.exit(run_logged([sys.executable, "-c", sys.argv[1]], Path(sys.argv[2])))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_the_other_process_saves_and_its_exit_code_is_returned(name: str, tmp_path: Path) -> None:
    log, root = tmp_path / "logs" / "run.log", Path(__file__).parents[3]
    told = [sys.executable, "-c", PARENT, CHILD.format(name=name), str(log)]
    with subprocess.Popen(told, cwd=root) as parent:
        until = time.monotonic() + 60
        while not (log.is_file() and "ready" in log.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        parent.send_signal(getattr(signal, name))
        assert parent.wait(60) == 75
    assert log.read_text() == "ready\nsaved\n"


def test_output_is_added_and_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for code in (0, 3):
        assert run_logged([sys.executable, "-c", f"print({code}); exit({code})"], tmp_path / "run.log") == code
    assert (tmp_path / "run.log").read_text() == "0\n3\n"
    assert signal.getsignal(signal.SIGTERM) == before
