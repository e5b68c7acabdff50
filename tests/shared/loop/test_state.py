"""The training state is whole or not there: whatever happens to the disk, a run continues from the newest whole one."""

from __future__ import annotations

import errno
import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import shared.loop.state
from shared.errors import Refusal, WeightsError
from shared.loop.state import Hashing, load_state, save_state, states


def state(step: int) -> dict[str, Any]:
    return {"step": step, "task": {"weight": torch.full((64,), float(step))}, "metrics": {"ap": 0.5}, "bad": ["a.jpg"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two states, of steps 10 and 20."""
    for step in (10, 20):
        save_state(tmp_path / "last", step, state(step))
    return tmp_path / "last"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_saved_comes_back(folder: Path) -> None:
    loaded = load_state(folder)
    assert loaded is not None and torch.equal(loaded["task"]["weight"], torch.full((64,), 20.0))
    assert {k: v for k, v in loaded.items() if k != "task"} == {"step": 20, "metrics": {"ap": 0.5}, "bad": ["a.jpg"]}


def test_name_of_a_state_tells_its_step_and_its_digest(folder: Path) -> None:
    for step, path in states(folder):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        assert path.name == f"step-{step:08d}-{digest}.pt"


def test_only_the_two_newest_are_kept(folder: Path) -> None:
    for step in (30, 40):
        save_state(folder, step, state(step))
    assert [step for step, _ in states(folder)] == [40, 30]
    assert len(names(folder)) == 2


def test_no_folder_and_no_state_are_nothing_to_resume(tmp_path: Path) -> None:
    assert load_state(tmp_path / "none") is None
    assert load_state(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_newest_state_gives_way_to_the_one_before(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest = states(folder)[0][1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": bytes(content[:-100]), "flipped": bytes(content), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        loaded = load_state(folder)
    assert loaded is not None and loaded["step"] == 10
    assert f"{newest} is damaged" in caplog.text


def test_all_states_damaged_is_refused_and_not_started_over_in_silence(folder: Path) -> None:
    for _, path in states(folder):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(WeightsError, match="every training state in .* is damaged; start a new run") as told:
        load_state(folder)
    assert told.value.exit_code == 4


def test_state_saved_later_counts_among_two_of_one_step(folder: Path) -> None:
    again = save_state(folder, 20, state(20) | {"bad": ["b.jpg"]})
    loaded = load_state(folder)
    assert states(folder)[0][1] == again and loaded is not None and loaded["bad"] == ["b.jpg"]


def test_half_written_files_are_no_states_and_are_removed(folder: Path) -> None:
    (folder / ".partial-123").write_bytes(b"half")
    (folder / "step-00000099.pt").write_bytes(b"of another make")
    loaded = load_state(folder)
    assert loaded is not None and loaded["step"] == 20
    assert not list(folder.glob(".partial*"))


def test_full_disk_is_one_sentence_and_leaves_the_old_states_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(folder)

    def full(self: Hashing, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Hashing, "write", full)
    with pytest.raises(Refusal, match="cannot be written to .*; free some space and use --resume") as told:
        save_state(folder, 30, state(30))
    assert "\n" not in str(told.value) and told.value.exit_code == 1
    monkeypatch.undo()
    assert names(folder) == before
    loaded = load_state(folder)
    assert loaded is not None and loaded["step"] == 20


def test_disk_that_fails_when_flushed_leaves_the_old_states_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = names(folder)

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shared.loop.state.os, "fsync", fails)
    with pytest.raises(Refusal, match="Input/output error"):
        save_state(folder, 30, state(30))
    assert names(folder) == before


def test_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "last").write_text("in the way")
    with pytest.raises(Refusal, match="the training state cannot be written to"):
        save_state(tmp_path / "last", 1, state(1))


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("by_torch", [True, False])
def test_nothing_in_a_state_runs_though_its_digest_fits(tmp_path: Path, by_torch: bool) -> None:
    folder, marker = tmp_path / "last", tmp_path / "executed"
    save_state(folder, 10, state(10))
    forged = folder / "forged"
    if by_torch:
        torch.save({"step": Bomb(marker)}, forged)
    else:
        forged.write_bytes(pickle.dumps(Bomb(marker)))
    forged.rename(folder / f"step-00000099-{hashlib.sha256(forged.read_bytes()).hexdigest()[:12]}.pt")
    loaded = load_state(folder)
    assert loaded is not None and loaded["step"] == 10
    assert not marker.exists()
