"""Which folders are splits, and which images are in them.

    train/<class>/..., val/<class>/...    the words of SPLITS, in any case; one folder for each split
    <class>/...                           everything is train

Folders that may be either are refused; images in other folders are left out with the reason.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from re import findall
from typing import NamedTuple

from shared.errors import DataError
from shared.weights.card import listed

SETS = ("train", "val")
SPLITS = {  # of folders and shards, by a word of their names
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
    **{"test": "test", "testing": "test"},
}
CLASS_FOLDERS = "expected FOLDER/<class>/<image> or FOLDER/train/<class>/<image>"


class Parts(NamedTuple):
    """Images of each split, the depth of the class folders, and images that are in no split, with reasons."""

    train: list[PurePosixPath]
    val: list[PurePosixPath]
    depth: int
    left_out: list[tuple[str, str]]
    notes: list[str]


class Roots(NamedTuple):
    """Folders, or loose images, at one depth.

    images: by name. split: "train", "val", "test" or "", by name. inner: names of the folders inside, by name.
    """

    images: dict[str, list[PurePosixPath]]
    split: dict[str, str]
    inner: dict[str, set[str]]
    depth: int

    def called(self, split: str) -> list[str]:
        return [root for root, word in self.split.items() if word == split]

    def is_folder(self, root: str) -> bool:
        return len(self.images[root][0].parts) > self.depth + 1


def parts_of(images: list[PurePosixPath], depth: int, name: str) -> Parts:
    """The splits among the folders at a depth.

    Raises:
        DataError: two folders for one split, or folders that may be either splits or classes.
    """
    found: dict[str, list[PurePosixPath]] = {}
    for path in images:
        found.setdefault(path.parts[depth], []).append(path)
    inner = {root: {p.parts[depth + 1] for p in paths if len(p.parts) > depth + 2} for root, paths in found.items()}
    roots = Roots(found, {root: SPLITS.get(root.lower(), "") for root in found}, inner, depth)
    trains = [root for root in roots.called("train") if inner[root]]
    return _with_splits(roots, trains, name) if trains else _classes_only(roots, name)


def _with_splits(roots: Roots, trains: list[str], name: str) -> Parts:
    vals, tests, depth = roots.called("val"), roots.called("test"), roots.depth
    for twice in (trains, vals):
        if len(twice) > 1:
            raise DataError(f"{name} has {' and '.join(twice)} for the same split; put them together or remove one")
    classes = [root for root, word in roots.split.items() if not word and roots.is_folder(root)]
    if classes and not vals and not tests:
        raise DataError(
            f"'{trains[0]}' in {name} may be a split or, like {listed(classes)}, a class; rename the class, or give "
            f"{name}/{trains[0]} to pack only what is in it"
        )
    chosen = vals or [root for root in tests if roots.inner[root]][:1]
    left_out = []
    for root, paths in roots.images.items():
        if root not in (trains[0], *chosen):
            where = f"in folder '{root}'" if roots.is_folder(root) else "in no folder"
            why = ", which has no class folders" if root in tests and not roots.inner[root] else ""
            left_out += [(str(path), f"{where} beside '{trains[0]}'{why}") for path in paths]
    notes = [f"the validation images are those of folder '{chosen[0]}'"] if chosen and chosen[0] != "val" else []
    return Parts(roots.images[trains[0]], roots.images[chosen[0]] if chosen else [], depth + 1, left_out, notes)


def _classes_only(roots: Roots, name: str) -> Parts:
    if all(roots.split.values()):
        only = listed(list(roots.images))
        raise DataError(f"{name} has {only}, but no folder train with training images; {CLASS_FOLDERS}")
    words = {root: (*findall(r"[a-z]+", root.lower()), "")[0] for root in roots.images if roots.inner[root]}
    alike = {root: SPLITS[word] for root, word in words.items() if word in SPLITS}
    if len(alike) > 1 and "train" in alike.values():
        raise DataError(f"{listed(list(alike))} in {name} look like splits; put the images into train and val")
    for root, folders in roots.inner.items():
        if {"train"} < {SPLITS.get(folder.lower()) for folder in folders} - {None}:
            raise DataError(f"'{root}' in {name} has splits inside a class; {CLASS_FOLDERS}")
        if roots.split[root] and folders & (roots.images.keys() - {root}):
            raise DataError(f"'{root}' in {name} has class folders that are beside it as well; put those into train")
    notes = [f"folder '{root}' is packed as a class" for root, word in roots.split.items() if word]
    return Parts([path for paths in roots.images.values() for path in paths], [], roots.depth, [], notes)
