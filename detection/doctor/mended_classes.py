"""Categories missing from their list, or twice in it: mended where one of both files tells what is meant.

an id that annotations have, listed by the other split's file alone -> listed, as there
                             listed by neither                      -> their annotations are left out, as unusable
an id twice, of one name, or of a name that has another id too      -> listed once
             of two names                                           -> left: which is meant?
a name twice, all else equal                                        -> one category; its annotations are renumbered
              of two supercategories or the like                    -> left: they may be two classes
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from detection.data.annotations.json_values import category_id, whole_number
from detection.doctor.changes import Changes
from shared.text import folded

Entries = list[dict[str, Any]]


def mend_classes(top: dict[str, Any], other: Callable[[], Entries], changes: Changes) -> bool:
    """Mend the list 'categories', and renumber annotations, in place; whether anything was changed.

    Args:
        other: the list of the other split's file; empty if there is none.
    """
    entries = [entry for entry in top["categories"] if category_id(entry) is not None and named(entry)]
    used = Counter(whole_number(entry.get("category_id")) for entry in top["annotations"] if isinstance(entry, dict))
    added = missing_of(entries, used, other)
    for entry in added:
        changes.done[f"annotations whose category '{entry['name']}' is now listed, as in the other file"] += used[
            category_id(entry)
        ]
    kept = once(entries, added, changes)
    kept, renumbered = merged([*kept, *added], changes)
    if not added and len(kept) == len(entries):
        return False
    strange = [entry for entry in top["categories"] if category_id(entry) is None or not named(entry)]
    top["categories"] = [*kept, *strange]
    for place, entry in enumerate(top["annotations"]):
        number = whole_number(entry.get("category_id")) if isinstance(entry, dict) else None
        if number in renumbered:
            top["annotations"][place] = {**entry, "category_id": renumbered[number]}
            changes.done["annotations moved to the first category of their name"] += 1
    return True


def named(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("name"), str) and bool(entry["name"].strip())


def missing_of(entries: Entries, used: Counter, other: Callable[[], Entries]) -> Entries:
    """Entries of the other file for ids that are used and not listed; none if both files number their classes
    differently."""
    listed: dict[int | None, str] = {}
    for entry in entries:
        listed.setdefault(category_id(entry), entry["name"])
    asked = {number for number in used if number is not None and number not in listed}
    if not asked:
        return []
    theirs = {category_id(entry): entry for entry in other() if category_id(entry) is not None and named(entry)}
    both = theirs.keys() & listed.keys()
    if not both or any(folded(theirs[number]["name"]) != folded(listed[number]) for number in both):
        return []
    return [theirs[number] for number in sorted(asked) if number in theirs]


def once(entries: Entries, added: Entries, changes: Changes) -> Entries:
    """The entries without repeated ids, where it is certain which is meant."""
    first: dict[int | None, dict[str, Any]] = {}
    numbers: dict[str, set[int | None]] = defaultdict(set)
    for entry in [*entries, *added]:
        numbers[folded(entry["name"])].add(category_id(entry))
    kept, doubtful = [], []
    for entry in entries:
        number, name = category_id(entry), folded(entry["name"])
        if number not in first:
            first[number] = entry
        elif folded(first[number]["name"]) == name or numbers[name] > {number}:
            changes.done["categories listed once instead of twice"] += 1
            continue
        else:
            doubtful.append(f"{number}: '{first[number]['name']}' or '{entry['name']}'")
        kept.append(entry)
    if doubtful:
        why = "an id of two names, and no file tells which of them its annotations are of"
        changes.leave("category-id-twice", why, doubtful)
    return kept


def merged(entries: Entries, changes: Changes) -> tuple[Entries, dict[int | None, int | None]]:
    """The entries without repeated names, where all else is equal; and {id that is gone: id of the first}."""
    first: dict[str, dict[str, Any]] = {}
    kept, renumbered, doubtful = [], {}, []
    for entry in entries:
        name = entry["name"]
        if name not in first or category_id(first[name]) == category_id(entry):
            first.setdefault(name, entry)
        elif without_id(first[name]) == without_id(entry):
            renumbered[category_id(entry)] = category_id(first[name])
            changes.done["categories of one name merged"] += 1
            continue
        else:
            doubtful.append(f"'{name}' is {category_id(first[name])} and {category_id(entry)}")
        kept.append(entry)
    if doubtful:
        why = "categories of one name that differ in something else, and may be two classes; merge or rename them"
        changes.leave("category-name-twice", why, doubtful)
    return kept, renumbered


def without_id(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "id"}
