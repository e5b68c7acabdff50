"""Builders by the name a user types. It is written once, above what it builds: `grep -rn '"fcos"'` finds it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from shared.errors import UsageError

KINDS = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a word"),
}
T = TypeVar("T")
B = TypeVar("B", bound=Callable[..., Any])


class Registry(Generic[T]):
    """What one folder offers. A file dropped into the folder is on offer; nothing else is edited.

    Args:
        kind: what the folder holds, for error messages, such as "backbone".
        package: the folder, such as "backbones"; imported whole on the first question.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self.builders: dict[str, Callable[..., T]] = {}
        self.known: dict[str, dict[str, Any]] = {}
        self.fallback: Callable[[str], Callable[..., T] | None] = lambda name: None

    def __call__(self, name: str, **facts: Any) -> Callable[[B], B]:
        """Decorator: offer a class or a function under this name, with what is known of it before it is built."""

        def offer(build: B) -> B:
            if name in self.builders:
                raise ValueError(f"two {self.kind}s are called '{name}'")
            self.builders[name] = build
            self.known[name] = facts
            return build

        return offer

    def otherwise(self, find: Callable[[str], Callable[..., T] | None]) -> Callable[[str], Callable[..., T] | None]:
        """Decorator: offer a function that finds builders for names the folder does not list."""
        self.fallback = find
        return find

    def names(self) -> list[str]:
        """Every name the folder lists."""
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self.builders)

    def builder(self, name: str) -> Callable[..., T]:
        """The builder of that name.

        Raises:
            UsageError: there is none; the nearest name is suggested.
        """
        names = self.names()
        found = self.builders.get(name) or self.fallback(name)
        if found is None:
            raise UsageError(f"no {self.kind} '{name}'{suggest(name, names)}; `list` shows all {len(names)}")
        return found

    def facts(self, name: str) -> dict[str, Any]:
        """What stands beside the name where it is offered."""
        self.builder(name)
        return self.known.get(name, {})

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """What a builder can be told besides what it stands on: its keyword-only parameters.

        One that is offered as `like` another takes that one's as well.
        """
        parameters = inspect.signature(self.builder(name)).parameters
        own = {n: p for n, p in parameters.items() if p.kind == p.KEYWORD_ONLY}
        like = self.facts(name).get("like")
        return self.options(like) | own if like else own

    def check(self, name: str, options: dict[str, Any]) -> None:
        """Raise UsageError for an option the builder does not know, or a value that is not of its kind."""
        known = list(self.options(name))
        for option in options:
            if option not in known:
                raise UsageError(
                    f"{self.kind} '{name}' has no option '{option}'{suggest(option, known)}; "
                    f"it has {', '.join(known) or 'none'}"
                )
            wanted = KINDS.get(str(self.options(name)[option].annotation))
            if wanted and type(options[option]) not in wanted[0]:
                raise UsageError(f"{self.kind} '{name}': {option} is {options[option]!r}; give {wanted[1]}")

    def build(self, name: str, /, *args: Any, **options: Any) -> T:
        """Build by name, explaining what it can and cannot be told."""
        self.check(name, options)
        return self.builder(name)(*args, **options)


def suggest(word: str, known: list[str], *, cutoff: float = 0.6) -> str:
    """ ", did you mean 'fcos'?", or nothing when no known word is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f", did you mean '{near[0]}'?" if near else ""
