"""Class names, labels from 0, and category ids of annotation files. Classes are matched by name, never by id."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shared.errors import DataError
from shared.text import folded


class UnknownCategory(DataError):
    """An annotated category is not among the classes."""


@dataclass(frozen=True)
class ClassMap:
    """Names and category ids by label.

    Args:
        names: class name of label 0, 1, ...
        source_ids: category id of label 0, 1, ... in the file that is read or written.
        everything: all categories are label 0 (binary mode).
        joined: {data set: {its name of a category: the class name here}}, where names of several files were joined.
    """

    names: tuple[str, ...]
    source_ids: tuple[int, ...]
    everything: bool = False
    joined: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, values in (("name", self.names), ("category id", self.source_ids)):
            if len(set(values)) < len(values):
                raise DataError(f"two classes share the {kind} '{_first_twice(values)}'; give each its own")

    @classmethod
    def from_categories(cls, categories: Mapping[int, str]) -> ClassMap:
        """All categories of a file, sorted by id."""
        return cls(tuple(categories[i] for i in sorted(categories)), tuple(sorted(categories)))

    @classmethod
    def from_file(cls, path: Path) -> ClassMap:
        """One name per line; label k is line k + 1."""
        try:
            lines = Path(path).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"cannot read the class file {path} ({error}); give a file with one name per line"
            ) from None
        names = tuple(line.strip() for line in lines if line.strip())
        if not names:
            raise DataError(f"the class file {path} is empty; write one name per line")
        if len(set(names)) < len(names):
            raise DataError(
                f"the class file {path} has the name '{_first_twice(names)}' twice; remove one of the lines"
            )
        return cls(names, tuple(range(1, len(names) + 1)))

    @classmethod
    def binary(cls) -> ClassMap:
        """One class, 'object', for all categories."""
        return cls(("object",), (1,), everything=True)

    def __len__(self) -> int:
        return len(self.names)

    def by_id(self) -> dict[int, str]:
        """{category id: name}."""
        return dict(zip(self.source_ids, self.names, strict=True))

    def bind(self, categories: Mapping[int, str], used: Collection[int], path: Path) -> tuple[ClassMap, dict[int, int]]:
        """The same labels with the ids of another file, and that file's {category id: label}; matched by name.

        Args:
            categories: the file's {category id: name}.
            used: category ids of its annotations, which must be known classes; the others may be unknown.
        """
        if self.everything:
            return self, dict.fromkeys(categories, 0)
        labels: dict[int, int] = {}
        meant = self.meant(categories, used, path)
        for category, name in sorted(categories.items()):
            label = self.find(name if meant is None else meant.get(name, ""))
            if label is None:
                if category in used:
                    raise UnknownCategory(
                        f"{path}: category {category} '{name}' is not among the {len(self)} classes ({self._few()}); "
                        "use the same classes for training and validation, with a --class-file that lists all of them"
                    )
            elif label in labels.values():
                raise DataError(f"{path}: two categories are the class '{self.names[label]}'; merge them in the file")
            else:
                labels[category] = label
        ids = {label: category for category, label in labels.items()}
        beyond = itertools.count(max(len(self), *categories, 0) + 1)
        for label in range(len(self)):  # classes without a category in this file still need an id
            if label not in ids:
                ids[label] = next(beyond) if label + 1 in categories else label + 1
        return replace(self, source_ids=tuple(ids[label] for label in range(len(self)))), labels

    def meant(self, categories: Mapping[int, str], used: Collection[int], path: Path) -> Mapping[str, str] | None:
        """The file's names -> names here, by the joined data set that has all of them; None for names as they are.

        Raises:
            DataError: no joined data set has the names of its annotations, or two have them with other meanings.
        """
        everything, of_objects = set(categories.values()), {categories[i] for i in used}
        for names in (everything, of_objects):
            fitting = {key: {n: said[n] for n in names} for key, said in self.joined.items() if names <= said.keys()}
            if fitting:
                key, meaning = next(iter(fitting.items()))
                if any(said != meaning for said in fitting.values()):
                    sets = " and ".join(f"'{key}'" for key in fitting)
                    raise DataError(
                        f"{path}: its names mean other classes in {sets} of the class map; name the data set"
                    )
                return self.joined[key]
            if names <= {*self.names} or not self.joined:
                return None
        lacking = {key: sorted(of_objects - said.keys()) for key, said in self.joined.items()}
        key = min(lacking, key=lambda key: len(lacking[key]))
        names = _listed([f"'{name}'" for name in lacking[key]])
        raise DataError(
            f"{path}: the class map does not say what {names} of the data set '{key}' is; add it there, or make the "
            f"map from these files with `detect join-classes`"
        )

    def only(self, dataset: str) -> ClassMap:
        """The same classes, read by the names of one joined data set."""
        return replace(self, joined={dataset: self.joined[dataset]}) if dataset in self.joined else self

    def find(self, name: str) -> int | None:
        """The label of a name, or of the only one that differs in case and blanks alone; None for an unknown class."""
        if name in self.names:
            return self.names.index(name)
        plain = [folded(known) for known in self.names]
        return plain.index(folded(name)) if plain.count(folded(name)) == 1 else None

    def _few(self) -> str:
        return ", ".join(self.names[:5]) + (", ..." if len(self) > 5 else "")

    def to_dict(self) -> dict[str, Any]:
        told = {"names": list(self.names), "source_ids": list(self.source_ids), "everything": self.everything}
        return told | ({"joined": {key: dict(said) for key, said in self.joined.items()}} if self.joined else {})

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ClassMap:
        ids = saved.get("source_ids") or range(1, len(saved["names"]) + 1)
        everything, joined = bool(saved.get("everything", False)), saved.get("joined", {})
        return cls(tuple(saved["names"]), tuple(int(i) for i in ids), everything, joined)


def class_notes(classes: ClassMap, categories: Mapping[int, str], objects: Collection[int]) -> list[str]:
    """Notes about classes without an object, names that are nearly the same, and names matched in another spelling.

    Args:
        categories: {category id: name} of the annotation file.
        objects: labels of the objects there.
    """
    if classes.everything:
        return []
    notes = []
    if empty := [name for label, name in enumerate(classes.names) if label not in objects]:
        have = "has no object" if len(empty) == 1 else "have no object"
        notes.append(f"{len(empty)} of {len(classes)} classes {have}: {_listed(empty)}")
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys((*classes.names, *categories.values())):
        alike.setdefault(folded(name), []).append(name)
    twins = [pair for pair in alike.values() if len(set(pair) & set(classes.names)) > 1]
    if twins:
        pairs = _listed([" and ".join(f"'{name}'" for name in pair) for pair in twins])
        notes.append(f"classes differ in case or blanks alone: {pairs}; give them one name if they are one class")
    spelled = [(name, classes.find(name)) for name in categories.values() if name not in classes.names]
    if matched := [f"'{name}' as '{classes.names[label]}'" for name, label in spelled if label is not None]:
        notes.append(f"names are matched without case and blanks: {_listed(matched)}")
    return notes


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _first_twice(values: Iterable[Any]) -> Any:
    seen = set()
    return next(v for v in values if v in seen or seen.add(v))
