"""What a registry offers, read from the source of its package: names, options, their types. Nothing is imported.

    @detector("fcos", ...)                              offers.options("fcos")
    class FCOS(Detector):                        ->     {"width": Option("Width", "channels of the pyramid"), ...}
        def __init__(self, ..., *, width: Width = 256)

So a misspelled option, or one of another network, is answered before torch is imported. A contract test compares this
with what the registries say.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import UsageError
from shared.recipes.nearest import suggest
from shared.recipes.values import convert, hint_of

SHOWN = 6  # names to list in a message


class Option(NamedTuple):
    """annotation: its type as it is written. help: its line in the docstring, or ''."""

    annotation: str
    help: str


class Offer(NamedTuple):
    """options: own ones by name. like: the name whose options it has as well."""

    options: dict[str, Option]
    like: str | None


class Offers:
    """The names of a registry and their options.

    Args:
        package: the package of the registry, such as "detection.nets".
        kind: the decorator that offers a name there, such as "detector"; also the word for messages.
    """

    def __init__(self, package: str, kind: str) -> None:
        self.package, self.kind = package, kind

    @cached_property
    def table(self) -> dict[str, Offer]:
        """{name: Offer} of every page of the package."""
        spec = find_spec(self.package.partition(".")[0])
        root = Path((spec.submodule_search_locations or [""])[0] if spec else "")
        folder = root.joinpath(*self.package.split(".")[1:])
        found: dict[str, Offer] = {}
        for page in sorted(folder.glob("*.py")):
            found |= self._offered_by(ast.parse(page.read_text(encoding="utf-8")))
        return found

    def _offered_by(self, page: ast.Module) -> dict[str, Offer]:
        found: dict[str, Offer] = {}
        for node in page.body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == self.kind:
                    like = next((ast.literal_eval(k.value) for k in call.keywords if k.arg == "like"), None)
                    found[ast.literal_eval(call.args[0])] = Offer(_options(node), like)
                elif isinstance(call, ast.Call) and ast.unparse(call.func) == f"{self.kind}.variants":
                    table = _literal(page, ast.unparse(call.args[0]))
                    found |= dict.fromkeys(table, Offer(_options(node), None))
        return found

    def options(self, name: str) -> dict[str, Option]:
        """The options of a name. Raises UsageError for an unknown name; the nearest one is suggested."""
        if name not in self.table:
            names = sorted(self.table)
            raise UsageError(f"no {self.kind} '{name}'{suggest(name, names)}; `list` shows all {len(names)}")
        offer = self.table[name]
        return {**self.options(offer.like), **offer.options} if offer.like else dict(offer.options)

    def all_options(self) -> dict[str, Option]:
        """The options of all names together, by option."""
        together: dict[str, Option] = {}
        for name in sorted(self.table):
            together = {**self.options(name), **together}
        return together

    def having(self, option: str) -> list[str]:
        """The names that have this option."""
        return [name for name in sorted(self.table) if option in self.options(name)]

    def check(self, name: str, given: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
        """Options as values of their types.

        Args:
            strict: refuse unknown names and options; otherwise they are left as they are.

        Raises:
            UsageError: an unknown name, an option it does not have, another type, or a number out of range.
        """
        if not strict and name not in self.table:
            return dict(given)
        known = {option: about.annotation for option, about in self.options(name).items()}
        if not strict:
            typed = {option: value for option, value in given.items() if option in known}
            return {**given, **checked(self.kind, name, typed, known)}
        for option in given:
            others = self.having(option)
            if option not in known and others:
                listing = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if others[SHOWN:] else "")
                raise UsageError(
                    f"--{option.replace('_', '-')} is an option of {listing}, not of {self.kind} '{name}', "
                    f"which has {', '.join(known) or 'none'}; remove it, or choose another {self.kind}"
                )
        return checked(self.kind, name, given, known)


def checked(kind: str, name: str, given: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    """Options as values of their types.

    Args:
        kind, name: whose options they are, for messages.
        given: option -> value, of YAML or of a command line.
        known: option -> its type as it is written.

    Raises:
        UsageError: an unknown option, another type, or a number out of range.
    """
    values: dict[str, Any] = {}
    for option, value in given.items():
        if option not in known:
            raise UsageError(
                f"{kind} '{name}' has no option '{option}'{suggest(option, known)}; it has {', '.join(known) or 'none'}"
            )
        hint = hint_of(known[option])
        values[option] = value if hint is None else convert(value, hint, f"{kind} '{name}': {option}")
    return values


def _options(node: ast.FunctionDef | ast.ClassDef) -> dict[str, Option]:
    """The keyword-only parameters of a function, or of a class's __init__, with their lines of the docstring."""
    build: ast.stmt = node
    if isinstance(node, ast.ClassDef):
        build = next(part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__")
    assert isinstance(build, ast.FunctionDef)
    lines = dict(_described(ast.get_docstring(node) or ""))
    return {
        a.arg: Option(ast.unparse(a.annotation) if a.annotation else "", lines.get(a.arg, ""))
        for a in build.args.kwonlyargs
    }


def _described(docstring: str) -> Iterator[tuple[str, str]]:
    """(parameter, description) of each entry below `Args:`."""
    below = docstring.partition("Args:")[2]
    for entry in re.split(r"\n    (?=\w+: )", below):
        name, colon, text = entry.strip().partition(": ")
        if colon and name.isidentifier():
            yield name, " ".join(text.split("\n\n")[0].split()).rstrip(".")


def _literal(page: ast.Module, name: str) -> dict[str, Any]:
    """The value of a table of literals at the top of a page."""
    for node in page.body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if target is not None and ast.unparse(target) == name and node.value is not None:  # type: ignore[union-attr]
            return ast.literal_eval(node.value)  # type: ignore[union-attr]
    raise ValueError(f"there is no table {name} of literals with a type")
