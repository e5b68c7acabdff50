"""What comes into being is kept when it is stopped, taken up by its own kind, and guarded while it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import DataError, Stopped
from shared.feeding.unfinished import shards_in, unfinished


def stopped(out: Path, word: str, shards: int) -> None:
    with unfinished(out, word) as partial:
        for number in range(shards):
            (partial / "shards" / f"{number}.tar").write_text("")
        raise KeyboardInterrupt


def test_finished_shards_wait_for_the_next_packing_of_the_same(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="2 finished shards kept, run the same command again"):
        stopped(tmp_path / "out", "one", 2)
    with (
        pytest.raises(DataError, match="unfinished packing of other images or with other options"),
        unfinished(tmp_path / "out", "other"),
    ):
        pass
    with unfinished(tmp_path / "out", "one") as partial:
        assert shards_in(partial) == 2
        (partial / "shards").replace(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_without_a_finished_shard_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        stopped(tmp_path / "out", "one", 0)
    assert not list(tmp_path.iterdir())


def test_two_packings_of_one_folder_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.feeding.unfinished.PATIENCE", 0.0)
    with (
        unfinished(tmp_path / "out", "one"),
        pytest.raises(DataError, match="another packing is writing"),
        unfinished(tmp_path / "out", "one"),
    ):
        pass
