"""What was read from a file is taken from its columns as long as the file is the same, and never afterwards."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.feeding import kept as page
from shared.feeding import unchanged
from shared.feeding.kept import MAGIC, kept


@dataclass(frozen=True)
class Part:
    values: np.ndarray


@dataclass(frozen=True)
class Whole:
    path: Path
    numbers: np.ndarray
    names: np.ndarray
    part: Part | None
    by_id: dict[int, str]
    words: tuple[tuple[str, float], ...] = ()
    more: list[Any] = field(default_factory=list)


KINDS = (Whole, Part)


@pytest.fixture(autouse=True)
def small_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "SMALL", 0)
    monkeypatch.setattr(unchanged, "RECENT", -1.0)  # times are remembered at once
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Reader:
    """Reads the number in a file, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def __call__(self) -> Whole:
        self.count += 1
        number = float(self.path.read_text())
        return Whole(
            self.path,
            np.full((2, 3), number),
            np.array([b"a.jpg", b"bcd.jpg"]),
            Part(np.array([True, False])),
            {7: "seven", -1: "\u00e9"},
            (("nose", 0.1), ("eye", float("inf"))),
            [None, 1, "x"],
        )

    def open(self, kinds: Any = KINDS) -> Whole:
        return kept(self.path, "boxes", self, kinds)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    path = tmp_path / "data" / "file.json"
    path.parent.mkdir()
    path.write_text("1.5")
    return Reader(path)


def test_a_value_comes_back_as_it_was(reader: Reader) -> None:
    first, again = reader.open(), reader.open()
    assert reader.count == 1 and sorted(p.name for p in reader.path.parent.iterdir()) == [
        "file.json",
        "file.json.boxes.columns",
        "file.json.seen",
    ]
    for name in ("numbers", "names"):
        one, other = getattr(first, name), getattr(again, name)
        assert one.dtype == other.dtype and np.array_equal(one, other)
    assert again.part is not None and again.part.values.tolist() == [True, False]
    for name in ("path", "by_id", "words", "more"):
        assert getattr(first, name) == getattr(again, name) and type(getattr(first, name)) is type(getattr(again, name))


@pytest.mark.parametrize("keep_times", [False, True])
def test_another_content_of_the_same_size_and_time_is_read_anew(reader: Reader, keep_times: bool) -> None:
    reader.open()
    was = reader.path.stat()
    reader.path.write_text("2.5")
    if keep_times:  # as cp -p and rsync -t do
        os.utime(reader.path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert reader.open().numbers[0, 0] == 2.5 and reader.count == 2
    assert reader.open().numbers[0, 0] == 2.5 and reader.count == 2, "and its columns replace the others"


def test_the_same_content_written_again_is_recognized(reader: Reader) -> None:
    reader.open()
    reader.path.write_text("1.5")
    os.utime(reader.path, (1, 1))
    assert reader.open().numbers[0, 0] == 1.5 and reader.count == 1


def test_a_file_that_was_just_written_is_looked_at_each_time(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a tick of the file system's clock, another content has the same times."""
    monkeypatch.setattr(unchanged, "RECENT", 1e6)
    reader.open()
    assert not (reader.path.parent / "file.json.seen").exists()
    status = reader.path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **_: frozen if self == reader.path else os.stat(self))
    frozen = status()
    reader.path.write_text("2.5")
    assert reader.open().numbers[0, 0] == 2.5


def test_a_file_that_changes_while_it_is_read_is_not_kept(reader: Reader) -> None:
    def slow() -> Whole:
        value = reader()
        time.sleep(0.02)
        reader.path.write_text("2.5")
        return value

    assert kept(reader.path, "boxes", slow, KINDS).numbers[0, 0] == 1.5
    assert reader.open().numbers[0, 0] == 2.5


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "magic"])
def test_damaged_columns_are_made_anew(reader: Reader, damage: str) -> None:
    reader.open()
    columns = reader.path.parent / "file.json.boxes.columns"
    data = columns.read_bytes()
    columns.write_bytes({"cut": data[:-9], "other": b"x" * 99, "empty": b"", "magic": MAGIC}[damage])
    assert reader.open().numbers[0, 0] == 1.5 and reader.count == 2
    assert reader.open() is not None and reader.count == 2


def test_columns_of_other_classes_or_another_version_are_made_anew(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.open()

    @dataclass(frozen=True)
    class Part(globals()["Part"]):
        added: int = 0

    reader.open((Whole, Part))
    assert reader.count == 2
    reader.open()
    monkeypatch.setattr(page, "VERSION", 99)
    reader.open()
    assert reader.count >= 3


def test_a_folder_that_cannot_be_written_keeps_nothing_and_the_cache_does(reader: Reader, tmp_path: Path) -> None:
    for name in ("file.json.boxes.columns", "file.json.seen"):  # a folder cannot be replaced by a file
        (reader.path.parent / name).mkdir()
    reader.open()
    assert reader.open().numbers[0, 0] == 1.5 and reader.count == 1
    assert len(list((tmp_path / "cache").rglob("*.columns"))) == 1


def test_small_files_and_values_that_do_not_fit_are_read_each_time(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        reader.open((Whole,))
    assert reader.count == 2
    monkeypatch.setattr(page, "SMALL", 100)
    for _ in range(2):
        reader.open()
    assert reader.count == 4 and not list(reader.path.parent.glob("*.columns"))


def test_a_missing_file_is_reported_by_its_reader(reader: Reader) -> None:
    reader.path.unlink()
    with pytest.raises(FileNotFoundError, match=r"file\.json"):
        reader.open()
