"""Reading and checking COCO JSON into columns.

    instances.json -> json.loads, with an object hook that moves each annotation into arrays as it is parsed
                   -> CocoTable: 54 bytes per annotation; about 70 besides the text while parsing

Masks and keypoints are read only on request: `read_coco(path, finds=("masks",))`; masks are kept as polygons or
compressed RLE until they are used (`masks/`).

Errors raise DataError with the file and the annotation id. Boxes that are outside the image, inverted or empty are
accepted here: evaluation uses them as they are, and training skips them (`targets.py`).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.keypoints import KeypointRows, insist, read_skeletons
from detection.data.annotations.skeleton import Skeleton
from detection.data.annotations.turning import told_upright
from detection.data.masks.outlines import OutlineRows, Outlines
from shared.errors import DataError

OF_IMAGES = ("image_ids", "sizes", "file_names")
OF_ANNOTATIONS = ("image_of", "boxes", "category_ids", "areas", "crowd")


@dataclass(frozen=True)
class CocoTable:
    """A COCO file, or shards of one, as columns: I images in file order, A annotations sorted by image."""

    path: Path
    sha256: str
    categories: dict[int, str]  # source id -> name
    image_ids: np.ndarray  # (I,) int64
    sizes: np.ndarray  # (I, 2) int32: height, width
    file_names: np.ndarray  # (I,) utf-8 bytes
    image_of: np.ndarray  # (A,) int32: row of the image
    boxes: np.ndarray  # (A, 4) float64: x y w h, as the file has them
    category_ids: np.ndarray  # (A,) int32 source ids
    areas: np.ndarray  # (A,) float64: `area` of the file
    crowd: np.ndarray  # (A,) bool
    spots: np.ndarray | None = None  # (I, 3) int64: shard, offset, size; None if images are files in a folder
    masks: Outlines | None = None  # of the A annotations; None if not requested
    keypoints: np.ndarray | None = None  # (A, K, 3) x y visibility; None if not requested
    skeletons: dict[int, Skeleton] = field(default_factory=dict)  # of categories with keypoint names
    upright: np.ndarray | None = None  # (I,) int8: 1 if boxes are on the picture turned by EXIF, 0 if not, -1 unsaid
    unsized: np.ndarray | None = None  # (I,) bool: the annotations have no size of the image; None if all have

    @property
    def skeleton(self) -> Skeleton | None:
        """The skeleton of the keypoints, if they were requested."""
        if self.keypoints is None:
            return None
        return next(iter(self.skeletons.values()), None) or Skeleton.numbered(self.keypoints.shape[1])

    def select(self, keep: np.ndarray) -> CocoTable:
        """(I,) bool -> the table of these images."""
        if keep.all():
            return self
        rows = keep[self.image_of]
        renumbered = (np.cumsum(keep) - 1).astype(np.int32)
        images = {name: getattr(self, name)[keep] for name in OF_IMAGES}
        for name in ("spots", "upright", "unsized"):
            images[name] = None if getattr(self, name) is None else getattr(self, name)[keep]
        annotations = {name: getattr(self, name)[rows] for name in OF_ANNOTATIONS}
        annotations["image_of"] = renumbered[annotations["image_of"]]
        annotations["keypoints"] = None if self.keypoints is None else self.keypoints[rows]
        masks = None if self.masks is None else self.masks.select(rows)
        return replace(self, **images, **annotations, masks=masks)

    def corners(self) -> np.ndarray:
        """(A, 4) float64: x0 y0 x1 y1, clipped to the images."""
        limit = self.sizes[self.image_of][:, ::-1]
        low = np.clip(self.boxes[:, :2], 0, limit)
        high = np.clip(self.boxes[:, :2] + self.boxes[:, 2:], 0, limit)
        return np.concatenate((low, high), axis=1)


def read_coco(path: Path, finds: Sequence[str] | None = ()) -> CocoTable:
    """Read and check a COCO JSON file.

    Args:
        finds: "masks", "keypoints", both or neither: fields that annotations must have; None reads those there are.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the annotations {path} ({error}); give the path of a COCO JSON") from None
    rows = Rows(path, finds)
    try:
        top = json.loads(raw, object_hook=rows)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); it may be damaged or truncated") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(top, dict) or not isinstance(top.get(key), list):
            raise DataError(f"{path} is not a COCO file: it has no list '{key}'; see cocodataset.org, 'Data format'")
    if not top["images"]:
        raise DataError(f"{path} lists no images; give another file")
    rows.check_all_read(top["annotations"])
    image_ids, sizes, names = image_columns(top["images"], path)
    categories = read_categories(top["categories"], path)
    skeletons = {} if rows.points is None else read_skeletons(top["categories"], path)
    columns = rows.columns(categories, image_ids, sizes, skeletons)
    if finds is not None and "keypoints" in finds:
        insist(columns["keypoints"], path)
    return CocoTable(
        path,
        hashlib.sha256(raw).hexdigest(),
        image_ids=image_ids,
        sizes=sizes,
        file_names=names,
        upright=told_upright(top["images"], path),
        **columns,
    )


_TAKEN = object()  # placeholder in json's list for an annotation that was moved to the columns


class Rows:
    """The object hook of json: an annotation is moved to the columns as it is parsed, and its dict dropped.

    Args:
        path: for error messages.
        finds: as `read_coco` takes it.
    """

    def __init__(self, path: Path, finds: Sequence[str] | None = ()) -> None:
        self.path, self.finds = path, finds
        self.outlines = OutlineRows() if finds is None or "masks" in finds else None
        self.points = KeypointRows() if finds is None or "keypoints" in finds else None
        self.ids, self.images, self.category_ids = array("q"), array("q"), array("i")
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("b")

    def __call__(self, entry: dict[str, Any]) -> Any:
        if "image_id" not in entry:
            return entry
        try:
            self.ids.append(entry["id"])
            self.images.append(entry["image_id"])
            self.category_ids.append(entry["category_id"])
            x, y, width, height = entry["bbox"]
            self.boxes.extend((x, y, width, height))
            area = entry.get("area")
            self.areas.append(float("nan") if area is None else area)
            self.crowd.append(1 if entry.get("iscrowd") else 0)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(self.complaint(entry)) from None
        for rows, key, what in (
            (self.outlines, "segmentation", "polygons [[x, y, ...], ...] or an RLE of counts and size belong"),
            (self.points, "keypoints", "numbers x y visibility belong"),
        ):
            if rows is not None:
                try:
                    rows.take(entry.get(key))
                except (KeyError, TypeError, ValueError, OverflowError):
                    where = f"{self.path}: annotation {entry['id']}"
                    raise DataError(f"{where} has {_shown(entry, key)} where {what}; correct or remove it") from None
        return _TAKEN

    def complaint(self, entry: dict[str, Any]) -> str:
        """The error message for an invalid annotation."""
        where = f"{self.path}: annotation {entry.get('id', f'number {len(self.ids) + 1}')}"
        for key, bits in (("id", 64), ("image_id", 64), ("category_id", 32)):
            value = entry.get(key)
            if not isinstance(value, int) or abs(value) >= 2 ** (bits - 1):
                return f"{where} has {_shown(entry, key)} where a {bits}-bit integer belongs; correct or remove it"
        if "bbox" in entry and not isinstance(entry.get("area"), int | float | None):
            return f"{where} has {_shown(entry, 'area')} where a number belongs; correct or remove it"
        return f"{where} has {_shown(entry, 'bbox')} where four finite numbers x y w h belong; correct or remove it"

    def check_all_read(self, annotations: list[Any]) -> None:
        """Check that all annotations of the list, and no others, were read."""
        for number, entry in enumerate(annotations):
            if entry is not _TAKEN:
                raise DataError(f"{self.path}: annotation number {number + 1} has no image_id; correct or remove it")
        if len(annotations) != len(self.ids):
            raise DataError(f"{self.path} is not a COCO file: it has annotations outside the list 'annotations'")
        if not annotations:
            raise DataError(f"{self.path} has no boxes; give annotations of objects ('instances')")

    def columns(
        self, categories: dict[int, str], image_ids: np.ndarray, sizes: np.ndarray, skeletons: dict[int, Skeleton]
    ) -> dict[str, Any]:
        """The checked columns of `CocoTable`, sorted by image."""
        ids, images = np.array(self.ids, np.int64), np.array(self.images, np.int64)
        category_ids, boxes = np.array(self.category_ids, np.int32), np.array(self.boxes).reshape(-1, 4)
        order = np.argsort(image_ids, kind="stable")
        place = np.minimum(np.searchsorted(image_ids, images, sorter=order), len(order) - 1)
        image_of = order[place].astype(np.int32)

        def refuse(wrong: np.ndarray, say: Callable[[int], str]) -> None:
            if wrong.any():
                row = int(wrong.argmax())
                raise DataError(f"{self.path}: annotation {ids[row]} {say(row)}; correct or remove it")

        refuse(repeated(ids), lambda row: "has an id that appears twice")
        refuse(image_ids[image_of] != images, lambda row: f"belongs to image {images[row]}, which is not listed")
        listed = np.isin(category_ids, list(categories))
        refuse(~listed, lambda row: f"has category {category_ids[row]}, which is not listed")
        odd = np.any(~np.isfinite(boxes), axis=1)
        refuse(odd, lambda row: f"has the bbox {boxes[row].tolist()} where four finite numbers belong")
        areas = np.array(self.areas)
        with np.errstate(over="ignore"):
            areas = np.where(np.isfinite(areas), areas, boxes[:, 2] * boxes[:, 3])
        by_image = np.argsort(image_of, kind="stable")
        masks, keypoints = (
            self._masks(sizes[image_of], refuse),
            self._keypoints(category_ids, categories, skeletons, refuse),
        )
        return {
            "masks": None if masks is None else masks.select(by_image),
            "keypoints": None if keypoints is None else keypoints[by_image],
            "skeletons": skeletons,
            "categories": categories,
            "image_of": image_of[by_image],
            "boxes": boxes[by_image],
            "category_ids": category_ids[by_image],
            "areas": areas[by_image],
            "crowd": np.array(self.crowd, dtype=bool)[by_image],
        }

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


def _shown(entry: dict[str, Any], key: str) -> str:
    return f"the {key} {json.dumps(entry[key])[:60]}" if key in entry else f"no {key}"


def exact_duplicates(table: CocoTable) -> np.ndarray:
    """(A,) bool: an earlier annotation of the same image has the same class and box."""
    hashed = table.image_of.astype(np.uint64)
    for column in (table.category_ids.astype(np.int64), *table.boxes.T):
        hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
        hashed ^= np.ascontiguousarray(column).view(np.uint64)
    hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    first, group = np.unique(hashed, return_index=True, return_inverse=True)[1:]
    later = np.flatnonzero(first[group] != np.arange(len(group)))
    before = first[group[later]]
    same = (table.boxes[later] == table.boxes[before]).all(axis=1)
    for column in (table.image_of, table.category_ids, table.crowd):
        same &= column[later] == column[before]
    duplicate = np.zeros(len(group), dtype=bool)
    duplicate[later[same]] = True
    return duplicate


def repeated(values: np.ndarray) -> np.ndarray:
    """(N,) -> (N,) bool: the value occurred before."""
    first = np.unique(values, return_index=True)[1]
    repeated = np.ones(len(values), dtype=bool)
    repeated[first] = False
    return repeated


def image_columns(images: list[Any], path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (I,), heights and widths (I, 2), file names (I,) of the list 'images', checked."""
    for number, image in enumerate(images):
        where = f"{path}: image {image.get('id', number + 1) if isinstance(image, dict) else f'number {number + 1}'}"
        if not isinstance(image, dict) or type(image.get("id")) is not int:
            raise DataError(f"{where} has no integer id; correct or remove it")
        if abs(image["id"]) >= 2**63:
            raise DataError(f"{where} has an id of more than 64 bits; give it a smaller one")
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise DataError(f"{where} has no file_name; correct or remove it")
        if any(type(image.get(side)) is not int or not 0 < image[side] < 2**31 for side in ("height", "width")):
            raise DataError(f"{where} has no height and width in whole pixels; correct or remove it")
    ids = np.array([image["id"] for image in images], np.int64)
    twice = repeated(ids)
    if twice.any():
        raise DataError(f"{path}: the image id {ids[twice.argmax()]} appears twice; give each image its own")
    sizes = np.array([(image["height"], image["width"]) for image in images], np.int32)
    return ids, sizes, np.array([image["file_name"].encode() for image in images])


def read_categories(entries: list[Any], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not isinstance(entry.get("name"), str):
            raise DataError(f"{path}: the category {json.dumps(entry)[:60]} needs an integer id and a name; correct it")
        if entry["id"] in names:
            raise DataError(f"{path}: the category id {entry['id']} appears twice; give each category its own")
        if entry["name"] in names.values():
            raise DataError(f"{path}: the category name '{entry['name']}' appears twice; merge the two")
        names[entry["id"]] = entry["name"]
    return names
