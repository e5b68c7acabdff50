"""`pretrain list` and `detect list`: what is on offer, a line each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from shared.errors import UsageError
from shared.recipe import recipe_headline, recipe_names
from shared.registry import Registry, suggest


def show(what: str, offers: dict[str, Callable[[], list[str]]]) -> int:
    """Print one catalogue, or all of them."""
    if what != "all" and what not in offers:
        raise UsageError(
            f"nothing called '{what}' to list{suggest(what, list(offers))}; there is {', '.join(offers)}, all"
        )
    for name in offers if what == "all" else [what]:
        lines = offers[name]()
        print(f"{name} ({len(lines)})")
        for line in lines:
            print(f"  {line}")
    return 0


def builders(registry: Registry) -> list[str]:
    """Every name of a registry with its first words and what it can be told."""
    lines = []
    for name in registry.names():
        options = [f"{n}={p.default}" for n, p in registry.options(name).items()]
        words = (inspect.getmodule(registry.builder(name)).__doc__ or "").strip().splitlines()[0]  # type: ignore[union-attr]
        lines.append(f"{name:<16} {words}")
        needs = getattr(registry.builder(name), "needs", None)
        if needs:
            lines.append(f"{'':<16} needs: {needs}")
        if options:
            lines.append(f"{'':<16} {' '.join(options)}")
    return lines


def recipes(folder: str) -> list[str]:
    return [f"{name:<40} {recipe_headline(folder, name)}" for name in recipe_names(folder)]


def weights(root: Path) -> list[str]:
    """Every export, newest last: what finds it, when it was made, how good it is."""
    from shared.store import Store

    lines = []
    for exported in Store(root).all():
        card = exported.card
        headline = " ".join(f"{k} {v:.4f}" for k, v in list(card.metrics.items())[:1])
        made = datetime.fromtimestamp(card.created).strftime("%Y-%m-%d %H:%M")
        state = "" if card.finished else " (kept on the way)"
        lines.append(
            f"{card.arch:<28} {card.tag}@{exported.digest[:6]:<8} epoch {card.epoch:<4} {made}  {headline}{state}"
        )
    return lines
