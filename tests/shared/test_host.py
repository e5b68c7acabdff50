"""What the system tells of the memory of a process, a machine and a container."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shared.host import kilobytes, machine_memory, process_peak


def test_lines_of_the_system_are_read_and_missing_ones_are_none(tmp_path: Path) -> None:
    lines = tmp_path / "status"
    lines.write_text("VmPeak:\t  900 kB\nVmHWM:\t  120 kB\nThreads:\t4\n")
    assert process_peak(lines) == 120 * 1024
    assert kilobytes(lines, "VmRSS") is None and kilobytes(tmp_path / "none", "VmHWM") is None


def test_a_container_that_may_use_less_than_the_machine_counts(tmp_path: Path) -> None:
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    info.write_text("MemTotal:       1000 kB\nMemFree:  10 kB\n")
    assert machine_memory(info, limit) == 1_024_000
    for text, room in (("max\n", 1_024_000), ("5000\n", 5000), ("99999999999\n", 1_024_000)):
        limit.write_text(text)
        assert machine_memory(info, limit) == room
    assert machine_memory(tmp_path / "none", tmp_path / "nothing") is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no VmHWM")
def test_the_peak_is_of_this_process_and_not_of_the_one_that_started_it() -> None:
    mine = process_peak()
    told = subprocess.run(
        [sys.executable, "-c", "from shared.host import process_peak; print(process_peak())"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert mine is not None and 2**20 < int(told.stdout) < mine
