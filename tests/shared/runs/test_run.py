"""A run is a folder: made once, never overwritten, taken up again by --resume, owned by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detection.recipe import DetectRecipe
from shared.errors import UsageError
from shared.recipes.files import read_yaml
from shared.recipes.recipe import Resolved, RuntimeConfig, make
from shared.runs import run
from shared.runs.dry import announce_plan
from shared.runs.resume import find_run, resumed_recipe
from shared.runs.run import open_run

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def release_locks():
    yield
    while run._locks:
        run._locks.pop().close()


def runtime(folder: Path, **told: Any) -> RuntimeConfig:
    return RuntimeConfig(output_dir=folder / "runs", **told)


def opened(folder: Path, stem: str = "fcos-resnet18", values: dict[str, Any] | None = None, **told: Any) -> Path:
    recipe = make(DetectRecipe, {"lr": 0.5, **(values or {})})
    recipe = replace(recipe, runtime=runtime(folder, **told))
    return open_run(recipe.runtime, stem, Resolved(recipe, {}))


def test_new_runs_of_one_name_stand_side_by_side(tmp_path: Path) -> None:
    assert [opened(tmp_path).name for _ in range(3)] == ["fcos-resnet18", "fcos-resnet18-2", "fcos-resnet18-3"]


def test_run_keeps_the_resolved_recipe(tmp_path: Path) -> None:
    values = read_yaml(opened(tmp_path) / "recipe.yaml")
    assert values["lr"] == 0.5 and values["network"] == "faster_rcnn"
    assert make(DetectRecipe, values).optim.lr == 0.5


def test_named_run_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = opened(tmp_path, name="mine")
    before = (path / "recipe.yaml").read_bytes()
    with pytest.raises(UsageError, match="mine already exists; give another --name, or --resume .*mine"):
        opened(tmp_path, name="mine", values={"lr": 0.1})
    assert (path / "recipe.yaml").read_bytes() == before


def test_resume_alone_takes_the_newest_run_of_that_name_and_no_other(tmp_path: Path) -> None:
    for stem in ("a", "a", "a-b", "ab", "a"):
        opened(tmp_path, stem)
    newest = find_run(runtime(tmp_path, resume="newest"), "a")
    assert newest is not None and newest.name == "a-3"
    for _ in range(4, 12):
        opened(tmp_path, "a")
    newest = find_run(runtime(tmp_path, resume="newest"), "a")
    assert newest is not None and newest.name == "a-11", "eleven comes after nine"
    assert find_run(runtime(tmp_path, resume="newest"), "c") is None


@pytest.mark.parametrize("stem", ["a[b]", "a*", "a?"])
def test_names_with_glob_letters_find_themselves(tmp_path: Path, stem: str) -> None:
    opened(tmp_path, "ab")
    path = opened(tmp_path, stem)
    assert find_run(runtime(tmp_path, resume="newest"), stem) == path


def test_resume_takes_a_path_or_a_name_and_refuses_what_is_no_run(tmp_path: Path) -> None:
    path = opened(tmp_path)
    assert find_run(runtime(tmp_path, resume=str(path)), "x") == path
    assert find_run(runtime(tmp_path, resume=path.name), "x") == path
    with pytest.raises(UsageError, match="--resume nothing is not a run folder; `ls .*runs` lists"):
        find_run(runtime(tmp_path, resume="nothing"), "x")


def test_resumed_recipe_leaves_out_what_belongs_to_the_day(tmp_path: Path) -> None:
    origin, values = resumed_recipe(opened(tmp_path, name="mine"))
    assert origin == "run mine" and values["lr"] == 0.5
    assert not values.keys() & {"resume", "dry_run", "name", "output_dir"}


@pytest.mark.slow
def test_run_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    path = opened(tmp_path)
    while run._locks:
        run._locks.pop().close()
    holder = (
        "import sys; from pathlib import Path; from shared.runs.run import own; own(Path(sys.argv[1])); print('mine')"
    )
    lines = [sys.executable, "-c", holder + "; sys.stdout.flush(); sys.stdin.read()", str(path)]
    with subprocess.Popen(lines, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with pytest.raises(UsageError, match=f"is being trained by process {other.pid} on .*; wait for it, or stop it"):
            opened(tmp_path, resume=str(path))
        other.kill()
    assert opened(tmp_path, resume=str(path)) == path, "a killed process holds no run"


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(UsageError, match="cannot create a run in .*; give another --output-dir"):
        opened(tmp_path)


def test_plan_tells_every_value_and_where_it_came_from(capsys: pytest.CaptureFixture) -> None:
    recipe = make(DetectRecipe, {"lr": 0.5})
    announce_plan(Resolved(recipe, {"lr": "flag"}), ["and more"])
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["lr"] == ["lr", "0.5", "flag"] and lines["wd"] == ["wd", "0.0001", "default"] and "and" in lines
