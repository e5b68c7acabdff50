"""Builders by name. A name is declared once, with a decorator: `grep -rn '"fcos"'` finds it."""

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
    """Builders registered by the modules of one package; a new module is found without further edits.

    Args:
        kind: word for error messages, such as "backbone".
        package: the package, such as "backbones"; all its modules are imported on first use.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self.builders: dict[str, Callable[..., T]] = {}
        self.known: dict[str, dict[str, Any]] = {}
        self.fallback: Callable[[str], Callable[..., T] | None] = lambda name: None

    def __call__(self, name: str, **facts: Any) -> Callable[[B], B]:
        """Decorator: register a class or function under a name, with facts that are known without building it."""

        def offer(build: B) -> B:
            if name in self.builders:
                raise ValueError(f"two {self.kind}s are called '{name}'")
            self.builders[name] = build
            self.known[name] = facts
            return build

        return offer

    def otherwise(self, find: Callable[[str], Callable[..., T] | None]) -> Callable[[str], Callable[..., T] | None]:
        """Decorator: register a function that finds builders for other names."""
        self.fallback = find
        return find

    def names(self) -> list[str]:
        """All registered names, sorted."""
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self.builders)

    def builder(self, name: str) -> Callable[..., T]:
        """The builder of that name.

        Raises:
            UsageError: an unknown name; the nearest one is suggested.
        """
        names = self.names()
        found = self.builders.get(name) or self.fallback(name)
        if found is None:
            raise UsageError(f"no {self.kind} '{name}'{suggest(name, names)}; `list` shows all {len(names)}")
        return found

    def facts(self, name: str) -> dict[str, Any]:
        """The facts given with the name."""
        self.builder(name)
        return self.known.get(name, {})

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The options of a builder: its keyword-only parameters, and those of the builder it is `like`."""
        parameters = inspect.signature(self.builder(name)).parameters
        own = {n: p for n, p in parameters.items() if p.kind == p.KEYWORD_ONLY}
        like = self.facts(name).get("like")
        return self.options(like) | own if like else own

    def check(self, name: str, options: dict[str, Any]) -> None:
        """Raise UsageError for an unknown option or a value of another type."""
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
        """Build by name. Raises UsageError for an unknown name or option."""
        self.check(name, options)
        return self.builder(name)(*args, **options)


def suggest(word: str, known: list[str], *, cutoff: float = 0.6) -> str:
    """', did you mean X?' for the nearest known word, or ''."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    return f", did you mean '{near[0]}'?" if near else ""
