"""What is said of memory: of a process, of a machine or container, and in errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared.devices.memory import gigabytes, kilobytes, machine_memory, memory_of, process_peak, ran_out


def test_lines_of_the_system_are_read_and_missing_ones_are_none(tmp_path: Path) -> None:
    lines = tmp_path / "status"
    lines.write_text("VmPeak:\t  900 kB\nVmHWM:\t  120 kB\nThreads:\t4\n")
    assert process_peak(lines) == 120 * 1024
    assert kilobytes(lines, "VmRSS") is None and process_peak(tmp_path / "none") is None


def test_a_container_that_may_use_less_than_the_machine_counts(tmp_path: Path) -> None:
    info, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    info.write_text("MemTotal:       1000 kB\nMemFree:  10 kB\n")
    assert machine_memory(info, limit) == 1_024_000
    for text, room in (("max\n", 1_024_000), ("5000\n", 5000), ("99999999999\n", 1_024_000)):
        limit.write_text(text)
        assert machine_memory(info, limit) == room
    assert machine_memory(tmp_path / "none", tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("count", "words"), [(9_812_345_678, "9.8"), (79_100_000_000, "79.1"), (100_000_000, "0.1"), (23_400_000, "0.023")]
)
def test_gigabytes_have_two_digits_or_more(count: int, words: str) -> None:
    assert gigabytes(count) == words


def test_a_cpu_is_not_measured_and_errors_of_memory_are_known() -> None:
    assert memory_of(torch.device("cpu")) is None
    assert ran_out(torch.OutOfMemoryError("x"))
    assert ran_out(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
