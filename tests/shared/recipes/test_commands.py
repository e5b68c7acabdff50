"""Commands are collected from the commands.py pages of a package, and dispatched by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.recipes.commands import collect, program

PAGE = """
from shared.recipes.commands import Command

def run(argv):
    print("{name} ran with", argv)
    return {code}

COMMANDS = {{"{name}": Command("what {name} does", run)}}
"""


def write_page(package: Path, room: str, name: str, code: int = 0) -> None:
    folder = package / room
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.py").write_text(PAGE.format(name=name, code=code))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An importable package of its own for each test, without commands."""
    folder = tmp_path / f"rooms_of_{request.node.name.partition('[')[0]}"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_command_is_found_in_any_room(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_page(package, ".", "list")
    write_page(package, "one/room", "pack", code=3)
    assert collect(package.name).keys() == {"list", "pack"}
    main = program("toy", package.name, first=("pack",))
    assert main(["pack", "a", "--b"]) == 3
    assert "pack ran with ['a', '--b']" in capsys.readouterr().out
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    assert usage.index("what pack does") < usage.index("what list does"), "first ones first"
    assert main([]) == 2


def test_an_unknown_command_is_answered_with_the_nearest(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_page(package, "room", "pack")
    assert program("toy", package.name)(["pakc"]) == 2
    assert "toy: no command 'pakc', did you mean 'pack'?" in capsys.readouterr().err


def test_two_commands_of_one_name_are_refused(package: Path) -> None:
    write_page(package, "one", "pack")
    write_page(package, "two", "pack")
    with pytest.raises(ValueError, match="declares the command 'pack' a second time"):
        collect(package.name)
