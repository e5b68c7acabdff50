"""The nearest of the known words, for messages about a word that is not one of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """', did you mean X?' for the nearest known word, or ''."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f", did you mean '{near[0]}'?" if near else ""
