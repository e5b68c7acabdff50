"""`pretrain list` and `detect list`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from shared.errors import UsageError
from shared.recipes.files import recipe_headline, recipe_names
from shared.recipes.registry import Registry, suggest
from shared.text import say


def show(what: str, offers: dict[str, Callable[[], list[str]]]) -> int:
    """Print one list, or all of them."""
    if what != "all" and what not in offers:
        raise UsageError(
            f"'{what}' cannot be listed{suggest(what, list(offers))}; give one of {', '.join(offers)}, all"
        )
    for name in offers if what == "all" else [what]:
        lines = offers[name]()
        say(f"{name} ({len(lines)})", *(f"  {part}" for line in lines for part in line.split("\n  ")))
    return 0


def builders(registry: Registry) -> list[str]:
    """Every name of a registry with its summary, requirements and options; an entry each, of several lines."""
    names, entries = registry.names(), []
    wide = max(map(len, names))
    for name in names:
        build = registry.builder(name)
        lines = [f"{name:<{wide}}  {first_words(build)}"]
        needs = getattr(build, "needs", None)
        options = " ".join(f"{n}={p.default}" for n, p in registry.options(name).items())
        lines += [f"{'':<{wide}}  {more}" for more in (f"needs: {needs}" if needs else "", options) if more]
        entries.append("\n  ".join(lines))
    return entries


def first_words(build: Callable[..., object]) -> str:
    """The first line of a builder's docstring, or of its module's if the builder has none."""
    own, page = build.__doc__ or "", getattr(inspect.getmodule(build), "__doc__", None) or ""
    lines = [text.strip().partition("\n")[0] for text in (own, page)]
    return next((line for line in lines if line not in ("", "Args:")), "")


def recipes(folder: str) -> list[str]:
    names = recipe_names(folder)
    wide = max(map(len, names))
    return [f"{name:<{wide}}  {recipe_headline(folder, name)}" for name in names]


def weights(root: Path) -> list[str]:
    """Every export, newest last: name, tag, epoch, time, headline metric."""
    from shared.logs.metrics import show_metric
    from shared.weights.store import Store

    lines = []
    for exported in Store(root).all():
        card = exported.card
        headline = " ".join(f"{k} {show_metric(v)}" for k, v in list(card.metrics.items())[:1])
        made = datetime.fromtimestamp(card.created).strftime("%Y-%m-%d %H:%M")
        state = "" if card.finished else " (intermediate)"
        lines.append(
            f"{card.arch:<28} {card.tag}@{exported.digest[:6]:<8} epoch {card.epoch:<4} {made}  {headline}{state}"
        )
    return lines
