"""A COCO file read to its end: the checks at the door, all of what they refuse, and what is left in columns.

    instances.json -> the same pages as in training -> a finding for each kind of refusal
                                                    -> CocoTable of the rest, and where each row stands in the file

What is refused here would stop a training run at the first of its kind.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations.annotation_rows import TAKEN, Rows, repeated
from detection.data.annotations.coco_json import CocoTable, loaded, read_image, wrong_category
from detection.data.annotations.json_values import category_id, read_json_bytes, whole_number
from detection.data.annotations.keypoints import read_skeletons
from detection.data.annotations.lvis import list_columns, rarity
from detection.data.annotations.turning import upright_column
from shared.errors import DataError, plural
from shared.findings import Sheet

SENTENCES = {
    "annotation-id-twice": "{} an id that another one has",
    "annotation-without-image": "{} of images that are not listed",
    "category-not-listed": "{} a category that is not listed",
    "mask": "{} a mask that cannot be",
    "keypoints": "{} keypoints that cannot be",
}


class Read(NamedTuple):
    """What can be used of a file.

    table: its columns.
    ids: (A,) int64: annotation ids, by row of the table.
    places: (A,) int64: where in the list 'annotations', by row of the table.
    dropped: where in the lists 'images' and 'annotations' the entries are that were refused, and why, by kind.
    """

    table: CocoTable
    ids: np.ndarray
    places: np.ndarray
    dropped_images: list[int]
    dropped: dict[str, list[int]]

    def named(self, rows: np.ndarray) -> list[str]:
        """'annotation 7 of image 2' for some rows."""
        table = self.table
        return [f"annotation {self.ids[row]} of image {table.image_ids[table.image_of[row]]}" for row in rows[:100]]


class EveryRow(Rows):
    """Rows that remember what they refuse, and go on.

    places: of the annotations that were taken, among all.
    refused: (place, sentence) of the others.
    miscounted: ids, by place, of those whose num_keypoints is not the number of their labeled keypoints.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, None)
        self.places, self.refused, self.seen = array("q"), [], 0
        self.miscounted: dict[int, int] = {}

    def __call__(self, entry: dict[str, Any]) -> Any:
        if "image_id" not in entry or "bbox" not in entry:
            return entry
        self.take(entry)
        return TAKEN

    def take(self, entry: Any) -> None:
        place, self.seen = self.seen, self.seen + 1
        try:
            super().take(entry)
        except DataError as refusal:
            self.refused.append((place, str(refusal)))
            return
        self.places.append(place)
        points = entry.get("keypoints") if "num_keypoints" in entry else None
        if points and sum(seen > 0 for seen in points[2::3]) != entry["num_keypoints"]:
            self.miscounted[place] = self.ids[-1]


def read_file(path: Path, where: str, sheet: Sheet) -> Read | None:
    """Read a COCO file; None if nothing of it can be used."""
    try:
        top, rows, digest = parsed(path)
    except DataError as refusal:
        sheet.refused("file", where, refusal)
        return None
    images, columns_of_images = usable_images(top["images"], path, where, sheet)
    dropped_images = sorted({*range(len(top["images"]))} - {*images}) if len(images) < len(top["images"]) else []
    categories = usable_categories(top["categories"], path, where, sheet)
    if not images or not categories:
        sheet.add("file", where, f"{path} has no {'image' if categories else 'category'} that can be used")
        return None
    try:
        skeletons, _ = read_skeletons([entry for entry in top["categories"] if category_id(entry) in categories], path)
    except DataError as refusal:
        sheet.refused("skeleton", where, refusal)
        skeletons = {}
    ids, sizes, names = zip(*columns_of_images, strict=True)
    dropped: dict[str, list[int]] = {}
    if rows.refused:
        dropped["annotation-entry"] = [place for place, _ in rows.refused]
        words = [
            sentence.partition(f"{path}: ")[2].removesuffix("; correct or remove it") for _, sentence in rows.refused
        ]
        sheet.add("annotation-entry", where, f"{have(len(words))} a value that cannot be", len(words), words)

    known_bad = {whole_number(top["images"][n].get("id")) for n in dropped_images if isinstance(top["images"][n], dict)}

    def collect(kind: str, bad: np.ndarray, say: Callable[[int], str]) -> None:
        dropped.setdefault(kind, []).extend(rows.places[row] for row in bad.tolist())
        if kind == "annotation-without-image":  # those of an entry that cannot be used are not wrong as well
            bad = np.array([row for row in bad.tolist() if rows.images[row] not in known_bad], np.int64)
        words = [f"annotation {rows.ids[row]} {say(row)}" for row in bad[:100].tolist()]
        known = SENTENCES.get(kind, "{} a value that cannot be")
        sheet.add(kind, where, known.format(have(len(bad), of="of images" in known)), len(bad), words)

    kept = [top["images"][n] for n in images]
    columns = rows.columns(categories, np.array(ids, np.int64), np.array(sizes, np.int32), skeletons, collect)
    places = np.array(rows.places, np.int64)[rows.order]
    words = [f"annotation {rows.miscounted[place]}" for place in places.tolist() if place in rows.miscounted]
    what = f"{have(len(words))} a num_keypoints that is not the number of labeled keypoints"
    sheet.add("keypoint-count", where, what, len(words), words)
    table = CocoTable(
        path,
        digest,
        image_ids=np.array(ids, np.int64),
        sizes=np.array(sizes, np.int32),
        file_names=np.array(names),
        upright=quietly(lambda: upright_column(kept, path), None),
        **quietly(lambda: list_columns(kept, path), {}),
        **rarity([entry for entry in top["categories"] if isinstance(entry, dict)]),
        **columns,
    )
    own = np.array(rows.ids, np.int64)[rows.order]
    return Read(table, own, places, dropped_images, dropped)


def have(count: int, *, of: bool = False) -> str:
    """'3 annotations have', or 'are'."""
    verb = ("is" if count == 1 else "are") if of else ("has" if count == 1 else "have")
    return f"{plural(count, 'annotation')} {verb}"


def quietly(read: Callable[[], Any], otherwise: Any) -> Any:
    """What a check gives, or something else where it refuses."""
    try:
        return read()
    except DataError:
        return otherwise


def parsed(path: Path) -> tuple[dict[str, Any], EveryRow, str]:
    """The JSON, its annotations, moved into columns as they are parsed where the list holds nothing else, and its
    sha256."""
    text, digest = text_of(path)
    rows = EveryRow(path)
    top = loaded(text, path, rows)
    if rows.seen != len(top["annotations"]) or any(entry is not TAKEN for entry in top["annotations"]):
        rows, top = EveryRow(path), loaded(text, path, None)
        for entry in top["annotations"]:
            rows.take(entry)
    return top, rows, digest


def text_of(path: Path) -> tuple[str, str]:
    """The text of a JSON file and the sha256 of its bytes, which are not kept: they are as large as all the rest."""
    raw = read_json_bytes(path, "the annotations", "a COCO JSON")
    try:
        return raw.decode(json.detect_encoding(raw), "surrogatepass"), hashlib.sha256(raw).hexdigest()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not readable JSON ({error}); it may be damaged or truncated") from None


def usable_images(
    entries: list[Any], path: Path, where: str, sheet: Sheet
) -> tuple[list[int], list[tuple[int, tuple[int, int], bytes]]]:
    """Places in the list 'images' of entries that can be used, and (id, (height, width), file name) of each."""
    good: list[int] = []
    read: list[tuple[int, tuple[int, int], bytes]] = []
    wrong: list[str] = []
    for number, entry in enumerate(entries):
        try:
            read.append(read_image(entry, number, path))
        except DataError as refusal:
            wrong.append(str(refusal).removeprefix(f"{path}: ").removesuffix("; correct or remove it"))
            continue
        good.append(number)
    what = "1 image is listed in a way" if len(wrong) == 1 else f"{len(wrong):,} images are listed in a way"
    sheet.add("image-entry", where, f"{what} that cannot be used", len(wrong), wrong)
    column = np.array([image_id for image_id, _, _ in read], np.int64)
    again = repeated(column)
    doubled = [f"image id {image_id}" for image_id in dict.fromkeys(column[again].tolist())]
    sheet.add("image-id-twice", where, f"{plural(len(doubled), 'image id')} listed twice", len(doubled), doubled)
    kept = np.flatnonzero(~again).tolist()
    listed = Counter(read[i][2] for i in kept)
    twice = [name.decode(errors="replace") for name, count in listed.items() if count > 1]
    sheet.add("image-listed-twice", where, f"{plural(len(twice), 'file name')} of several images", len(twice), twice)
    return [good[i] for i in kept], [read[i] for i in kept]


def usable_categories(entries: list[Any], path: Path, where: str, sheet: Sheet) -> dict[int, str]:
    """{id: name} of the categories that can be used."""
    names: dict[int, str] = {}
    for entry in entries:
        fault = wrong_category(entry, names)
        category = category_id(entry)
        if fault is not None:
            sheet.add(fault[0], where, fault[1].partition(";")[0])
        if category is not None and category not in names:  # its annotations are not wrong as well
            names[category] = str(entry.get("name") or f"category {category}")
    return names
