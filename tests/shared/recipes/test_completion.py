"""A shell completes every command and flag of both programs, and the values of flags that have a few."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from detection.cli import main as detect
from pretrain.cli import main as pretrain
from shared.recipes.commands import collect
from shared.recipes.completion import SHELLS, script, spelled
from shared.recipes.flags import Parser

MAINS = {"detect": ("detection", detect), "pretrain": ("pretrain", pretrain)}
ODD = 'it\'s 5 %% of $HOME: `none`, \\ "all"'


def check(shell: str, text: str, folder: Path) -> None:
    """The shell, where it is installed, reads the script without complaint."""
    (folder / "script").write_text(text)
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(folder / "script")], check=True)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("program", MAINS)
def test_every_command_and_every_flag_is_in_the_script(
    program: str, shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, main = MAINS[program]
    assert main(["--print-completion", shell]) == 0
    told = capsys.readouterr().out
    for name, command in collect(package).items():
        assert name in told
        for flag in command.flags().flags() if command.flags is not None else ():
            assert (f"-l {flag[2:]}" if shell == "fish" and flag.startswith("--") else flag) in told
    check(shell, told, tmp_path)


def test_bash_completes_commands_flags_values_and_leaves_files_to_itself(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "detection", "--print-completion=bash"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "numpy"} & {row.rpartition("|")[2].strip() for row in told.stderr.splitlines()}
    asked = ("detect tr", "detect predict a --sav", "detect predict a --save ''", "detect predict a", "detect none -")
    then = 'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _detect; echo "${COMPREPLY[*]}"'
    lines = [f"COMP_WORDS=({words}); {then}" for words in asked]
    (tmp_path / "tried.sh").write_text("\n".join([told.stdout, *lines]))
    answered = subprocess.run(["bash", str(tmp_path / "tried.sh")], capture_output=True, text=True, check=True)
    assert answered.stdout.splitlines() == ["train", "--save", "results coco", "", ""] and not answered.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_help_with_any_sign_stays_text(shell: str, tmp_path: Path) -> None:
    parser = Parser(prog="odd run")
    parser.add_argument("--level", "-l", choices=[1, 2], help=ODD)
    parser.add_argument("what", choices=["this", "that"])
    told = script(shell, "odd", {"run": spelled(ODD, parser)})
    assert "this that" in told
    check(shell, told, tmp_path)


@pytest.mark.parametrize("words", [[], ["powershell"], ["bash", "more"]])
def test_another_shell_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert detect(["--print-completion", *words]) == 2
    assert "takes bash, zsh or fish" in capsys.readouterr().err
