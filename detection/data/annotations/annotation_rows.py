"""COCO annotations become columns, one after another, each checked as it is taken.

    {"id", "image_id", "category_id", "bbox", "area", "iscrowd", ...} -> take -> columns() -> those of CocoTable

As the object hook of json, `Rows` moves an annotation into arrays as it is parsed, and drops its dict: about 70 bytes
per annotation besides the text. An area that is missing is that of the mask, else that of the box.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.json_values import EXACT, truth_value, whole_number
from detection.data.annotations.keypoints import KeypointRows
from detection.data.annotations.skeleton import Skeleton
from detection.data.masks.encoding import pixel_areas
from detection.data.masks.outlines import OutlineRows, Outlines
from shared.errors import DataError

TAKEN = object()  # placeholder in json's list for an annotation that was moved to the columns
WRONG = (KeyError, TypeError, ValueError, OverflowError)
ID_LIMITS = {"id": 2**63, "image_id": 2**63, "category_id": EXACT}  # category ids are float64 in detections
NOT_A_NUMBER = float("nan")
NUMBERS = (float, int)  # types of numbers in JSON; that of true and false is another


# kind of what is wrong, rows of the invalid annotations, and a function from row to message
Collect = Callable[[str, np.ndarray, Callable[[int], str]], None]


class Rows:
    """Annotations as growing columns.

    order: after `columns`, the annotation, in the order they were taken, of each of its rows.

    Args:
        path: for error messages.
        finds: as `read_coco` takes it.
    """

    def __init__(self, path: Path, finds: Sequence[str] | None = ()) -> None:
        self.path, self.finds, self.order = path, finds, np.zeros(0, np.int64)
        self.failed = False  # as an object hook: an object that looked like an annotation was none
        self.outlines = OutlineRows() if finds is None or "masks" in finds else None
        self.points = KeypointRows() if finds is None or "keypoints" in finds else None
        self.ids, self.images, self.category_ids = array("q"), array("q"), array("q")
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("b")
        self.area_outlines, self.area_rows = OutlineRows(), array("q")  # masks read for a missing area alone

    def __call__(self, entry: dict[str, Any]) -> Any:
        """The object hook of json: TAKEN for an annotation, other objects as they are."""
        if "image_id" not in entry or "bbox" not in entry:
            return entry
        try:
            self.take(entry)
        except DataError:
            self.failed = True
            return entry
        return TAKEN

    def take(self, entry: Any) -> None:
        """Add one annotation. Raises DataError if it is invalid; nothing is added then."""
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise DataError(f"{self.path}: annotation number {len(self.ids) + 1} has no image_id; correct or remove it")
        try:
            own_id, image, category, box, area, crowd = _plain(entry) or _checked(entry)
        except WRONG:
            raise DataError(self.complaint(entry)) from None
        numbers: Any = None
        if self.points is not None:
            numbers = self._read(entry, "keypoints", "numbers x y visibility belong", lambda v: array("d", v or ()))
        if self.outlines is not None:
            what = "polygons [[x, y, ...], ...] or an RLE of counts and size belong"
            self._read(entry, "segmentation", what, self.outlines.take)
        if self.points is not None:
            self.points.take(numbers)
        self.ids.append(own_id)
        self.images.append(image)
        self.category_ids.append(category)
        self.boxes.extend(box)
        self.areas.append(area)
        self.crowd.append(crowd)
        if self.outlines is None and not math.isfinite(area):
            self._take_area(entry.get("segmentation"))

    def _read(self, entry: dict[str, Any], key: str, what: str, read: Callable[[Any], Any]) -> Any:
        """A field by its reader. Raises DataError."""
        try:
            return read(entry.get(key))
        except WRONG:
            where = f"{self.path}: annotation {entry['id']}"
            raise DataError(f"{where} has {_shown(entry, key)} where {what}; correct or remove it") from None

    def _take_area(self, segmentation: Any) -> None:
        """Keep the mask of the last annotation, which lacks an area; one that cannot be read gives none."""
        try:
            self.area_outlines.take(segmentation)
        except WRONG:
            return
        self.area_rows.append(len(self.ids) - 1)

    def complaint(self, entry: dict[str, Any]) -> str:
        """The error message for an invalid annotation."""
        where = f"{self.path}: annotation {entry.get('id', f'number {len(self.ids) + 1}')}"
        for key in ID_LIMITS:
            try:
                _id(entry, key)
            except WRONG:
                return (
                    f"{where} has {_shown(entry, key)} where a whole number of at most "
                    f"{ID_LIMITS[key].bit_length() - 1} bits belongs; correct or remove it"
                )
        try:
            _crowd(entry)
        except WRONG:
            return f"{where} has {_shown(entry, 'iscrowd')} where 0 or 1 belongs; correct or remove it"
        if "bbox" in entry and (isinstance(entry.get("area"), bool | str | list | dict)):
            return f"{where} has {_shown(entry, 'area')} where a number belongs; correct or remove it"
        return f"{where} has {_shown(entry, 'bbox')} where four finite numbers x y w h belong; correct or remove it"

    def notes(self) -> list[str]:
        """What `columns` left out."""
        dropped = 0 if self.outlines is None else self.outlines.dropped
        what = f"polygon{' has' if dropped == 1 else 's have'} too few numbers, or an odd number of them"
        return [f"{dropped} {what}, left out beside other polygons of the same object"] if dropped else []

    def columns(
        self,
        categories: dict[int, str],
        image_ids: np.ndarray,
        sizes: np.ndarray,
        skeletons: dict[int, Skeleton],
        collect: Collect | None = None,
    ) -> dict[str, Any]:
        """The checked columns of `CocoTable`, sorted by image.

        Args:
            collect: called with all invalid annotations of a kind, which are left out then.

        Raises:
            DataError: an invalid annotation, if nothing collects them.
        """
        ids, images = np.array(self.ids, np.int64), np.array(self.images, np.int64)
        category_ids, boxes = _narrow(np.array(self.category_ids, np.int64)), np.array(self.boxes).reshape(-1, 4)
        order = np.argsort(image_ids, kind="stable")
        place = np.minimum(np.searchsorted(image_ids, images, sorter=order), len(order) - 1)
        image_of = order[place].astype(np.int32)

        dropped = np.zeros(len(ids), dtype=bool)

        def refuse(kind: str, wrong: np.ndarray, say: Callable[[int], str]) -> None:
            if not wrong.any():
                return
            if collect is None:
                row = int(wrong.argmax())
                raise DataError(f"{self.path}: annotation {ids[row]} {say(row)}; correct or remove it")
            collect(kind, np.flatnonzero(wrong & ~dropped), say)
            np.logical_or(dropped, wrong, out=dropped)

        refuse("annotation-id-twice", repeated(ids), lambda row: "has an id that appears twice")
        strange = image_ids[image_of] != images
        refuse("annotation-without-image", strange, lambda row: f"belongs to image {images[row]}, which is not listed")
        unlisted = ~np.isin(category_ids, list(categories))
        refuse("category-not-listed", unlisted, lambda row: f"has category {category_ids[row]}, which is not listed")
        odd, what = np.any(~np.isfinite(boxes), axis=1), "where four finite numbers belong"
        refuse("annotation-entry", odd, lambda row: f"has the bbox {boxes[row].tolist()} {what}")
        masks, keypoints = (
            self._masks(sizes[image_of], partial(refuse, "mask")),
            self._keypoints(category_ids, categories, skeletons, partial(refuse, "keypoints")),
        )
        by_image = np.argsort(image_of, kind="stable")
        self.order = by_image = by_image[~dropped[by_image]]
        return {
            "masks": None if masks is None else masks.select(by_image),
            "keypoints": None if keypoints is None else keypoints[by_image],
            "skeletons": skeletons,
            "categories": categories,
            "image_of": image_of[by_image],
            "boxes": boxes[by_image],
            "category_ids": category_ids[by_image],
            "areas": self._areas(boxes, masks, sizes[image_of])[by_image],
            "crowd": np.array(self.crowd, dtype=bool)[by_image],
        }

    def _areas(self, boxes: np.ndarray, masks: Outlines | None, sizes: np.ndarray) -> np.ndarray:
        """(A,) areas of the file; for missing ones that of the mask, if it has a pixel, else that of the box."""
        areas = np.array(self.areas)
        missing = ~np.isfinite(areas)
        with np.errstate(over="ignore"):
            areas = np.where(missing, boxes[:, 2] * boxes[:, 3], areas)
        rows = np.flatnonzero(missing)
        if self.outlines is None:
            rows = np.array(self.area_rows, np.int64)
            readable = np.ones(len(rows), dtype=bool)

            def skip(wrong: np.ndarray, say: Callable[[int], str]) -> None:
                readable[wrong] = False

            masks = self.area_outlines.outlines(sizes[rows], skip).select(readable)
            rows = rows[readable]
        elif masks is not None:
            masks = masks.select(rows)
        if masks is not None and len(rows):
            pixels = pixel_areas(masks, sizes[rows])
            areas[rows] = np.where(pixels > 0, pixels, areas[rows])
        return areas

    def _masks(self, sizes: np.ndarray, refuse: Callable[..., None]) -> Outlines | None:
        """Masks in file order; None if not requested, or if there are none."""
        if self.outlines is None:
            return None
        there = self.outlines.there()
        if self.finds is None and not there.any():
            return None
        if self.finds is not None and not there.all():
            raise DataError(
                f"{self.path}: annotation {self.ids[int((~there).argmax())]} has no segmentation, which a network with "
                "masks needs; give annotations with masks, or use a network with boxes only"
            )
        return self.outlines.outlines(sizes, refuse)

    def _keypoints(
        self,
        category_ids: np.ndarray,
        names: dict[int, str],
        skeletons: dict[int, Skeleton],
        refuse: Callable[..., None],
    ) -> np.ndarray | None:
        if self.points is None or (self.finds is None and not any(self.points.lengths)):
            return None
        count = next((len(skeleton) for skeleton in skeletons.values()), 0)
        return self.points.column(count, category_ids, names, refuse)


Values = tuple[int, int, int, Sequence[float], float, bool]  # id, image id, category id, box, area, crowd


def _plain(entry: dict[str, Any]) -> Values | None:
    """The values of an annotation that need no further look, as most do; None says nothing of the others."""
    own_id, image, category = entry.get("id"), entry["image_id"], entry.get("category_id")
    box, area, crowd = entry.get("bbox"), entry.get("area"), entry.get("iscrowd", 0)
    plain = (
        (type(own_id) is int and type(image) is int and type(category) is int)
        and (-EXACT < own_id < EXACT and -EXACT < image < EXACT and -EXACT < category < EXACT)
        and (type(crowd) is int and 0 <= crowd <= 1 and type(area) in NUMBERS)
        and (type(box) is list and len(box) == 4 and type(box[0]) in NUMBERS and type(box[1]) in NUMBERS)
        and (type(box[2]) in NUMBERS and type(box[3]) in NUMBERS)
    )
    return (own_id, image, category, box, area, crowd == 1) if plain else None  # type: ignore[return-value]


def _checked(entry: dict[str, Any]) -> Values:
    """The same, however it is written. Raises one of WRONG."""
    own_id, image, category = (_id(entry, key) for key in ID_LIMITS)
    x, y, width, height = entry["bbox"]
    box = (_number(x), _number(y), _number(width), _number(height))
    area = entry.get("area")
    return own_id, image, category, box, NOT_A_NUMBER if area is None else _number(area), _crowd(entry)


def _id(entry: dict[str, Any], key: str) -> int:
    value = entry[key]
    value = value if type(value) is int else whole_number(value)
    if value is None or abs(value) >= ID_LIMITS[key]:
        raise ValueError(key)
    return value


def _number(value: Any) -> float:
    """A number of the JSON; true and false are none."""
    if type(value) is not float and type(value) is not int:
        raise TypeError
    return value


def _crowd(entry: dict[str, Any]) -> bool:
    """`iscrowd`; False if it is absent or null."""
    value = entry.get("iscrowd")
    if value is None:
        return False
    truth = truth_value(value)
    if truth is None:
        raise ValueError("iscrowd")
    return truth


def _shown(entry: dict[str, Any], key: str) -> str:
    return f"the {key} {json.dumps(entry[key])[:60]}" if key in entry else f"no {key}"


def _narrow(values: np.ndarray) -> np.ndarray:
    """int64 -> int32 if nothing is lost."""
    narrow = values.astype(np.int32)
    return narrow if (narrow == values).all() else values


def repeated(values: np.ndarray) -> np.ndarray:
    """(N,) -> (N,) bool: the value occurred before."""
    first = np.unique(values, return_index=True)[1]
    repeated = np.ones(len(values), dtype=bool)
    repeated[first] = False
    return repeated
