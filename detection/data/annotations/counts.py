"""Images and objects of each category of a COCO, Objects365 or LVIS file.

    annotations -> (image, category), two integers each, as the file is parsed -> counts by category, sorted by id

LVIS calls a category rare, common or frequent by the images of its training set; a file that says so is believed, and
so are files that were cut out of it. For other files the word follows from the images of the file itself.
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.coco_json import read_categories
from detection.data.annotations.json_values import read_json_bytes, whole_number
from detection.data.annotations.subsets import parsed
from shared.errors import DataError, plural

RARE, COMMON = 10, 100  # at most so many images have a rare, or a common, category
WORDS = {"r": "rare", "c": "common", "f": "frequent"}
NONE = -(2**62)  # no id


def count_categories(path: Path) -> list[dict[str, Any]]:
    """The file's categories by id, each with the `image_count` and `instance_count` of this very file.

    All annotations count, crowds as well. Other keys of a category, such as LVIS's `frequency`, are kept.

    Raises:
        DataError: it is not a COCO file, or an annotation has a category that it does not list.
    """
    images, categories = array("q"), array("q")

    def count(entry: dict[str, Any]) -> bool:
        for column, name in ((images, "image_id"), (categories, "category_id")):
            value = whole_number(entry.get(name))
            column.append(NONE if value is None or abs(value) >= -NONE else value)
        return False

    top, total = parsed(read_json_bytes(path, "the annotations", "a COCO JSON"), path, count)
    if not isinstance(top.get("categories"), list):
        raise DataError(f"{path} has no list 'categories'; give annotations of objects ('instances')")
    names = read_categories(top["categories"], path)
    # what the parser took for annotations and were not are before them
    of_image, of_category = (np.array(column, np.int64)[len(column) - total :] for column in (images, categories))
    unlisted = np.setdiff1d(of_category, list(names))
    if len(unlisted):
        what = "no integer category_id" if unlisted[0] == NONE else f"category {unlisted[0]}, which it does not list"
        raise DataError(f"{path} has an annotation with {what}; give annotations of objects ('instances')")
    pairs = np.unique(np.column_stack((of_category, of_image)), axis=0)[:, 0] if total else of_category
    counted = []
    for entry in sorted(top["categories"], key=lambda entry: whole_number(entry["id"]) or 0):
        category = whole_number(entry["id"])
        numbers = {"image_count": pairs == category, "instance_count": of_category == category}
        counted.append({**entry, **{name: int(mine.sum()) for name, mine in numbers.items()}})
    return counted


def rarity(category: dict[str, Any]) -> str:
    """'rare', 'common' or 'frequent', as the file says, else by its images."""
    images = category["image_count"]
    word = "r" if images <= RARE else "c" if images <= COMMON else "f"
    return WORDS.get(category.get("frequency", word), "")


def table_of(counted: list[dict[str, Any]], path: Path) -> list[str]:
    """Lines to print: a category each, then which have no object."""
    rows = [("id", "images", "objects", "", "name")]
    rows += [(str(c["id"]), f"{c['image_count']:,}", f"{c['instance_count']:,}", rarity(c), c["name"]) for c in counted]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    lines = ["  ".join(row[k].rjust(widths[k]) if k < 3 else row[k].ljust(widths[k]) for k in range(4)) for row in rows]
    lines = [f"{line}  {row[4]}" for line, row in zip(lines, rows, strict=True)]
    kinds = [rarity(c) for c in counted]
    parts = ", ".join(f"{kinds.count(word)} {word}" for word in WORDS.values())
    by = "as the file says" if any("frequency" in c for c in counted) else "by the images of this file"
    objects = sum(c["instance_count"] for c in counted)
    lines.append(f"{plural(objects, 'object')} of {len(counted)} categories in {path}: {parts}, {by}")
    empty = [c["name"] for c in counted if not c["instance_count"]]
    if empty:
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        lines.append(f"{len(empty)} of {len(counted)} categories have no object here: {', '.join(empty[:10])}{more}")
    return lines
