"""A foreign package with the name of one of ours is named in one sentence, and nothing of it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTS = {
    "detect": ["-m", "detection", "--help"],
    "pretrain": ["-m", "pretrain", "--help"],
    "chordate": ["-c", "import chordate"],
}


def started(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Python started in a folder, with ours behind it on the path."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def foreign(folder: Path, name: str) -> Path:
    """A package that leaves a mark when it is imported."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("open('ran', 'w')\n")
    return folder / name


@pytest.mark.parametrize("program", STARTS)
@pytest.mark.parametrize("name", ["shared", "backbones"])
def test_a_foreign_package_is_named_and_does_not_run(program: str, name: str, tmp_path: Path) -> None:
    theirs = foreign(tmp_path, name)
    done = started(tmp_path, STARTS[program])
    sentence = (
        f"chordate's package '{name}' is {ROOT / name}, and Python finds {theirs.resolve()} under this name; "
        "rename that one, start Python in another folder, or install chordate in an environment of its own"
    )
    assert done.returncode == 1 and not done.stdout and not (tmp_path / "ran").exists()
    last = done.stderr.splitlines()[-1]
    assert last == (f"ImportError: {sentence}" if program == "chordate" else f"{program}: {sentence}")
    assert program == "chordate" or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("program", STARTS)
def test_packages_that_hide_nothing_are_no_matter(program: str, tmp_path: Path) -> None:
    foreign(tmp_path, "recipes")
    (tmp_path / "chordate").mkdir()  # a folder without code, such as a checkout
    (tmp_path / "shared").mkdir()  # a folder without __init__.py, which hides no package
    done = started(tmp_path, STARTS[program])
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
