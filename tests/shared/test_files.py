"""A file is whole or not there, and a disk that refuses is told in one sentence that names the path."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shared.errors import guarded
from shared.files import naming, write_aside, written_aside


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "cannot be written, since the disk is full; free some space and run the command again"),
        (errno.EROFS, "cannot be written, since its disk is read-only; give a folder on another one"),
        (errno.EACCES, "cannot be used, since permission is denied; change its permissions or give another path"),
        (errno.EDQUOT, "the disk quota is used up"),
    ],
)
def test_a_disk_that_refuses_is_one_sentence_at_the_door_and_leaves_nothing(
    number: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.json").write_text("old")

    @guarded("prog")
    def main(argv: list[str]) -> int:
        with written_aside(tmp_path / "old.json") as partial:
            partial.write_text("half")
            raise OSError(number, os.strerror(number))  # as a writer raises it: without a path

    assert main([]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"prog: {tmp_path / 'old.json'} ") and says in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["old.json"] and (tmp_path / "old.json").read_text() == "old"


def test_errors_of_safetensors_are_errors_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError) as told, naming(tmp_path / "a"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert told.value.errno == errno.ENOSPC and told.value.filename == str(tmp_path / "a")
    with pytest.raises(RuntimeError, match="another"), naming(tmp_path / "a"):
        raise RuntimeError("another")


def test_an_existing_text_is_replaced(tmp_path: Path) -> None:
    write_aside(tmp_path / "a.txt", "one")
    write_aside(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "two" and len(list(tmp_path.iterdir())) == 1
