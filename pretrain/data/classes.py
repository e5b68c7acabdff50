"""Class names of shards, and matching them by name wherever two data sets meet.

    classes.txt of every folder -> one list of names, and the number in it of each folder's labels
    training images, validation images -> validation labels numbered as in training, or a refusal

Names that differ only in case and blanks are equal. Labels without names are compared by number, never with names.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.data.splits import SPLITS
from shared.errors import DataError, plural
from shared.text import folded
from shared.weights.card import listed

log = logging.getLogger(__name__)
NAMES = "classes.txt"


def read_classes(folder: Path) -> list[str] | None:
    """Class names by label, one per line of the folder's `classes.txt`; None if there is none.

    A folder that is called like a split shares the file of the folder around it.
    """
    around = [folder.resolve().parent] if folder.resolve().name.lower() in SPLITS else []
    path = next((place / NAMES for place in (folder, *around) if (place / NAMES).is_file()), None)
    return None if path is None else names_of(path.read_bytes(), path)


def names_of(content: bytes, place: Any) -> list[str] | None:
    """The content of a `classes.txt` -> its names; None if it is empty."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{place} is not UTF-8 text; save it as UTF-8") from None
    return [line.strip() for line in text.rstrip().split("\n")] if text.strip() else None


class Joined(NamedTuple):
    """One list of class names, None if there are none, and by folder the number in it of each of the folder's labels.

    `numbers` is empty if all folders have the same list.
    """

    classes: list[str] | None
    numbers: dict[Any, np.ndarray]


def joined(lists: Mapping[Any, list[str] | None]) -> Joined:
    """Class lists of several folders or addresses -> one list: the names of the first, then new names of the others.

    Raises:
        DataError: some folders have names and others only numbers, or names are ambiguous.
    """
    given = list(lists.items())
    first = given[0][1] if given else None
    if all(names == first for _, names in given):
        if first is None and len(given) > 1:
            log.info("no %s in %s: their labels are taken to be numbered alike", NAMES, plural(len(given), "source"))
        return Joined(first, {})
    if bare := next((folder for folder, names in given if names is None), None):
        named = next(folder for folder, names in given if names is not None)
        raise DataError(
            f"{named} has class names and {bare} only label numbers, so their classes cannot be matched; put a "
            f"{NAMES} into {bare}, one name per line in the order of the labels"
        )
    classes: list[str] = []
    numbers = {}
    for folder, names in given:
        known = numbered(classes, "the sources before it")
        new = [name for name in names or () if folded(name) not in known]
        numbered(names or [], folder)
        classes = classes + new
        numbers[folder] = numbers_in(classes, names or [])
    log.info("classes of %s are joined by name: %d", plural(len(given), "source"), len(classes))
    return Joined(classes, numbers)


def numbered(classes: Sequence[str], place: Any) -> dict[str, int]:
    """{folded name: label}. Raises DataError if two classes have the same name."""
    count = Counter(map(folded, classes))
    if twice := [name for name in classes if count[folded(name)] > 1]:
        raise DataError(
            f"class '{twice[0]}' is listed twice in {place}, so classes cannot be matched by name; "
            f"give every class its own name in {NAMES}"
        )
    return {folded(name): label for label, name in enumerate(classes)}


def numbers_in(classes: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """The label in `classes` of each of `names`, int64; -1 for names that it lacks."""
    known = numbered(classes, "the class list")
    return np.array([known.get(folded(name), -1) for name in names], dtype=np.int64)


def numbered_alike(known: Any, asked: Any) -> Any:
    """The validation images `asked`, with labels numbered as those of the training images `known`.

    Raises:
        DataError: only one of them has class names, or a validation image is of a class that training does not list.
    """
    for samples in (known, asked):
        if refusal := getattr(samples, "unmatched", None):
            raise refusal
    if bool(known.classes) != bool(asked.classes):
        raise DataError(
            "one of the two data sets has class names and the other only label numbers, so they cannot be matched; "
            f"put a {NAMES} next to those shards, one name per line in the order of the labels"
        )
    if not known.classes:
        log.info("no %s: labels of training and validation are taken to be numbered alike", NAMES)
    if not known.classes or known.classes == asked.classes:
        return asked
    numbered(asked.classes, "the validation images")
    numbers = numbers_in(known.classes, asked.classes)
    if strange := [asked.classes[label] for label in np.unique(asked.labels) if numbers[label] < 0]:
        raise DataError(
            f"the training images do not have class {listed(strange)}; give two data sets with the same classes"
        )
    log.info("classes of training and validation are listed differently; matched by name")
    asked.labels = numbers[asked.labels]
    asked.classes, asked.num_classes = known.classes, len(known.classes)
    return asked


def without_images(samples: Any, count: int, classes: Sequence[str] | None) -> list[str]:
    """Names, or numbers, of the classes from 0 to `count` that no image of a data set has; [] if labels are unknown."""
    chosen = getattr(samples, "chosen", None)
    labels = getattr(samples.samples if chosen is not None else samples, "labels", None)
    if labels is None or not len(labels) or labels.min() < 0:
        return []
    present = set(np.unique(labels if chosen is None else labels[chosen]).tolist())
    return [name_of(label, classes) for label in range(count) if label not in present]


def name_of(label: int, classes: Sequence[str] | None) -> str:
    return classes[label] if classes and label < len(classes) else str(label)
