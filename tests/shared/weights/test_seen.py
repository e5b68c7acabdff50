"""Hashes of the training images beside weights: sorted, joined, and nothing where they cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.weights.seen import NAME, among, hashes_of, joined, read_seen, write_seen


def test_hashes_are_read_as_written(tmp_path: Path) -> None:
    marks = np.array([0, 2**63 + 5, 77, 2**40], np.uint64)
    own = hashes_of(marks)
    assert own.dtype == np.uint32 and own[0] == 0 and own[2] == 77 and own[3] == 2**8
    everything = joined([own, None, np.array([77, 9], np.uint32)])
    assert everything.tolist() == sorted({9, 77, 2**8, int(own[1])})
    write_seen(tmp_path, everything)
    assert (tmp_path / NAME).stat().st_size == 4 * len(everything)
    again = read_seen(tmp_path)
    assert again is not None and again.tolist() == everything.tolist()
    assert among(own, everything).tolist() == [False, True, True, True]
    assert not among(np.array([0, 1], np.uint32), everything).any()


def test_a_file_that_is_missing_cut_or_in_disorder_says_nothing(tmp_path: Path) -> None:
    assert read_seen(tmp_path) is None
    for content in (b"abc", np.array([5, 3], "<u4").tobytes()):
        (tmp_path / NAME).write_bytes(content)
        assert read_seen(tmp_path) is None
    assert not len(joined([]))
