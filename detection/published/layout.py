"""Key layouts: how others name the tensors of detectors, and what their shapes say."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from backbones.foreign import Tensors

Rules = tuple[tuple[str, str], ...]
Options = dict[str, Any]


class Layout(NamedTuple):
    """A way of naming.

    name: in words.
    known_by: a pattern that a name of this layout matches, and no name of those below it in the table.
    network: ours.
    rules: what is replaced, in order.
    classes: the tensor with a row for each class, how many rows each has, and how many of them are of no class.
    background: whether ids count from 1, as 0 is background.
    options: what shapes say about options of our network.
    settle: what is held otherwise there, under our names already.
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
    """How many different numbers stand at a place of the names, such as those of layers."""
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})
