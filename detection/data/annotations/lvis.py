"""LVIS's additions to COCO JSON: what is known to be absent, what is not annotated one by one, how frequent it is.

    image     neg_category_ids             -> absent: categories that were looked for and are not there
              not_exhaustive_category_ids  -> unfinished: categories of which not every object is annotated
              coco_url                     -> its path in the COCO folder: train2017/000000391895.jpg
    category  frequency, image_count       -> r, c, f: at most 10, at most 100, more training images have it

Of a category that has no object in an image and is in neither list, nothing is known. Version 1 has no file_name, and
version 0.5 has names of COCO 2014, so images are found by their URL, in train2017/ and val2017/.

Gupta, Dollar, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", 2019.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.json_values import category_id, whole_number
from shared.errors import DataError, plural
from shared.feeding.columns import Ragged

LISTS = {"absent": "neg_category_ids", "unfinished": "not_exhaustive_category_ids"}  # column -> key of an image
FREQUENCIES = ("r", "c", "f")  # rare, common, frequent
MOST_IMAGES = (10, 100)  # training images of a rare category, and of a common one
VERSIONS = ("v1", "v0.5")


def place_of(image: Mapping[str, Any]) -> str | None:
    """The path in the COCO folder of an image of LVIS, by its URL; None for images of other files."""
    url = image.get("coco_url")
    if not isinstance(url, str) or not url:
        return None
    ours = not image.get("file_name") or any(key in image for key in LISTS.values())
    return "/".join(url.split("/")[-2:]) if ours else None


def list_columns(images: list[Any], path: Path) -> dict[str, Ragged | None]:
    """The columns `absent` and `unfinished` of the list 'images', as category ids; None where no image has the list.

    Raises:
        DataError: some images have a list and others do not, or it holds something else than whole numbers.
    """
    columns: dict[str, Ragged | None] = {}
    for column, key in LISTS.items():
        values = [image.get(key) for image in images]
        if all(value is None for value in values):
            columns[column] = None
            continue
        for image, value in zip(images, values, strict=True):
            if value is None:
                raise DataError(f"{path}: image {image['id']} has no {key}, which other images have; add it, or []")
        columns[column] = Ragged.of(_ids(value, image, key, path) for image, value in zip(images, values, strict=True))
    return columns


def _ids(value: Any, image: dict[str, Any], key: str, path: Path) -> list[int]:
    if isinstance(value, list):
        ids = [whole_number(each) for each in value]
        if None not in ids:
            return ids  # pyright: ignore[reportReturnType]
    shown = json.dumps(value)[:60]
    raise DataError(f"{path}: image {image['id']} has the {key} {shown}, where a list of category ids belongs")


def as_labels(column: Ragged, labels: Mapping[int, int]) -> Ragged:
    """Category ids -> labels; categories without one are left out.

    Args:
        labels: {category id: label}.
    """
    known = np.array(sorted(labels), np.int64)
    place = np.searchsorted(known, column.values).clip(max=len(known) - 1)
    found = column.only(known[place] == column.values)
    of_known = np.array([labels[i] for i in known.tolist()], np.int64)
    return Ragged(of_known[np.searchsorted(known, found.values)], found.ends)


def lists_of(columns: Mapping[str, Ragged | None], row: int) -> dict[str, list[int]]:
    """The lists of an image as LVIS's fields; none where the columns are None."""
    return {LISTS[name]: column[row].tolist() for name, column in columns.items() if column is not None}


def rarity(entries: Iterable[Any]) -> dict[str, Any]:
    """`frequency` and `image_count` of a list of categories, as {category id: value}; None if a category lacks it."""
    entries = list(entries)
    frequency = {category_id(entry): entry.get("frequency") for entry in entries}
    counts = {category_id(entry): whole_number(entry.get("image_count")) for entry in entries}
    known = frequency and all(value in FREQUENCIES for value in frequency.values())
    counted = counts and all(value is not None and value >= 0 for value in counts.values())
    return {"frequency": frequency if known else None, "image_count": counts if counted else None}


def frequency_of(images: int) -> str:
    """r, c or f: the frequency of a category that so many training images have."""
    return FREQUENCIES[int(np.searchsorted(MOST_IMAGES, images))]


def frequencies(frequency: Mapping[int, str] | None, image_count: Mapping[int, int] | None) -> dict[int, str]:
    """{category id: r, c or f}: as the file says, else by its counts; empty if it says neither."""
    return dict(frequency or {i: frequency_of(count) for i, count in (image_count or {}).items()})


def check_lists(absent: Ragged | None, unfinished: Ragged | None, path: Path) -> None:
    """Raise DataError unless an annotation file has the two lists of LVIS."""
    if absent is None and unfinished is None:
        raise DataError(
            f"{path} is not an LVIS file: its images have no {' and no '.join(LISTS.values())}; "
            "remove --dataset lvis, or give annotations such as lvis_v1_val.json"
        )
    for column, key in ((absent, LISTS["absent"]), (unfinished, LISTS["unfinished"])):
        if column is None:
            raise DataError(f"{path}: its images have no {key}, without which LVIS's rules cannot be followed; add it")


def is_lvis(path: Path) -> DataError:
    """The error for an LVIS file that was not called one."""
    return DataError(
        f"{path} is an LVIS file, of whose categories each image has annotations for a few only; add --dataset lvis to "
        "follow LVIS's rules, or --dataset coco to take whatever is not annotated for absent"
    )


def folders_of(names: np.ndarray) -> Counter[str]:
    """(I,) utf-8 paths -> how many images are in each top folder."""
    return Counter(name.decode().partition("/")[0] for name in names if b"/" in name)


def check_training(folders: Counter[str], path: Path) -> None:
    """Raise DataError if a file of training images also names images of val2017, on which LVIS and COCO validate."""
    held_out, others = folders["val2017"], folders.total() - folders["val2017"]
    if held_out and others:
        raise DataError(
            f"{path} is to be trained on, and {held_out:,} of its {plural(folders.total(), 'image')} are in val2017/, "
            "which LVIS and COCO validate on; give the training file, or skip those images with --ignore-file"
        )
