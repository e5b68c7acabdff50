"""COCO's panoptic format: a JSON with the segments of each image, and a PNG with segment ids per pixel.

    {"annotations": [{"image_id", "file_name", "segments_info": [{"id", "category_id", "area", "bbox", "iscrowd"}]}],
     "categories": [{"id", "name", "isthing"}], "images": ...}      color of a pixel: id = R + 256 G + 65536 B, or 0

The JSON is checked when it is read; errors raise DataError with the file and the segment. PNGs are read when their
image is loaded.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from detection.data.annotations.coco_json import CocoTable, image_columns, read_categories
from detection.data.annotations.json_values import category_id, read_json_bytes, truth_value, whole_number
from detection.data.annotations.turning import upright_column
from shared.errors import DataError

NO_SEGMENT = 0  # id of unlabeled pixels
IDS = 1 << 24  # number of RGB values
CATEGORIES = "panoptic_coco_categories.json"  # COCO's file with the `isthing` of categories


class Segment(NamedTuple):
    """One segment of an image."""

    id: int
    category: int  # source id
    crowd: bool = False
    area: float | None = None  # in the JSON, in pixels; None to count them


class Panoptic(NamedTuple):
    """A panoptic JSON."""

    table: CocoTable  # a row for each segment
    things: dict[int, bool]  # by category id: thing or stuff
    pngs: dict[int, str]  # by image id
    segments: dict[int, tuple[Segment, ...]]  # by image id, in the order of the table's rows


def read_panoptic(path: Path, categories: Path | None = None) -> Panoptic:
    """Read and check a panoptic JSON.

    Args:
        categories: JSON list of the categories with `isthing`, if the annotations lack it.

    Raises:
        DataError: not a panoptic JSON, or an invalid one.
    """
    top, raw = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(top, dict) or not isinstance(top.get(key), list) or not top[key]:
            raise DataError(
                f"{path} is not a panoptic JSON: it has no list '{key}'; see cocodataset.org, 'Data format'"
            )
    categories_list = top["categories"]
    if not all(isinstance(entry, dict) and "isthing" in entry for entry in categories_list):
        categories_list = listed_categories(path, categories)
    names, things = read_categories(categories_list, path), things_of(categories_list, path)
    image_ids, sizes, file_names = image_columns(top["images"], path)
    pngs, infos = read_annotations(top["annotations"], path)
    for known, others, what in ((pngs, image_ids.tolist(), "listed"), (set(image_ids.tolist()), pngs, "annotated")):
        strange = [image for image in others if image not in known]
        if strange:
            other = "no annotation" if what == "listed" else "no entry under 'images'"
            raise DataError(f"{path}: image {strange[0]} is {what} and has {other}; correct or remove it")
    rows = [(row, info) for row, image in enumerate(image_ids.tolist()) for info in infos[image]]
    segments = {image: tuple(segment_of(info, image, names, path) for info in infos[image]) for image in pngs}
    for image, own in segments.items():
        if len({segment.id for segment in own}) < len(own):
            raise DataError(f"{path}: image {image} has two segments with the same id; give each its own")
    ordered = [segments[image] for image in image_ids.tolist()]
    table = CocoTable(
        path,
        hashlib.sha256(raw).hexdigest(),
        names,
        image_ids,
        sizes,
        file_names,
        image_of=np.array([row for row, _ in rows], np.int32),
        boxes=np.array([info["bbox"] for _, info in rows], np.float64).reshape(-1, 4),
        category_ids=np.array([segment.category for own in ordered for segment in own], np.int64),
        areas=np.array([info["area"] for _, info in rows], np.float64),
        crowd=np.array([segment.crowd for own in ordered for segment in own], dtype=bool),
        upright=upright_column(top["images"], path),
    )
    return Panoptic(table, things, pngs, segments)


def things_of(entries: list[dict[str, Any]], path: Path) -> dict[int, bool]:
    """`isthing` by category id, of checked categories. Raises DataError if one is neither true nor false."""
    things: dict[int, bool] = {}
    for entry in entries:
        category, thing = category_id(entry), truth_value(entry["isthing"])
        if thing is None or category is None:
            raise DataError(
                f"{path}: category '{entry['name']}' has the isthing {json.dumps(entry['isthing'])[:60]} where 0 for "
                "stuff or 1 for a thing belongs; correct it"
            )
        things[category] = thing
    return things


def read_json(path: Path) -> tuple[Any, bytes]:
    """The content of a JSON file, gzipped or not, and its bytes."""
    raw = read_json_bytes(path, "the annotations", "a panoptic JSON")
    try:
        return json.loads(raw), raw
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON ({error}); it may be damaged or truncated") from None


def listed_categories(path: Path, categories: Path | None) -> list[dict[str, Any]]:
    """The categories with `isthing`, from a separate file."""
    beside = Path(path).parent / CATEGORIES if categories is None else Path(categories)
    if categories is None and not beside.is_file():
        raise DataError(f"{path} has no `isthing` in its categories; put COCO's {CATEGORIES} next to it")
    content, _ = read_json(beside)
    if not isinstance(content, list) or not all(isinstance(entry, dict) and "isthing" in entry for entry in content):
        raise DataError(f"{beside} is not a list of categories with id, name and isthing; give COCO's {CATEGORIES}")
    return content


def read_annotations(annotations: list[Any], path: Path) -> tuple[dict[int, str], dict[int, list[dict[str, Any]]]]:
    """PNG and segments_info by image id."""
    pngs: dict[int, str] = {}
    infos: dict[int, list[dict[str, Any]]] = {}
    for number, entry in enumerate(annotations):
        image = whole_number(entry.get("image_id")) if isinstance(entry, dict) else None
        if image is None or not isinstance(entry.get("segments_info"), list):
            raise DataError(
                f"{path}: annotation number {number + 1} has no image_id and segments_info; give a panoptic JSON, or "
                "use --dataset coco for one with boxes"
            )
        if not isinstance(entry.get("file_name"), str) or Path(entry["file_name"]).name != entry["file_name"]:
            raise DataError(f"{path}: the annotation of image {image} has no file_name of a PNG; correct or remove it")
        if image in pngs:
            raise DataError(f"{path}: image {image} has two annotations; merge them")
        pngs[image], infos[image] = entry["file_name"], entry["segments_info"]
    return pngs, infos


def segment_of(info: Any, image: int, names: dict[int, str], path: Path) -> Segment:
    """Check one entry of segments_info."""
    where = f"{path}: image {image}, segment {info.get('id') if isinstance(info, dict) else info}"
    number = whole_number(info.get("id")) if isinstance(info, dict) else None
    if number is None or not 0 < number < IDS:
        raise DataError(f"{where} has no id from 1 to {IDS - 1}; correct or remove it")
    category = whole_number(info.get("category_id"))
    if category is None or category not in names:
        raise DataError(
            f"{where} has the category {info.get('category_id')}, which is not listed; correct or remove it"
        )
    box = info.get("bbox")
    numbers = [*(box if isinstance(box, list) else ()), info.get("area")]
    if len(numbers) != 5 or not all(type(x) in (int, float) and np.isfinite(x) for x in numbers):
        raise DataError(f"{where} has no bbox of four finite numbers and no area; correct or remove it")
    crowd = info.get("iscrowd")
    crowd = False if crowd is None else truth_value(crowd)
    if crowd is None:
        raise DataError(f"{where} has the iscrowd {json.dumps(info['iscrowd'])[:60]} where 0 or 1 belongs; correct it")
    return Segment(number, category, crowd, float(info["area"]))


# -- the PNGs -------------------------------------------------------------------------------------


def check_pngs(book: Panoptic, folder: Path) -> None:
    """Raise DataError if a PNG of an annotation is missing."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in book.pngs.values() if name not in there]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(book.pngs)} PNGs of {book.table.path} are not in {folder}, such as "
            f"{', '.join(missing[:3])}; put them there, in a folder with the JSON's name next to it"
        )


def read_ids(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) int32 from a PNG.

    Raises:
        DataError: damaged, not RGB, or not of (height, width) `size`.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise DataError(f"{path} has the mode '{image.mode}', but segment ids are RGB; write it again")
            pixels = np.asarray(image.convert("RGB"), dtype=np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a PNG ({error}); download or write it again") from None
    if size is not None and pixels.shape[:2] != size:
        found, wanted = (f"{shape[1]}x{shape[0]}" for shape in (pixels.shape, size))
        raise DataError(f"{path} is {found}, but its image is {wanted}; give the PNG of that image")
    return pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]


def write_ids(ids: np.ndarray) -> bytes:
    """(H, W) ids -> a PNG."""
    colors = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors).save(buffer, format="PNG")
    return buffer.getvalue()


def check_ids(ids: np.ndarray, segments: Sequence[Segment], png: Path, json_path: Path) -> None:
    """Raise DataError unless the map has exactly the listed segments."""
    there, listed = set(np.unique(ids).tolist()) - {NO_SEGMENT}, {segment.id for segment in segments}
    if strange := sorted(there - listed):
        raise DataError(
            f"{png} has pixels of segment {strange[0]}, which {json_path} does not list; use PNG and JSON "
            "files that belong together"
        )
    if absent := sorted(listed - there):
        raise DataError(
            f"{png} has no pixel of segment {absent[0]}, which {json_path} lists; give PNG and JSON that were "
            "written together"
        )
