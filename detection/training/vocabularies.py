"""Networks that are told their classes by name: the vectors of each data set's classes, from the recipe to the network
and its card.

    --vocabulary coco.safetensors, clip:RN50, minilm, random:0 --+-> spoken_for -> Spoken.tell -> the network
    the weights a run starts from: their text model and vectors -+               Spoken.on_card
    neither: random vectors, with which no other names can be asked for

A network is told its classes if it has the option `vocabulary_width`; the number of its classes is then no part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detection.data.annotations.classes import ClassMap
from detection.data.coco import CocoDetection
from detection.nets import Detector, detector
from detection.recipe import ModelConfig
from detection.vocabulary.lookup import for_classes
from detection.vocabulary.names import Names
from detection.vocabulary.speaking import random_seed
from detection.vocabulary.table import Vocabulary
from shared.errors import UsageError, WeightsError, plural
from shared.weights.card import Card, Exported, read_tensors

BUFFER = "vocabularies.vectors_{}"  # of a network
PAIRS = 5  # names and what they are bound to, in a line
RANDOM = "random:0"
# what a person should not take for a fault
FIRST_LOSS = (
    "every picture is a little like every name to CLIP, so loss_classifier may start above 100; it falls below 1 "
    "within some hundred steps"
)


class AskedSet(NamedTuple):
    """One data set: its name, its classes, which of them have objects, and its --vocabulary."""

    name: str
    classes: ClassMap
    seen: np.ndarray  # (C,) bool
    asked: str | None


@dataclass(frozen=True)
class Spoken:
    """The vocabularies of a training, one for each data set.

    Args:
        sets: the data sets.
        found: their vocabularies, bound to their classes.
    """

    sets: tuple[AskedSet, ...]
    found: tuple[Vocabulary, ...]

    def options(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The network's options with the width of the vectors."""
        return {**args, "vocabulary_width": self.found[0].width}

    def tell(self, net: Detector) -> None:
        """Give a network the vectors; names without an object are not drawn as negatives."""
        room: Any = net.vocabularies
        room.speak([vocabulary.vectors for vocabulary in self.found])
        room.draw_only([torch.from_numpy(one.seen) for one in self.sets])

    def on_card(self) -> list[dict[str, Any]]:
        """What the card says of each vocabulary; the vectors are in the weights."""
        return [
            {
                "set": one.name,
                "names": list(one.classes.names),
                "source_ids": list(one.classes.source_ids),
                "model": vocabulary.model,
                "digest": vocabulary.digest,
            }
            for one, vocabulary in zip(self.sets, self.found, strict=True)
        ]

    def notes(self) -> list[str]:
        """Lines for the log."""
        lines = []
        for one, found in zip(self.sets, self.found, strict=True):
            told = f"{found.model}; {pairs(found.names, found.spoken)}"
            if random_seed(found.model) is not None:
                told = "no text model; other names cannot be asked for, as they can with --vocabulary clip:RN50"
            what = f"{plural(len(found), 'name')} with vectors of {found.width} numbers"
            lines.append(f"vocabulary of {one.name}: {what}, of {told}")
        if self.found[0].model.startswith("clip"):
            lines.append(FIRST_LOSS)
        return lines


def is_told(network: str) -> bool:
    """Whether a network is told its classes by name."""
    return "vocabulary_width" in detector.options(network)


def check_asked(network: str, asked: str | None) -> None:
    """Raise UsageError for --vocabulary with a network that is not told its classes."""
    if asked and not is_told(network):
        others = [name for name in detector.names() if is_told(name)]
        raise UsageError(
            f"{network} has a fixed number of classes, and --vocabulary is for networks told theirs by name; remove "
            f"it, or use --network {' or '.join(others)}"
        )


def of_set(data: CocoDetection, name: str, asked: str | None) -> AskedSet:
    """A data set as `spoken_for` takes it."""
    counts = np.bincount(data.labels[data.is_target], minlength=len(data.classes))
    return AskedSet(name, data.classes, counts > 0, asked)


def spoken_for(sets: Sequence[AskedSet], model: ModelConfig, start: Exported | None = None) -> Spoken:
    """Find the vocabulary of each data set, bound to its classes. Sets that ask for none have that text model's which
    another set asks for, else that of `start`, else random vectors.

    Args:
        model: the network and its options.
        start: the trained detector a run starts from.

    Raises:
        WeightsError: classes without a vector, or vectors of another text model or width than those of `start` or of
            another set.
    """
    own = [] if start is None else own_vocabularies(start.card, read_tensors(start))
    known, width = (own[0].model, own[0].width) if own else (None, None)
    whose = str(start)
    found: dict[str, Vocabulary] = {}
    for one in sorted(sets, key=lambda one: one.asked is None):
        names, asked = Names(one.classes.names, one.classes.source_ids), one.asked or known or RANDOM
        if width is None and random_seed(asked) is not None:
            width = width_of(model)
        vocabulary = for_classes(asked, names, model=known, width=width, own=own, whose=whose)
        found[one.name] = vocabulary.bind(*names[:2])
        if known is None:
            known, width, whose = vocabulary.model, vocabulary.width, f"the data set {one.name}"
    return Spoken(tuple(sets), tuple(found[one.name] for one in sets))


def width_of(model: ModelConfig) -> int:
    """The width of vectors that a network is built for."""
    return model.network_args.get("vocabulary_width") or detector.options(model.network)["vocabulary_width"].default


def own_vocabularies(card: Card, tensors: Mapping[str, Tensor]) -> list[Vocabulary]:
    """The vocabularies that a detector was trained with; none for networks with classes of their own.

    Raises:
        WeightsError: the weights lack one that the card names.
    """
    found = []
    for number, entry in enumerate(card.classes.get("vocabularies", [])):
        vectors = tensors.get(BUFFER.format(number))
        if vectors is None or len(vectors) != len(entry["names"]):
            raise WeightsError(
                f"the weights of {card.arch} lack the vectors of {entry['set']}, which their card names; export them "
                "again"
            )
        ids = tuple(entry["source_ids"])
        found.append(Vocabulary(tuple(entry["names"]), vectors, entry["model"], source_ids=ids))
    return found


def pairs(names: Sequence[str], spoken: Sequence[str]) -> str:
    """'person = person, tv = tv, ...': the first classes and the words their vectors are of."""
    some = [f"{name} = {word}" for name, word in list(zip(names, spoken, strict=True))[:PAIRS]]
    return ", ".join(some) + (", ..." if len(names) > PAIRS else "")
