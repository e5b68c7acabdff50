"""Builders by name. A name is declared once, with a decorator: `grep -rn '"fcos"'` finds it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from shared.errors import UsageError
from shared.recipes.nearest import suggest
from shared.recipes.offers import checked

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

    def variants(self, table: dict[str, dict[str, Any]], **facts: Any) -> Callable[[B], B]:
        """Decorator: register one builder under several names, each with defaults of its own.

        Args:
            table: name -> values: defaults of the builder's options, and facts of the name.
            facts: of all names.
        """

        def offer(build: B) -> B:
            parameters = inspect.signature(build).parameters
            for name, row in table.items():
                variant = partial(build, **{key: value for key, value in row.items() if key in parameters})
                variant.__module__, variant.__doc__ = build.__module__, build.__doc__  # where `list` looks
                own = {key: value for key, value in row.items() if key not in parameters}
                self(name, **facts, **own)(variant)
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

    def check(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """The options as values of their types.

        Raises:
            UsageError: an unknown name or option, a value of another type, or a number out of range.
        """
        known = {option: str(parameter.annotation) for option, parameter in self.options(name).items()}
        return checked(self.kind, name, options, known)

    def build(self, name: str, /, *args: Any, **options: Any) -> T:
        """Build by name. Raises UsageError as `check` does."""
        return self.builder(name)(*args, **self.check(name, options))
