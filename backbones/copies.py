"""Copies of a network in one checkpoint: every one is found and named, and one is taken.

    {"epoch": 9, "model": {...}, "model_ema": {...}}     -> model, model_ema
    {"state_dict": {"net.conv1.weight": ..., "ema_model.conv1.weight": ...}}  -> state_dict.net, state_dict.ema_model

A complete copy is preferred to one that lacks tensors, such as an average without running statistics; then averages
to `best`, and that to the rest. Copies of equal rank are refused until one is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from shared.errors import WeightsError
from shared.weights.card import listed

Tensors = dict[str, Tensor]
AVERAGED = re.compile(r"(^|[._])(ema|averaged|swa|target_encoder|teacher)([._]|$)")
BEST = re.compile(r"(^|[._])best([._]|$)")
# keys under which programs keep the one network they train, by preference
USUAL = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "module", "state", "encoder", "")
NO_TENSORS = "the file has no named tensors; save the network's state_dict()"


class Copy(NamedTuple):
    """One copy of a network.

    name: how the user calls it: path and prefix, such as `state_dict.ema_model`.
    path: keys of the nested dicts.
    prefix: what all its names begin with, such as `ema_model.`.
    tensors: all tensors of the dict it is in.
    lacks: number of the network's tensors it does not have.
    layout: name of its key layout.
    dropped: names of the file's tensors that renaming left out.
    """

    path: tuple[str, ...]
    prefix: str
    tensors: Tensors
    lacks: int = 0
    layout: str = "plain"
    dropped: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ".".join([*self.path, *([self.prefix.rstrip(".")] if self.prefix else [])])

    def __str__(self) -> str:
        return (self.name or "the tensors at the top") + (f" (lacks {self.lacks} tensors)" if self.lacks else "")


class Taken(NamedTuple):
    """The copy that is taken, and the sentence to print about it; empty if there is only one."""

    copy: Copy
    copies_note: str


def state_dicts(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    """(path, named tensors) of every dict with tensors, at any depth."""
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield path, tensors
        for name, value in content.items():
            yield from state_dicts(value, (*path, str(name)))
    elif isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            yield from state_dicts(value, (*path, str(number)))


def take(copies: Sequence[Copy], key: str | None, what: str) -> Taken:
    """The copy with that key, or the preferred one.

    Args:
        key: its name, or a part of it that no other has; None for the preferred one.
        what: the network, for messages.

    Raises:
        WeightsError: no copy or several have the key, or nothing says which is preferred.
    """
    if key is not None:
        fitting = [copy for copy in copies if copy.name == key] or [copy for copy in copies if has_key(copy, key)]
        if len(fitting) != 1:
            there = listed([str(copy) for copy in fitting or copies], 8)
            raise WeightsError(
                f"--checkpoint-key {key}: {'several copies have it' if fitting else 'the file has no such copy'} "
                f"of {what}; there is {there}"
            )
        return Taken(fitting[0], told(fitting[0], copies))
    ranked = sorted(copies, key=rank)
    if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
        equal = [copy for copy in ranked if rank(copy) == rank(ranked[0])]
        raise WeightsError(
            f"the file has {what} more than once, as {listed([c.prefix or c.name for c in equal], 8)}; save only the "
            f"one to import, or choose it with --checkpoint-key {equal[0].name}"
        )
    return Taken(ranked[0], told(ranked[0], ranked))


def has_key(copy: Copy, key: str) -> bool:
    return f".{key}." in f".{copy.name}."


def told(taken: Copy, copies: Sequence[Copy]) -> str:
    others = [str(copy) for copy in copies if copy is not taken]
    if not others:
        return ""
    return f"took {taken} of several copies; the file also has {listed(others, 8)}: choose with --checkpoint-key"


def rank(copy: Copy) -> tuple[int, int]:
    """Smaller is preferred."""
    if AVERAGED.search(copy.name):
        return int(copy.lacks > 0), 0
    if BEST.search(copy.name):
        return int(copy.lacks > 0), 1
    last = copy.prefix.rstrip(".").rpartition(".")[2] or (copy.path[-1] if copy.path else "")
    return int(copy.lacks > 0), 2 + (USUAL.index(last) if last in USUAL else len(USUAL))


def copies_of(
    dicts: Sequence[tuple[tuple[str, ...], Tensors]],
    wanted: set[str],
    essential: set[str],
    rename: Callable[[Tensors], tuple[str, Tensors]],
) -> list[Copy]:
    """The places in the dicts that have nearly as many of the network's parameters as the fullest one.

    Args:
        wanted: names of the network's parameters.
        essential: names of all its tensors that a complete copy has.
        rename: from the file's names to the name of a key layout and the network's names.
    """
    found = []
    for path, original in dicts:
        layout, tensors = rename(original)
        for prefix, count in prefixes(tensors, wanted).items():
            lacks = sum(prefix + name not in tensors for name in essential)
            found.append((count, Copy(path, prefix, tensors, lacks, layout)))
    most = max((count for count, _ in found), default=0)
    if most < 0.5 * len(wanted):  # another network, or other names: the fullest place is enough for the message
        found.sort(key=lambda pair: (-pair[0], rank(pair[1])[1]))
        return [copy for _, copy in found[:1]]
    return [copy for count, copy in found if count >= 0.9 * most]


def prefixes(names: Mapping[str, Any], wanted: set[str]) -> dict[str, int]:
    """{prefix: number of the network's names behind it}, such as {"module.backbone.": 161}."""
    counts: dict[str, int] = {}
    for name in names:
        for start in (0, *(match.end() for match in re.finditer(r"\.", name))):
            if name[start:] in wanted:
                counts[name[:start]] = counts.get(name[:start], 0) + 1
    return counts
