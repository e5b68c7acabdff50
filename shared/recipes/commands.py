"""The commands of a program, each declared in the room it belongs to.

    detection/inference/commands.py     COMMANDS = {"eval": Command("COCO AP of trained weights", evaluate), ...}
    detection/data/commands.py          COMMANDS = {"pack": ...}
            |
            v  every commands.py of the package
    program("detect", "detection")      usage, dispatch, one-sentence errors, completion in shells

A new command is an entry in its room's `commands.py`; nothing else is edited. These pages import no torch at the top,
so `--help` answers at once. Before a command runs, the installed packages are compared with the required ones.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from shared import versions
from shared.errors import UsageError, guarded
from shared.recipes.completion import script, spelled
from shared.recipes.flags import Parser
from shared.recipes.nearest import suggest
from shared.text import say

COMPLETION = "--print-completion"


class Command(NamedTuple):
    """One command of a program.

    summary: its line in the usage.
    run: takes the words after the command's name and returns the exit code.
    flags: makes the parser of those words; None if it takes none.
    """

    summary: str
    run: Callable[[list[str]], int]
    flags: Callable[[], Parser] | None = None


def collect(package: str) -> dict[str, Command]:
    """The commands of every `commands.py` below a package, by name.

    Raises:
        ValueError: two pages declare the same command.
    """
    root = importlib.import_module(package).__path__[0]
    found: dict[str, Command] = {}
    for page in sorted(Path(root).rglob("commands.py")):
        module = ".".join((package, *page.relative_to(root).with_suffix("").parts))
        own: dict[str, Command] = importlib.import_module(module).COMMANDS
        twice = found.keys() & own.keys()
        if twice:
            raise ValueError(f"{module} declares the command '{min(twice)}' a second time")
        found |= own
    return found


def program(name: str, package: str, first: Sequence[str] = ()) -> Callable[..., int]:
    """The program's `main(argv=None) -> exit code`.

    Args:
        name: what a person types, such as "detect".
        package: where its commands are declared.
        first: commands at the top of the usage, in this order; the others follow alphabetically.
    """

    @guarded(name)
    def main(argv: list[str]) -> int:
        if "--version" in argv[:2]:
            say(versions.summary())
            return 0
        commands = collect(package)
        names = [*first, *sorted(commands.keys() - {*first})]
        if not argv or argv[0] in ("-h", "--help"):
            say(*usage(name, {word: commands[word] for word in names}).splitlines())
            return 0 if argv else 2
        if argv[0].startswith(COMPLETION):
            offered = {word: spelled(commands[word].summary, flags_of(commands[word])) for word in names}
            say(*script(" ".join(argv).removeprefix(COMPLETION).strip(" ="), name, offered).splitlines())
            return 0
        if argv[0] not in commands:
            raise UsageError(f"no command '{argv[0]}'{suggest(argv[0], names)}; there is {', '.join(names)}")
        if not {"-h", "--help"} & {*argv}:
            versions.check()
        versions.ignore_known_warnings()
        try:
            return commands[argv[0]].run(argv[1:])
        except RuntimeError as error:
            refusal = versions.torchvision_without_operators(error)
            if refusal is None:
                raise
            raise refusal from error

    return main


def flags_of(command: Command) -> Parser | None:
    return None if command.flags is None else command.flags()


def usage(name: str, commands: dict[str, Command]) -> str:
    """What the program prints without a command: every command with its summary."""
    width = max(map(len, commands))
    lines = [f"  {word:<{width}}  {command.summary}" for word, command in commands.items()]
    last = f"`{name} COMMAND --help` shows the flags of each, `{name} --version` what is installed,"
    more = f"`{name} --print-completion bash` (zsh, fish) a script that completes them in the shell."
    return "\n".join([f"usage: {name} COMMAND [flags]", "", *lines, "", last, more])
