"""Key layouts: how the tensors of published detectors are named, and which options their shapes determine."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from backbones.copies import Tensors

Rules = tuple[tuple[str, str], ...]
Options = dict[str, Any]


class Layout(NamedTuple):
    """A key layout.

    name: shown to the user.
    known_by: pattern of a key that this layout has, and later layouts in the table do not.
    network: name of our network.
    rules: (pattern, replacement) pairs for the keys, applied in order.
    classes: key of the class head's weight or bias, rows per class, and classes to subtract (background, no object).
    background: True if category ids start at 1, as 0 is background.
    options: tensors by their original names -> options of our network.
    settle: adjusts renamed tensors whose rows or number differ in our network.
    """

    name: str
    known_by: str
    network: str
    rules: Rules
    classes: tuple[str, int, int]
    background: bool
    options: Callable[[Tensors], Options] = lambda tensors: {}
    settle: Callable[[Tensors], Tensors] = lambda tensors: tensors


def count_of(tensors: Tensors, pattern: str) -> int:
    """The number of distinct values of the pattern's first group in the names, such as layer indices."""
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})
