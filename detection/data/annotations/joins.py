"""One list of classes for several files: proposed by name, reviewed by a person, read for training.

    A.json, B.json -> propose -> map.yaml: names equal by letters and digits are joined,
                                           aliases (couch = sofa) are listed under `suggested` with `join: no`
    a person sets `join: yes` where both are one thing, and edits the rest
    map.yaml -> read_join -> ClassMap whose `joined` says what each data set calls its classes

Of a class that a file does not list, nothing is known in its images: see `known` in `detection.types`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.data.annotations.aliases import Aliases
from detection.data.annotations.classes import ClassMap
from detection.data.annotations.coco_json import read_categories
from detection.data.annotations.json_values import read_json_bytes
from shared.errors import DataError, UsageError, plural
from shared.recipes.files import read_yaml
from shared.text import plain

HEADER = """\
# Classes of {sets}, joined by name.
# Review this file, then train with
#   detect train --class-map {path} --datasets name={first},data_path=... name={second},data_path=...
# A line of `classes` is one class: its name, and what each data set calls it. A data set that is not in the line does
# not annotate the class: it is left out of the loss on images of that set where there is no object.
# `suggested` are other words for one thing, which names alone cannot tell: set `join: yes` where you agree.
"""


def check_set_names(names: Sequence[str]) -> None:
    """Raise UsageError unless data sets have different names of letters, digits and . _ - + @."""
    for name in names:
        if not re.fullmatch(r"[\w.+@-]+", name) or name in ("name", "join"):
            raise UsageError(f"a data set cannot be called '{name}'; give it a name of letters and digits")
        if list(names).count(name) > 1:
            raise UsageError(f"two data sets are called '{name}'; give each its own name")


def names_of(path: Path) -> list[str]:
    """Names of the categories of a COCO-like file, by id."""
    raw = read_json_bytes(path, "the annotations", "a COCO JSON")
    try:
        top = json.loads(raw, object_hook=lambda entry: None if "image_id" in entry else entry)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); it may be damaged or truncated") from None
    if not isinstance(top, dict) or not isinstance(top.get("categories"), list) or not top["categories"]:
        raise DataError(f"{path} has no list 'categories'; give annotations of objects ('instances')")
    names = read_categories(top["categories"], path)
    return [names[i] for i in sorted(names)]


def propose(sets: Mapping[str, Sequence[str]], aliases: Aliases) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """{data set: its names} -> classes, and suggested pairs, as in the file.

    Names equal by letters and digits become one class, unless a data set has several of them. It is called as in the
    first data set that has it.
    """
    entries: dict[str, dict[str, str]] = {}
    doubled = {
        word for names in sets.values() for word in map(plain, names) if sum(plain(name) == word for name in names) > 1
    }
    for key, names in sets.items():
        for name in names:
            word = plain(name) if plain(name) not in doubled else f"{key} {name}"
            entries.setdefault(word, {})[key] = name
    classes, taken = [], set()
    for words in entries.values():
        key, name = next(iter(words.items()))
        shown = name if name not in taken else f"{name} ({key})"
        taken.add(shown)
        classes.append({"name": shown, **words})
    return classes, _suggested(classes, sets, aliases)


def _suggested(classes: list[dict[str, Any]], sets: Mapping[str, Any], aliases: Aliases) -> list[dict[str, Any]]:
    """Pairs of classes of different data sets whose names are aliases; `join: False`."""
    found, keys = [], list(sets)
    for at, one in enumerate(classes):
        for other in classes[at + 1 :]:
            shared = [key for key in keys if key in one and key in other]
            pairs = [(a, b) for a in keys if a in one for b in keys if b in other]
            alike = [(a, b) for a, b in pairs if plain(one[a]) in {plain(n) for n in aliases.of(other[b])}]
            if alike and not shared:
                (a, b) = alike[0]
                found.append({"join": False, a: one[a], b: other[b]})
    return found


def write_join(path: Path, files: Mapping[str, Path], aliases: Aliases) -> list[str]:
    """Write the proposal for these files; lines to print.

    Raises:
        UsageError: the file exists.
        DataError: a file has no categories.
    """
    import yaml

    from shared.files import write_aside

    check_set_names(list(files))
    if path.exists():
        raise UsageError(f"{path} exists and is not overwritten; remove it, or give another --output")
    classes, suggested = propose({key: names_of(file) for key, file in files.items()}, aliases)
    first, second = list(files)[:2]
    text = HEADER.format(sets=" and ".join(map(str, files.values())), path=path, first=first, second=second)
    lines = [
        f"- {yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000).strip()}"
        for entry in classes
    ]
    text += "sets:\n" + "".join(f"  {json.dumps(key)}: {json.dumps(str(file))}\n" for key, file in files.items())
    text += "classes:\n" + "".join(f"{line}\n" for line in lines)
    marked = [
        yaml.safe_dump(entry, default_flow_style=True, sort_keys=False, width=10_000).strip().replace("false", "no", 1)
        for entry in suggested
    ]
    text += "suggested:\n" + "".join(f"- {line}\n" for line in marked) if marked else ""
    write_aside(path, text)
    shared = sum(len(entry) > 2 for entry in classes)
    return [
        f"{plural(len(classes), 'class')} in {path}: {shared} of several files, joined by name; "
        f"{plural(len(suggested), 'pair')} of other words for one thing suggested, none joined: review the file"
    ]


def read_join(path: Path) -> tuple[ClassMap, list[str]]:
    """The classes of a reviewed file, and notes about it.

    Raises:
        DataError: it is not such a file, or a data set's name of a class stands in two lines.
    """
    try:
        top = read_yaml(path)
    except (OSError, UsageError) as error:
        raise DataError(f"cannot read the class map {path} ({error}); make one with `detect join-classes`") from None
    sets, classes = top.get("sets"), top.get("classes")
    strange = sorted(str(key) for key in top.keys() - {"sets", "classes", "suggested"})
    if not isinstance(sets, dict) or not isinstance(classes, list) or not classes or strange:
        why = f"it has '{strange[0]}'" if strange else "it has no 'sets' and 'classes'"
        raise DataError(f"{path} is not a class map: {why}; make one with `detect join-classes`")
    keys = [str(key) for key in sets]
    lines = [_words(entry, keys, path, "name") for entry in classes]
    suggested = [_words(entry, keys, path, "join") for entry in top.get("suggested") or []]
    accepted = [entry for entry in suggested if entry.pop("join")]
    for pair in accepted:
        _merge(lines, pair, path)
    joined: dict[str, dict[str, str]] = {key: {} for key in keys}
    for entry in lines:
        for key in keys:
            if key in entry and entry[key] in joined[key]:
                raise DataError(f"{path}: '{entry[key]}' of {key} is in two lines; keep one")
            if key in entry:
                joined[key][entry[key]] = entry["name"]
    names = tuple(entry["name"] for entry in lines)
    left = len(suggested) - len(accepted)
    notes = [f"{path.name}: {plural(left, 'suggested pair')} not joined ('join: no')"] if left else []
    return ClassMap(names, tuple(range(1, len(names) + 1)), joined=joined), notes


def _words(entry: Any, keys: list[str], path: Path, own: str) -> dict[str, Any]:
    """A line of the file, checked: `name` or `join`, and names by data set."""
    kind = {"name": str, "join": bool}[own]
    good = isinstance(entry, dict) and isinstance(entry.get(own), kind) and len(entry) > 1
    if not good or not all(key == own or (key in keys and isinstance(entry[key], str)) for key in entry):
        shown = json.dumps(entry, default=str)[:80]
        raise DataError(
            f"{path}: the line {shown} needs '{own}' and what data sets of 'sets' call it, in quotes where YAML reads "
            "a name as another kind of value; correct it"
        )
    return dict(entry)


def _merge(lines: list[dict[str, Any]], pair: dict[str, str], path: Path) -> None:
    """Put the classes of an accepted pair into one line, the first of them."""
    found = [entry for key, name in pair.items() for entry in lines if entry.get(key) == name]
    if len(found) != len(pair):
        raise DataError(f"{path}: the suggested pair {pair} has a name that no line of 'classes' has; correct it")
    first = min(found, key=lines.index)
    for other in found:
        if other is first:
            continue
        twice = (first.keys() & other.keys()) - {"name"}
        if twice:
            raise DataError(f"{path}: joining {pair} gives {min(twice)} two categories of one class; keep 'join: no'")
        first |= {key: name for key, name in other.items() if key != "name"}
        lines.remove(other)
