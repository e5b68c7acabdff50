"""What is said of the memory of devices, in words and in errors."""

from __future__ import annotations

import pytest
import torch

from shared.devices.memory import gigabytes, memory_of, ran_out


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
