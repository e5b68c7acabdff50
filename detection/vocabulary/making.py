"""`detect vocabulary`: what a person asks for -> one file, and lines about what is in it.

names -> a matrix given for them                                     --from
      -> a text model that is here, for every name                   --text-weights, minilm, random:0
      -> the vectors that come with the program                      neither
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import torch
import torch.nn.functional as F

from detection.vocabulary.lookup import find_vocabulary
from detection.vocabulary.names import read_names
from detection.vocabulary.shipped import shipped
from detection.vocabulary.speaking import vectors_of
from detection.vocabulary.table import Vocabulary, check_output, from_matrix
from detection.vocabulary.text_models import read_templates
from shared.errors import UsageError, plural
from shared.text import folded, plain, say

SHOWN = 6  # names in a line
EVERY = 10  # seconds between lines of progress


@dataclass(frozen=True)
class Wish:
    """The flags of `detect vocabulary`."""

    names: tuple[str, ...]
    model: str
    matrices: tuple[Path, ...] = ()
    text_weights: Path | None = None
    templates: Path | None = None
    gelu: bool = False
    width: int = 512
    source: str = ""
    license: str = ""


def make(wish: Wish, output: Path, device: torch.device) -> list[str]:
    """Make the vocabulary and write it; lines that say what it holds.

    Raises:
        UsageError: the output exists or ends otherwise, or sentences are given where no text model speaks.
        DataError, WeightsError: see `find_vocabulary` and `from_matrix`.
    """
    check_output(output)
    parts = [of_one(wish, number, device) for number in range(len(wish.names))]
    made = reduce(Vocabulary.join, parts)
    made.write(output)
    lines = [f"{plural(len(made), 'name')} with vectors of {made.width} numbers, of {made.model}, in {output}"]
    if len(parts) > 1 and len(made) < sum(map(len, parts)):
        lines.append(
            f"{plural(sum(map(len, parts)) - len(made), 'name')} that others equal by letters and digits left out"
        )
    otherwise = [f"{n}: {said}" for n, said in zip(made.names, made.spoken, strict=True) if folded(said) != folded(n)]
    if otherwise:
        more = ", ..." if len(otherwise) > SHOWN else ""
        lines.append(f"{len(otherwise)} told to the text model in other words: {', '.join(otherwise[:SHOWN])}{more}")
    return [*lines, *nearest_pairs(made)]


def of_one(wish: Wish, number: int, device: torch.device) -> Vocabulary:
    """The vocabulary of one of the lists of names."""
    found = read_names(wish.names[number])
    templates = read_templates(wish.templates) if wish.templates else ()
    if isinstance(found, Vocabulary):
        if wish.matrices:
            raise UsageError(f"{wish.names[number]} has vectors of its own; give --from for lists of names only")
        return found
    if wish.matrices:
        return from_matrix(
            wish.matrices[number],
            found.names,
            model=wish.model,
            source_ids=found.source_ids,
            source=wish.source or wish.matrices[number].name,
            license=wish.license,
            templates=templates,
        )
    if wish.text_weights is None and shipped(wish.model) is not None:
        if templates:
            raise UsageError(
                "--templates is for a text model that speaks them; add --text-weights, or --text-model minilm"
            )
        whose = f"--text-model {wish.model}"
        return find_vocabulary(found, model=wish.model, whose=whose)
    return vectors_of(
        wish.model,
        found.names,
        weights=wish.text_weights,
        device=device,
        width=wish.width,
        gelu=wish.gelu,
        source_ids=found.source_ids,
        templates=templates,
        progress=Told(),
    )


class Told:
    """Prints how many names are done, every ten seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            say(f"{done} of {total} names")


def nearest_pairs(made: Vocabulary, most: int = 3) -> list[str]:
    """A line about the names that the text model takes for most alike; none for one name."""
    if len(made) < 2:
        return []
    rows = F.normalize(made.vectors)
    best, nearest = (rows @ rows.T).fill_diagonal_(-2).max(1)
    lines: dict[frozenset[int], str] = {}
    for row in best.argsort(descending=True).tolist():
        pair = frozenset((row, int(nearest[row])))
        if plain(made.names[row]) != plain(made.names[int(nearest[row])]):
            lines.setdefault(pair, f"{made.names[row]} and {made.names[int(nearest[row])]} {best[row]:.2f}")
    mean = ((rows.sum(0).square().sum() - len(rows)) / (len(rows) * (len(rows) - 1))).item()  # of different names
    return [f"most alike: {', '.join(list(lines.values())[:most])} (cosines; {mean:.2f} on average)"]
