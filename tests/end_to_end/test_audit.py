"""`audit` takes kept steps of a run again: the same bits, or the step, what differs and what may be the reason."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from shared.loop.audit import steps_to_keep
from tests.end_to_end.test_resume import COMMON, DETECT, NETWORKS, PRETRAIN, killed_after

KEEP = COMMON + "--keep-states 3 "


def test_a_random_step_of_each_part_is_kept_and_the_seed_says_which() -> None:
    assert steps_to_keep(1, 900, 3) == steps_to_keep(1, 900, 3) != steps_to_keep(2, 900, 3)
    assert [step // 300 for step in sorted(steps_to_keep(1, 900, 3))] == [0, 1, 2]
    assert steps_to_keep(0, 4, 10) == {0, 1, 2, 3} and steps_to_keep(0, 4, 0) == frozenset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audited")


@pytest.fixture
def trained(folder: Path, coco: Path, run: Callable) -> Path:
    """A folder with data, and the run of a detector with accumulation and EMA that was killed once; made once."""
    if not (folder / "coco").exists():
        shutil.copytree(coco, folder / "coco")
        words = DETECT + NETWORKS["fcos"] + KEEP + "--data-path coco --num-workers 1"
        assert run(words, cwd=folder, prepare=killed_after(9)).code < 0
        ended = run(words + " --resume", cwd=folder)
        assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def test_steps_of_a_run_come_out_the_same(trained: Path, run: Callable) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    ended = run("detect audit runs/run", cwd=trained)
    assert ended.code == 0, ended.err
    assert "3 of 3 steps replayed to the same bits" in ended.out and ended.out.count("the same bits, ") == 3
    after = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    assert {path.name for path in after.keys() - before.keys()} <= {p.name for p in trained.glob("printed-*")}
    assert all(after[path] == time for path, time in before.items()), "nothing of the run is written"
    assert "1 of 1 step replayed" in run("detect audit runs/run --steps 1", cwd=trained).out


def test_a_weight_that_was_changed_by_a_bit_is_found(copied: Path, run: Callable) -> None:
    note = min((copied / "runs/run/audit").glob("*.json"))
    told = json.loads(note.read_text())
    path = note.parent / told["state"]
    state = torch.load(path, weights_only=True)
    state["task"][first_weight(state)].view(torch.int32).flatten()[0] ^= 1
    torch.save(state, path)
    ended = run("detect audit runs/run", cwd=copied)
    assert ended.code == 1 and "is not the file that was kept, by its digest" in ended.out
    forged = path.with_name(f"{path.name[:14]}{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}.pt")
    path.rename(forged)
    note.write_text(json.dumps({**told, "state": forged.name}))
    ended = run("detect audit runs/run", cwd=copied)
    assert ended.code == 1 and "1 of 3 steps did not come out the same: step" in ended.complaint
    assert (
        "digests of weights and optimizer differ, such as task." in ended.out and ended.out.count("the same bits") == 2
    )


def first_weight(state: dict[str, Any]) -> str:
    return next(name for name, value in state["task"].items() if value.ndim == 4)


def test_a_changed_photograph_and_other_data_are_found(copied: Path, run: Callable) -> None:
    for path in (copied / "coco/train").glob("*.jpg"):
        Image.new("RGB", (64, 48), (9, 99, 199)).save(path)
    ended = run("detect audit runs/run --steps 1", cwd=copied)
    assert ended.code == 1 and "14 training images changed since" in ended.out and " then, " in ended.out
    path = copied / "coco/annotations/instances_train.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "annotations": told["annotations"][1:]}))
    ended = run("detect audit runs/run", cwd=copied)
    assert ended.code == 3 and "the training data differs" in ended.complaint


def test_other_threads_and_versions_are_named_as_reasons(copied: Path, run: Callable) -> None:
    note = min((copied / "runs/run/audit").glob("*.json"))
    told = json.loads(note.read_text())
    told["where"] |= {"torch": "2.0.0", "instructions": "OTHER"}
    told["digests"] |= dict.fromkeys([*told["digests"]][:2], "0")
    note.write_text(json.dumps(told))
    ended = run("detect audit runs/run", cwd=copied)
    assert ended.code == 1 and "2 of " in ended.out and "all losses are equal" in ended.out
    assert f"torch was 2.0.0, and is {torch.__version__}; instructions was OTHER" in ended.out
    told["where"] |= {"kind": "cuda", "device": "a GPU"}
    note.write_text(json.dumps(told))
    ended = run("detect audit runs/run --device cpu", cwd=copied)
    assert ended.code == 1 and "trained on a GPU, replayed on" in ended.out and "so no proof" in ended.complaint


def test_a_run_without_states_is_refused(trained: Path, tmp_path: Path, run: Callable) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "runs/run/recipe.yaml", tmp_path / "run")
    ended = run("detect audit run")
    assert ended.code == 2 and "train with --keep-states 5" in ended.complaint
    assert run("detect audit nothing").code == 2


def test_steps_of_a_pretraining_and_of_several_data_sets_come_out_the_same(
    shards: Path, coco: Path, run: Callable
) -> None:
    assert run(PRETRAIN + KEEP + f"--data-path {shards} --num-workers 0").code == 0
    ended = run("pretrain audit runs/run --steps 2")
    assert ended.code == 0 and "2 of 2 steps replayed to the same bits" in ended.out, ended.err
    words = f"{DETECT}{NETWORKS['fcos']}--device cpu --keep-states 2 --name two --num-workers 0 --data-path {coco}"
    classes = f"--class-file {coco / 'classes.txt'}"
    (coco / "classes.txt").write_text("disc\nsquare\n")
    ended = run(f"{words} {classes} --also name=more,data_path={coco}")
    assert ended.code == 0, ended.err
    ended = run("detect audit runs/two")
    assert ended.code == 0 and "2 of 2 steps replayed to the same bits" in ended.out, ended.err
