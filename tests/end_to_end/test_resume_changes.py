"""What a resumed run may change, what it says about it, and that its records stay true."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.loop.state import load_state

RUN = "pretrain train --model test_resnet --size 32 --batch-size 8 --num-workers 0 --device cpu --name run "
SMALL = "--network fcos --width 64 --depth 1 --backbone test_resnet --size 64 --batch-size 4 -j 0 --device cpu "


def killed_in(name: str, times: int = 1) -> Callable[[], None]:
    """A fault: SIGKILL when this method of the loop is called for the n-th time."""

    def prepare() -> None:
        from shared.loop.trainer import Trainer

        method, left = getattr(Trainer, name), [times]

        def dying(self: Any, *args: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(self, *args)

        setattr(Trainer, name, dying)

    return prepare


@pytest.fixture
def finished(shards: Path, run: Callable) -> str:
    assert run(RUN + f"--epochs 2 --data-path {shards}").code == 0
    return "pretrain train --resume runs/run "


def test_a_finished_run_refuses_changes_and_says_that_it_is_finished(
    finished: str, run: Callable, left: Callable
) -> None:
    names = ("recipe.yaml", "result.json", "metrics.jsonl", "results.csv", "lineage.json")
    before = {name: (left("run").folder / name).read_bytes() for name in names}
    ended = run(finished + "--lr 0.5")
    assert ended.code == 2
    assert "is finished, at step 7 of 7, so lr " in ended.complaint
    assert "-> 0.5 would train nothing" in ended.complaint
    shorter = run(finished + "--epochs 1")
    assert shorter.code == 2
    assert "trained for 7 steps" in shorter.complaint and "--epochs 2 or more" in shorter.complaint
    again = run(finished + "--num-workers 1")
    assert again.code == 0 and "runs/run is finished, at step 7 of 7; more --epochs continue it" in again.out
    assert {name: (left("run").folder / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("changed", ["--method vicreg", "--opt adamw", "--init-tag other", "--grad-accum-steps 2"])
def test_what_a_run_cannot_change_is_refused(changed: str, finished: str, run: Callable, left: Callable) -> None:
    before = (left("run").folder / "recipe.yaml").read_bytes()
    ended = run(finished + "--epochs 3 " + changed)
    assert ended.code == 2 and changed.split()[0][2:].replace("-", "_") in ended.complaint.replace("-", "_")
    assert (left("run").folder / "recipe.yaml").read_bytes() == before


def test_a_changed_value_is_said_and_stands_in_the_recipe_and_on_the_card(
    finished: str, run: Callable, left: Callable
) -> None:
    ended = run(finished + "--epochs 3 --lr 0.5")
    assert ended.code == 0 and "from step 7 on: " in ended.out
    recipe = (left("run").folder / "recipe.yaml").read_text()
    (line,) = [line for line in recipe.splitlines() if line.startswith("# resumed at step 7: ")]
    assert "-> 0.5" in line and "epochs 2 -> 3" in line and yaml.safe_load(recipe)["lr"] == 0.5
    assert left("run").card()["recipe"]["resumed"] == [line.removeprefix("# resumed at ")]
    assert left("run").result()["step"] == 11 and left("run").result()["finished"]


def test_a_longer_run_killed_before_its_second_export_still_exports(
    finished: str, run: Callable, left: Callable
) -> None:
    first = left("run").result()["weights"]
    assert run(finished + "--epochs 3", prepare=killed_in("deliver")).code == -signal.SIGKILL
    assert left("run").result() == {**left("run").result(), "finished": False, "weights": first}
    assert run("pretrain train --resume runs/run").code == 0
    assert left("run").result()["weights"] != first and left("run").card()["epoch"] == 3


@pytest.mark.parametrize("half", ["pretrain", "detect"])
def test_an_epoch_is_saved_before_it_is_evaluated(
    half: str, shards: Path, coco: Path, run: Callable, left: Callable
) -> None:
    words = f"{RUN} --data-path {shards}"
    if half == "detect":
        words = f"detect train {SMALL} --name run --data-path {coco}"
    words += " --epochs 2 --keep-epochs 1 --log-every 1"
    assert run(words, prepare=killed_in("evaluate")).code == -signal.SIGKILL
    assert [p.name[:13] for p in (left("run").folder / "last").glob("step-*.pt")] == ["step-00000004"]
    state = load_state(left("run").folder / "last")
    assert run(words + " --resume", prepare=killed_in("deliver")).code == -signal.SIGKILL
    assert run(words + " --resume").code == 0
    assert run(words.replace("--name run", "--name whole")).code == 0
    assert left("run").rows() == left("whole").rows()
    assert left("run").state() == left("whole").state()
    assert left("run").result()["metrics"] == left("whole").result()["metrics"]
    told = left("run").card()["cost"]  # of all parts of the run
    assert state is not None and told["seconds"] >= round(state["clock"][0], 1) > 0 and told["processes"] == 1
    assert left("run").result()["cost"] == told


def test_bad_validation_data_costs_no_epoch(coco: Path, tmp_path: Path, run: Callable, left: Callable) -> None:
    import shutil

    shutil.copytree(coco, tmp_path / "coco")
    picture = next((tmp_path / "coco" / "val").glob("*.jpg"))
    content = picture.read_bytes()
    picture.write_bytes(content[:600] + b"\0" * 50)
    words = f"detect train {SMALL} --epochs 1 --name run --data-path coco"
    ended = run(words)
    assert ended.code == 3 and picture.name in ended.complaint
    picture.write_bytes(content)
    if not (left("run").folder / "last").is_dir():
        pytest.skip("the photograph was refused before the first step")
    resumed = run(words + " --resume")
    assert resumed.code == 0 and "resuming runs/run at step 4 of 4" in resumed.out
    assert json.loads((left("run").folder / "result.json").read_text())["metrics"]["box_ap"] >= 0
