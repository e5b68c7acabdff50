"""Training against validation: the classes of both."""

from __future__ import annotations

import numpy as np

from detection.doctor.reading import Read
from shared.errors import plural
from shared.findings import Sheet
from shared.text import folded

BOTH = "training and validation"


def examine_classes_of_both(train: Read, val: Read, trained: np.ndarray, evaluated: np.ndarray, sheet: Sheet) -> None:
    """Add findings about classes that are listed, annotated or numbered differently.

    Args:
        trained, evaluated: (A,) bool: the objects of training and validation.
    """
    there = val.table.categories
    with_objects = set(np.unique(train.table.category_ids[trained]).tolist())
    asked = np.unique(val.table.category_ids[evaluated]).tolist()
    same = {number: same_class(name, train.table.categories) for number, name in there.items()}
    strange = [there[number] for number in asked if not same[number]]
    what = f"{plural(len(strange), 'class')} of validation not listed in training"
    sheet.add("class-not-in-training", BOTH, what, len(strange), strange)
    if with_objects:  # else the training file has worse, which is said
        unlearned = [there[number] for number in asked if same[number] and not same[number] & with_objects]
        what = f"{plural(len(unlearned), 'class')} of validation without an object in training"
        sheet.add("class-not-learned", BOTH, what, len(unlearned), unlearned)
    moved = [(number, name) for number, name in there.items() if same[number] and number not in same[number]]
    what = f"{plural(len(moved), 'class')} with another id in validation than in training"
    words = [f"'{name}' is {min(same[number])} and {number}" for number, name in moved]
    sheet.add("class-order", BOTH, what, len(moved), words)


def same_class(name: str, categories: dict[int, str]) -> set[int]:
    """Ids of the categories of that name, else of those that differ in case and blanks alone."""
    exact = {number for number, other in categories.items() if other == name}
    return exact or {number for number, other in categories.items() if folded(other) == folded(name)}
