"""Tasks that outlive the program that sent them write no more once another has begun, or theirs has ended."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shared.errors import DataError
from shared.feeding import turns
from shared.feeding.turns import Lapsed, at_work, turn


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"LOOK": 0.0, "SEEN": 0.0, "PATIENCE": 0.2}.items():
        monkeypatch.setattr(turns, name, seconds)


def test_tasks_of_a_turn_work_together_until_it_ends(tmp_path: Path) -> None:
    with turn(tmp_path) as word, at_work(tmp_path, word) as one, at_work(tmp_path, word) as other:
        one()
        other()
    with pytest.raises(Lapsed), at_work(tmp_path, word):
        pass


def test_a_task_of_a_killed_program_ends_when_the_next_begins(tmp_path: Path) -> None:
    killed = turn(tmp_path)
    word = killed.__enter__()  # and it never gets to the end
    begun, ended = threading.Event(), threading.Event()

    def task() -> None:
        with pytest.raises(Lapsed), at_work(tmp_path, word) as look:
            begun.set()
            while True:
                look()
        ended.set()

    thread = threading.Thread(target=task)
    thread.start()
    assert begun.wait(20)
    turns.PATIENCE = 20.0
    with turn(tmp_path) as next_word:
        assert ended.wait(20) and next_word != word
    thread.join()


def test_a_task_that_does_not_end_keeps_the_packing_from_being_finished(tmp_path: Path) -> None:
    said = "still writes into .*, and run the same command again, finished shards are kept"
    with pytest.raises(DataError, match=said), turn(tmp_path) as word:
        stuck = at_work(tmp_path, word)
        stuck.__enter__()
    assert not (tmp_path / "turn").exists()
    stuck.__exit__(None, None, None)
    with turn(tmp_path):
        pass


def test_a_folder_that_is_not_there_is_nobodys_turn(tmp_path: Path) -> None:
    with pytest.raises(Lapsed), at_work(tmp_path / "of another disk", "word"):
        pass
