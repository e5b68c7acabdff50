"""Other names for a trained detector that is told its classes: --vocabulary of `detect eval` and `detect predict`.

eval      classes of the annotation file -> each bound to a name of the vocabulary, by name -> the network's names
          what the network calls 0, 1, ... is then the class of the file that it was bound to
predict   "zebra,traffic cone" -> looked up -> the network's names, and category ids 1, 2, ...
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from detection.data.annotations.aliases import read_aliases
from detection.data.annotations.classes import ClassMap
from detection.data.coco import CocoDetection
from detection.training.vocabularies import check_asked, pairs
from detection.vocabulary.lookup import find_vocabulary, for_classes, is_model
from detection.vocabulary.names import Names
from detection.vocabulary.table import Vocabulary
from shared.errors import WeightsError, plural

if TYPE_CHECKING:
    from detection.inference.trained import Trained

log = logging.getLogger(__name__)
LISTED = 5  # unbound names in a line


def vocabularies_of(trained: Trained) -> list[Vocabulary]:
    """The vocabularies that a detector was trained with, one for each data set.

    Raises:
        UsageError: it is not told its classes by name.
        WeightsError: its card names none.
    """
    check_asked(trained.exported.card.args["network"], "--vocabulary")
    if not trained.vocabularies:
        raise WeightsError(
            f"the card of {trained.exported} names no vocabulary, so none can be compared; train it again"
        )
    return trained.vocabularies


def ask_for(trained: Trained, asked: str, text_weights: Path | None = None) -> None:
    """Let a detector find the names that a person types, in that order; category ids count from 1.

    Raises:
        WeightsError: a name without a vector, or a vocabulary of another text model or width.
    """
    own = vocabularies_of(trained)
    found = find_vocabulary(
        asked,
        model=own[0].model,
        width=own[0].width,
        own=own,
        text_weights=text_weights,
        device=trained.device,
        whose=f"the weights ({trained.exported})",
    )
    log.info("looking for %s: %s", plural(len(found), "name"), pairs(found.names, found.spoken))
    tell(trained, found.vectors)
    trained.classes = ClassMap(found.names, tuple(range(1, len(found) + 1)))


def ask_for_classes(trained: Trained, data: CocoDetection, asked: str | None, text_weights: Path | None = None) -> None:
    """Let a detector find the classes of annotations. Those that have no vector in a text model or in the weights are
    never found; where names or a vocabulary are asked for, the others are no part of the evaluation.

    Args:
        asked: a vocabulary, names, or a text model for all classes; None for the weights' own vocabularies.

    Raises:
        WeightsError: no class is bound to a name, or the vocabulary is of another text model or width.
    """
    own, classes = vocabularies_of(trained), data.classes
    if asked is None:
        found = max(own, key=lambda one: sum(one.find(name) is not None for name in classes.names))
    else:
        found = for_classes(
            asked,
            Names(classes.names, classes.source_ids),
            model=own[0].model,
            width=own[0].width,
            partial=True,
            own=own,
            text_weights=text_weights,
            whose=f"the weights ({trained.exported})",
        )
    rows = bound_rows(found, classes.names)
    bound = [label for label, row in enumerate(rows) if row is not None]
    if not bound:
        raise WeightsError(
            f"none of the {plural(len(classes), 'class')} of the annotations ({', '.join(classes.names[:LISTED])}) is "
            f"among the {plural(len(found), 'name')} of the vocabulary ({', '.join(found.names[:LISTED])}); give one "
            f"with these names, or --vocabulary {found.model} to look them up"
        )
    names = [found.names[row] for row in rows if row is not None]
    log.info(
        "%d of %d classes are bound to names: %s",
        len(bound),
        len(classes),
        pairs([classes.names[label] for label in bound], names),
    )
    if len(bound) < len(classes):
        some = asked is not None and not is_model(asked)
        others = [name for name, row in zip(classes.names, rows, strict=True) if row is None]
        more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        what = "are not asked for, and no part of the evaluation" if some else "have no name, and are never found"
        log.warning("%d %s: %s%s", len(others), what, ", ".join(others[:LISTED]), more)
        if some:
            leave_out_others(data, bound)
    tell(trained, found.vectors[[row for row in rows if row is not None]])
    trained.classes = classes
    trained.task.called = torch.tensor(bound, device=trained.device) if len(bound) < len(classes) else None


def bound_rows(found: Vocabulary, names: Sequence[str]) -> list[int | None]:
    """The row of each class: of its name, else of another name of the same thing, if no class has that row already."""
    rows, aliases = [found.find(name) for name in names], read_aliases()
    for label, name in enumerate(names):
        if rows[label] is None:
            others = (found.find(other) for other in aliases.of(name))
            rows[label] = next((row for row in others if row is not None and row not in rows), None)
    return rows


def leave_out_others(data: CocoDetection, labels: Sequence[int]) -> None:
    """Take the annotations of all other classes out of a data set, so that averages are over these."""
    keep = np.isin(data.labels, labels)
    data.table, data.is_target, data.labels = data.table.only(keep), data.is_target[keep], data.labels[keep]
    data.first = np.searchsorted(data.table.image_of, np.arange(len(data) + 1))


def tell(trained: Trained, vectors: Tensor) -> None:
    """Replace the network's names by those of these vectors (C, D)."""
    net: Any = trained.task.detector
    net.vocabularies.speak([vectors.to(trained.device)])
