"""What a person calls a list of names, and what a text model is told for each.

coco, objects365, lvis        the lists that come with the program
names.txt                     one a line
instances_val2017.json        the categories of a COCO, LVIS or Objects365 file, by id
"zebra,traffic cone"          words
coco.safetensors              a vocabulary, with its vectors

traffic_light -> traffic light       Moniter/TV -> Moniter or TV       bow_(weapon) -> bow (weapon)
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import NamedTuple

from detection.data.annotations.classes import ClassMap
from detection.data.annotations.coco_json import read_categories
from detection.data.annotations.json_values import read_json_bytes
from detection.vocabulary.table import ENDING, Vocabulary, check_names
from shared.errors import DataError
from shared.recipes.files import recipe_folder

LISTS = ("coco", "objects365", "lvis")  # files of recipes/classes
ALIKE = 0.7  # share of equal letters, from 0 to 1, of names that may be meant
MATRICES = (".npy", ".pt", ".pth")


class Names(NamedTuple):
    """Names with their category ids, if they are from annotations, and where they are from, in words."""

    names: tuple[str, ...]
    source_ids: tuple[int, ...] = ()
    origin: str = ""


def spoken(name: str) -> str:
    """The words a text model is told: no commas, blanks for + and _, `or` for /; brackets stay."""
    words = name.replace(",", "").replace("+", " ").replace("_", " ").replace("/", " or ")
    return " ".join(words.split())


def read_names(asked: str) -> Names | Vocabulary:
    """The names that a word, a list of words or a path stands for; with their vectors if it is a vocabulary's.

    Raises:
        DataError: no such file, or it has no names, an empty or a doubled one, or vectors without names.
    """
    path = Path(asked).expanduser()
    ending = path.suffix.lower()
    if ending in MATRICES:
        raise DataError(
            f"{asked} has vectors and no names; give the names in the order of its rows, and it with --from: "
            f"`detect vocabulary names.txt --from {asked}`"
        )
    if ending == ENDING:
        return Vocabulary.read(path)
    if ending in (".json", ".gz"):
        return _of_annotations(path)
    if ending == ".txt" or path.is_file():
        return Names(ClassMap.from_file(path).names, (), str(path))
    if asked in LISTS:
        return Names(ClassMap.from_file(recipe_folder() / "classes" / f"{asked}.txt").names, (), asked)
    if "/" in asked and "," not in asked and path.parent.is_dir():
        raise DataError(f"there is no file {asked}; give names, or the path of a file of them")
    return Names(check_names(word.strip() for word in asked.split(",")), (), "")


def _of_annotations(path: Path) -> Names:
    raw = read_json_bytes(path, "the categories of", "a COCO, LVIS or Objects365 JSON")
    try:
        entries = json.loads(raw)["categories"]
        if not isinstance(entries, list) or not entries:
            raise TypeError("no list of categories")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path} has no categories ({error!s:.60}); give a COCO, LVIS or Objects365 file, or one name per line in "
            "a .txt"
        ) from None
    classes = ClassMap.from_categories(read_categories(entries, path))
    return Names(check_names(classes.names), classes.source_ids, path.name)


def nearest(name: str, known: tuple[str, ...], most: int = 3) -> list[str]:
    """Known names that share words with a name or are spelled like it, the nearest first."""
    said = spoken(name).casefold()
    words = set(said.split())

    def likeness(other: str) -> float:
        theirs = spoken(other).casefold()
        shared = len(words & set(theirs.split())) / len(words)
        alike = difflib.SequenceMatcher(None, said, theirs).ratio()
        return shared + alike if shared or alike >= ALIKE else 0.0

    scored = sorted(((likeness(other), other) for other in known), key=lambda pair: -pair[0])
    return [other for score, other in scored[:most] if score]
