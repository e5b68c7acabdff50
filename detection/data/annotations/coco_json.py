"""Reading and checking COCO JSON into columns.

    instances.json -> json.loads, with an object hook that moves each annotation into arrays as it is parsed
                   -> CocoTable: 54 bytes per annotation

Names of images are those of `file_name`, or for LVIS of `coco_url` (`lvis.py`).

Masks and keypoints are read only on request: `read_coco(path, finds=("masks",))`; masks are kept as polygons or
compressed RLE until they are used (`masks/`).

Errors raise DataError with the file and the annotation id. Boxes that are outside the image, inverted or empty are
accepted here: evaluation uses them as they are, and training skips them (`targets.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.annotations.annotation_rows import TAKEN, Rows, repeated
from detection.data.annotations.json_values import category_id, read_json_bytes, whole_number
from detection.data.annotations.keypoints import insist, read_skeletons
from detection.data.annotations.lvis import LISTS, list_columns, place_of, rarity
from detection.data.annotations.skeleton import Skeleton
from detection.data.annotations.turning import upright_column
from detection.data.masks.outlines import Outlines
from shared.errors import DataError
from shared.feeding.columns import Ragged
from shared.feeding.kept import kept

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
    category_ids: np.ndarray  # (A,) int32 source ids; int64 if they need it
    areas: np.ndarray  # (A,) float64: `area` of the file, else of the mask, else of the box
    crowd: np.ndarray  # (A,) bool
    spots: np.ndarray | None = None  # (I, 3) int64: shard, offset, size; None if images are files in a folder
    masks: Outlines | None = None  # of the A annotations; None if not requested
    keypoints: np.ndarray | None = None  # (A, K, 3) x y visibility; None if not requested
    skeletons: dict[int, Skeleton] = field(default_factory=dict)  # of categories with keypoint names
    notes: tuple[str, ...] = ()  # what was left out when the file was read
    upright: np.ndarray | None = None  # (I,) int8: 1 if boxes are on the picture turned by EXIF, 0 if not, -1 not given
    unsized: np.ndarray | None = None  # (I,) bool: the annotations have no size of the image; None if all have
    absent: Ragged | None = None  # (I,) source ids of categories known not to be in the image (LVIS); None if not told
    unfinished: Ragged | None = None  # (I,) those of which not every object is annotated (LVIS); None if not told
    frequency: dict[int, str] | None = None  # r, c or f by source id (LVIS); None if not told
    image_count: dict[int, int] | None = None  # training images by source id (LVIS); None if not told

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
        lists = {name: getattr(self, name).select(keep) for name in LISTS if getattr(self, name) is not None}
        annotations = {name: getattr(self, name)[rows] for name in OF_ANNOTATIONS}
        annotations["image_of"] = renumbered[annotations["image_of"]]
        annotations["keypoints"] = None if self.keypoints is None else self.keypoints[rows]
        masks = None if self.masks is None else self.masks.select(rows)
        return replace(self, **images, **annotations, **lists, masks=masks)

    def only(self, rows: np.ndarray) -> CocoTable:
        """(A,) bool -> the table of all images with these annotations."""
        annotations = {name: getattr(self, name)[rows] for name in OF_ANNOTATIONS}
        annotations["keypoints"] = None if self.keypoints is None else self.keypoints[rows]
        return replace(self, **annotations, masks=None if self.masks is None else self.masks.select(rows))

    def corners(self) -> np.ndarray:
        """(A, 4) float64: x0 y0 x1 y1, clipped to the images."""
        limit = self.sizes[self.image_of][:, ::-1]
        low = np.clip(self.boxes[:, :2], 0, limit)
        high = np.clip(self.boxes[:, :2] + self.boxes[:, 2:], 0, limit)
        return np.concatenate((low, high), axis=1)


KINDS = (CocoTable, Outlines, Ragged, Skeleton)  # what a table in columns is made of


def read_coco(path: Path, finds: Sequence[str] | None = ()) -> CocoTable:
    """Read and check a COCO JSON file; a large one is kept in columns beside it, which later calls read.

    Args:
        finds: "masks", "keypoints", both or neither: fields that annotations must have; None reads those there are.
    """
    name = "all" if finds is None else "-".join(("boxes", *sorted(finds)))
    table = kept(Path(path), name, lambda: parsed_coco(path, finds), KINDS)
    return table if table.path == path else replace(table, path=path)


def parsed_coco(path: Path, finds: Sequence[str] | None = ()) -> CocoTable:
    """The same without looking for columns."""
    raw = read_json_bytes(path, "the annotations", "a COCO JSON")
    top, rows = _parsed(raw, path, finds)
    if not rows.ids:
        raise DataError(f"{path} has no boxes; give annotations of objects ('instances')")
    image_ids, sizes, names = image_columns(top["images"], path)
    categories = read_categories(top["categories"], path)
    skeletons, notes = ({}, []) if rows.points is None else read_skeletons(top["categories"], path)
    columns = rows.columns(categories, image_ids, sizes, skeletons)
    if finds is not None and "keypoints" in finds:
        insist(columns["keypoints"], path)
    digest, notes = hashlib.sha256(raw).hexdigest(), (*notes, *rows.notes())
    return CocoTable(
        path,
        digest,
        image_ids=image_ids,
        sizes=sizes,
        file_names=names,
        notes=notes,
        upright=upright_column(top["images"], path),
        **list_columns(top["images"], path),
        **rarity(top["categories"]),
        **columns,
    )


def _parsed(raw: bytes, path: Path, finds: Sequence[str] | None) -> tuple[dict[str, Any], Rows]:
    """The content of a COCO JSON, and the rows of its list 'annotations'.

    The object hook takes whatever looks like an annotation. Where that is more or less than the list, as with
    `image_id` in other places, the file is parsed again and the list taken alone, with more memory.
    """
    rows = Rows(path, finds)
    top = loaded(raw, path, rows)
    annotations = top["annotations"]
    if rows.failed or len(rows.ids) != len(annotations) or any(entry is not TAKEN for entry in annotations):
        rows, top = Rows(path, finds), loaded(raw, path, None)
        for entry in top["annotations"]:
            rows.take(entry)
    return top, rows


def loaded(raw: bytes | str, path: Path, hook: Any) -> dict[str, Any]:
    """The JSON, with its three lists. Raises DataError."""
    try:
        top = json.loads(raw, object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); it may be damaged or truncated") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(top, dict) or not isinstance(top.get(key), list):
            alone = key == "annotations" and "annotations" not in top
            way_out = "it lists images alone, for `detect predict`; give" if alone else "give"
            raise DataError(
                f"{path} is not a COCO file: it has no list '{key}'; {way_out} one as on cocodataset.org, 'Data format'"
            )
    if not top["images"]:
        raise DataError(f"{path} lists no images; give another file")
    return top


def read_image_list(path: Path) -> CocoTable:
    """The images of a COCO or panoptic JSON; annotations and categories may be missing, and are not looked at."""
    table = kept(Path(path), "images", lambda: _parsed_images(path), KINDS)
    return table if table.path == path else replace(table, path=path)


def _parsed_images(path: Path) -> CocoTable:
    raw = read_json_bytes(path, "the annotations", "a COCO JSON")
    try:  # annotations are dropped as they are parsed
        top = json.loads(raw, object_hook=lambda entry: entry if _may_be_image(entry) else None)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); it may be damaged or truncated") from None
    if not isinstance(top, dict) or not isinstance(top.get("images"), list) or not top["images"]:
        raise DataError(f"{path} is not a COCO file: it has no list 'images'; give one that lists images")
    image_ids, sizes, names = image_columns(top["images"], path)
    return CocoTable(
        path,
        hashlib.sha256(raw).hexdigest(),
        categories={},
        image_ids=image_ids,
        sizes=sizes,
        file_names=names,
        image_of=np.zeros(0, np.int32),
        boxes=np.zeros((0, 4)),
        category_ids=np.zeros(0, np.int32),
        areas=np.zeros(0),
        crowd=np.zeros(0, dtype=bool),
        upright=upright_column(top["images"], path),
    )


def _may_be_image(entry: dict[str, Any]) -> bool:
    return "image_id" not in entry or "file_name" in entry


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


def image_columns(images: list[Any], path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (I,), heights and widths (I, 2), file names (I,) of the list 'images', checked."""
    ids, sizes, names = zip(*(read_image(image, number, path) for number, image in enumerate(images)), strict=True)
    column = np.array(ids, np.int64)
    twice = repeated(column)
    if twice.any():
        raise DataError(f"{path}: the image id {column[twice.argmax()]} appears twice; give each image its own")
    return column, np.array(sizes, np.int32), np.array(names)


def read_image(image: Any, number: int, path: Path) -> tuple[int, tuple[int, int], bytes]:
    """Id, (height, width) and file name of an entry of the list 'images'. Raises DataError."""

    def wrong(what: str) -> DataError:
        named = image.get("id", number + 1) if isinstance(image, dict) else f"number {number + 1}"
        return DataError(f"{path}: image {named} has {what}")

    image_id = whole_number(image.get("id")) if isinstance(image, dict) else None
    if image_id is None:
        raise wrong("no integer id; correct or remove it")
    if abs(image_id) >= 2**63:
        raise wrong("an id of more than 64 bits; give it a smaller one")
    name = place_of(image) or image.get("file_name")
    if not isinstance(name, str) or not name:
        raise wrong("no file_name; correct or remove it")
    height, width = whole_number(image.get("height")) or 0, whole_number(image.get("width")) or 0
    if not (0 < height < 2**31 and 0 < width < 2**31):
        raise wrong("no height and width in whole pixels; correct or remove it")
    return image_id, (height, width), name.encode()


def read_categories(entries: list[Any], path: Path) -> dict[int, str]:
    """{id: name} of the list 'categories', checked."""
    names: dict[int, str] = {}
    for entry in entries:
        fault = wrong_category(entry, names)
        if fault is not None:
            raise DataError(f"{path}: {fault[1]}")
        names[category_id(entry)] = entry["name"]  # type: ignore[index] - it has one
    return names


def wrong_category(entry: Any, names: dict[int, str]) -> tuple[str, str] | None:
    """What is wrong with an entry of the list 'categories', its kind and a sentence; None if nothing is.

    Args:
        names: {id: name} of the entries before it.
    """
    category = category_id(entry)
    if category is None or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        what = f"the category {json.dumps(entry)[:60]} needs an integer id and a name; correct it"
        return "category-entry", what
    if category in names:
        return "category-id-twice", f"the category id {category} appears twice; give each category its own"
    if entry["name"] in names.values():
        return "category-name-twice", f"the category name '{entry['name']}' appears twice; merge the two"
    return None
