"""Digests of training images beside weights: written once, put into every export, believed only as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.weights.seen import Record, among, digests_of, keep, read_digests, together, write_digests

ABOUT = {"kind": "backbone", "arch": "tiny", "tag": "mine", "data": "shards"}


def written(folder: Path, *marks: int) -> Record:
    folder.mkdir(exist_ok=True)
    return write_digests(folder, digests_of(np.array(marks, np.uint64)), **ABOUT)


def test_rows_are_sorted_without_repetition_and_without_unknown_marks() -> None:
    marks, prints = np.array([9, 0, 2**63, 9, 4], np.uint64), np.arange(15, dtype=np.uint64).reshape(5, 3)
    rows = digests_of(marks, prints)
    assert rows.tolist() == [[4, 12, 13, 14], [9, 0, 1, 2], [2**63, 6, 7, 8]]
    assert digests_of(marks)[:, 0].tolist() == [4, 9, 2**63]


def test_digests_are_read_as_written_and_not_if_changed(tmp_path: Path) -> None:
    record = written(tmp_path, 5, 2**60, 7)
    (entry,), (path,) = record.entries, record.files
    assert (entry.images, entry.fingerprints, entry.by) == (3, 0, "tiny mine")
    assert path.name == f"seen-{entry.sha256[:12]}.npy"
    again = read_digests(entry, path)
    assert again is not None and again.tolist() == [[5], [7], [2**60]]
    assert among(np.array([0, 7, 8, 2**60], np.uint64), again).tolist() == [False, True, False, True]
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert read_digests(entry, path) is None
    path.unlink()
    assert read_digests(entry, path) is None
    assert not among(np.array([1], np.uint64), digests_of(np.zeros(0, np.uint64))).any()


def test_exports_share_a_file_that_a_copy_of_the_folder_takes_along(tmp_path: Path) -> None:
    first, second = written(tmp_path / "run", 1, 2), written(tmp_path / "run", 3)
    both = together([first, None, second, first])
    assert both is not None and len(both.entries) == 2
    (tmp_path / "export").mkdir()
    keep(both, tmp_path / "export")
    for path in both.files:
        assert (tmp_path / "export" / path.name).samefile(path)
    assert together([None]) is None
