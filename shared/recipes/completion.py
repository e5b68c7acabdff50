"""Completion of commands, flags and their values in a shell: `detect --print-completion bash`.

    commands with their parsers -> Spelled, one for each -> a script of bash, zsh or fish, which the shell keeps

    detect tr|                   train
    detect train --min-|         --min-score, with its help in zsh and fish
    detect predict a --save |    results coco: what the flag's choices are; files where it has none

The script is text of ours alone and runs nothing but the shell's own functions, so it is as fast with torch as without.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from shlex import quote
from typing import Any, NamedTuple

from shared.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
SHOWN = 80  # letters of a flag's help


class Flag(NamedTuple):
    """A flag of a command.

    words: its spellings, such as ("--output", "-o").
    about: one line.
    takes: whether a value follows.
    values: the possible ones; () for any.
    """

    words: tuple[str, ...]
    about: str
    takes: bool
    values: tuple[str, ...]


class Spelled(NamedTuple):
    """A command: its summary, its flags, and the words that may stand without one, () for files."""

    summary: str
    flags: tuple[Flag, ...]
    words: tuple[str, ...]


def spelled(summary: str, parser: argparse.ArgumentParser | None) -> Spelled:
    """What a parser takes. Flags without help are hidden, and stay so."""
    actions = [] if parser is None else [a for a in parser._actions if a.help is not argparse.SUPPRESS]
    flags = [
        Flag(tuple(action.option_strings), line(action.help or ""), action.nargs != 0, values(action))
        for action in actions
        if action.option_strings
    ]
    words = [word for action in actions if not action.option_strings for word in values(action)]
    return Spelled(summary, tuple(flags), tuple(words))


def values(action: argparse.Action) -> tuple[str, ...]:
    """The choices of an action, those of a metavar such as {sgd,adamw} too."""
    shown: Any = action.metavar
    if action.choices is not None:
        return tuple(map(str, action.choices))
    braced = isinstance(shown, str) and shown.startswith("{") and shown.endswith("}")
    return tuple(shown[1:-1].split(",")) if braced else ()


def line(text: str) -> str:
    """The beginning of a help text, with its percent signs."""
    whole = " ".join(text.replace("%%", "%").split())
    return whole if len(whole) <= SHOWN else whole[: SHOWN - 3].rstrip() + "..."


def script(shell: str, program: str, commands: Mapping[str, Spelled]) -> str:
    """The script of a shell.

    Raises:
        UsageError: a shell that is not known.
    """
    if shell not in SHELLS:
        raise UsageError(f"--print-completion takes {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, not '{shell}'")
    return "\n".join({"bash": bash, "zsh": zsh, "fish": fish}[shell](program, commands))


def bash(program: str, commands: Mapping[str, Spelled]) -> Iterator[str]:
    """For ~/.local/share/bash-completion/completions/PROGRAM, or `source`."""
    yield f"# bash completion of {program}"
    yield f"_{program}() {{"
    yield '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" flags="" words=""'
    yield "    COMPREPLY=()"
    yield "    if ((COMP_CWORD == 1)); then"
    yield f'        COMPREPLY=($(compgen -W "{" ".join((*commands, "--help", "--version"))}" -- "$word"))'
    yield "        return"
    yield "    fi"
    yield '    case "${COMP_WORDS[1]}" in'
    for name, command in commands.items():
        yield f"    {name})"
        yield f'        flags="{" ".join(word for flag in command.flags for word in flag.words)}"'
        yield f'        words="{" ".join(command.words)}"'
        yield from cases(command, "$before", lambda flag: f'words="{" ".join(flag.values)}"', "        ")
        yield "        ;;"
    yield "    esac"
    yield '    if [[ "$word" == -* ]]; then words="$flags"; fi'
    yield '    if [[ -n "$words" ]]; then COMPREPLY=($(compgen -W "$words" -- "$word")); fi'
    yield "}"
    yield f"complete -o bashdefault -o default -F _{program} {program}"


def zsh(program: str, commands: Mapping[str, Spelled]) -> Iterator[str]:
    """For _PROGRAM in a folder of $fpath, or `source` after compinit."""
    yield f"#compdef {program}"
    yield f"_{program}() {{"
    yield "    local -a flags plain"
    yield "    if (( CURRENT == 2 )); then"
    yield f"        flags=({' '.join(described(name, one.summary) for name, one in commands.items())})"
    yield "        _describe command flags"
    yield "        return"
    yield "    fi"
    yield '    case "$words[2]" in'
    for name, command in commands.items():
        yield f"    {name})"
        yield f"        flags=({' '.join(described(w, flag.about) for flag in command.flags for w in flag.words)})"
        yield f"        plain=({' '.join(map(quote, command.words))})"
        yield from cases(
            command, "$words[CURRENT-1]", lambda f: f"plain=({' '.join(map(quote, f.values))})", "        "
        )
        yield "        ;;"
    yield "    esac"
    yield '    if [[ "$PREFIX" == -* ]]; then _describe -o flag flags'
    yield '    elif (( $#plain )); then compadd -- "${plain[@]}"'
    yield "    else _files; fi"
    yield "}"
    yield f'if [[ "$funcstack[1]" == _{program} ]]; then _{program} "$@"; else compdef _{program} {program}; fi'


def fish(program: str, commands: Mapping[str, Spelled]) -> Iterator[str]:
    """For ~/.config/fish/completions/PROGRAM.fish, or `source`."""
    yield f"# fish completion of {program}"
    for name, command in commands.items():
        yield f"complete -c {program} -n __fish_use_subcommand -f -a {name} -d {fish_quoted(command.summary)}"
    for name, command in commands.items():
        start = f"complete -c {program} -n '__fish_seen_subcommand_from {name}'"
        if command.words:
            yield f"{start} -f -a {fish_quoted(' '.join(command.words))}"
        for flag in command.flags:
            spellings = " ".join(f"-l {w[2:]}" if w.startswith("--") else f"-s {w[1:]}" for w in flag.words)
            value = f" -x -a {fish_quoted(' '.join(flag.values))}" if flag.values else " -r -F" if flag.takes else ""
            yield f"{start} {spellings}{value} -d {fish_quoted(flag.about)}"


def cases(command: Spelled, before: str, then: Any, indent: str) -> Iterator[str]:
    """The lines of a `case` over the word before: `then(flag)` for each flag with a value."""
    valued = [flag for flag in command.flags if flag.takes]
    if valued:
        yield f'{indent}case "{before}" in'
        for flag in valued:
            yield f"{indent}{'|'.join(flag.words)}) {then(flag)} ;;"
        yield f"{indent}esac"


def described(word: str, about: str) -> str:
    """A word of zsh's _describe, quoted."""
    escaped = word.replace(":", "\\:")
    return quote(f"{escaped}:{about}")


def fish_quoted(text: str) -> str:
    """Text between the single quotes of fish."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
