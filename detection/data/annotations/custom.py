"""Custom annotations: one JSON per image with `bboxes` and `keypoints`, read into a `CocoTable`.

    images/a.jpg  annotations/a.json     {"bboxes": [[x1, y1, x2, y2], ...], "keypoints": [[[x, y, v], ...], ...]}

    bboxes     N boxes x1 y1 x2 y2 in pixels
    keypoints  N x K x 3, or K x N x 3 if the lengths are unambiguous; v is 0 absent, 1 occluded, 2 visible

All objects have one class, "object". Images are numbered from 1 in the order of their names. Sizes are those of the
JSON, `width` and `height`, where it has them, else those of the file headers. The area is that of the box. Files
without keypoints are valid for networks without keypoints.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detection.data.annotations.box_format import check_corners
from detection.data.annotations.coco_json import CocoTable
from detection.data.annotations.formats import annotation_format
from shared.errors import DataError, UsageError, plural
from shared.feeding.columns import compact
from shared.feeding.headers import Picture, read_headers
from shared.feeding.names import is_hidden, is_image
from shared.files import cache_dir

log = logging.getLogger(__name__)
CATEGORY = "object"


class Told(NamedTuple):
    """One annotation file: boxes (N, 4) as corners; keypoints (P, Q, 3) in either order, or None; (height, width), or
    None."""

    file: Path
    boxes: np.ndarray
    points: np.ndarray | None
    size: tuple[int, int] | None = None

    def orders(self) -> set[str]:
        """Possible nestings of its keypoints: by object, or by point."""
        assert self.points is not None
        outer, inner, count = *self.points.shape[:2], len(self.boxes)
        return {name for name, length in (("objects", outer), ("points", inner)) if length == count}


@annotation_format("custom", recognizes=Path.is_dir, asked_last=True)
def read_custom(annotations: Path, images: Path | None = None, finds: Sequence[str] | None = ()) -> CocoTable:
    """Read and check all files of a folder.

    Args:
        annotations: a folder of JSON files.
        images: the folder of images with the same names; None for the folder `images` next to `annotations`.
        finds: as `read_coco` takes it.

    Raises:
        DataError: an invalid file, one without an image, or an image without a file.
        UsageError: masks are requested.
    """
    if finds is not None and "masks" in finds:
        raise UsageError(f"{annotations} has boxes and keypoints, no masks; use a network without masks, or COCO files")
    images = annotations.parent / "images" if images is None else images
    photographs = pair_up(annotations, images)
    files = [read_file(annotations / f"{photo.stem}.json") for photo in photographs]
    wanted = finds is not None and "keypoints" in finds
    for each in files:
        if each.points is None and len(each.boxes) and wanted:
            raise DataError(f"{each.file} has no keypoints; add a list 'keypoints', or train boxes only")
    counts = [len(each.boxes) for each in files]
    if not sum(counts):
        raise DataError(f"{annotations} has no boxes; give annotations of objects")
    corners = np.concatenate([each.boxes for each in files])
    boxes = np.hstack((corners[:, :2], corners[:, 2:] - corners[:, :2]))
    headers = read_headers([Picture(photo) for photo in photographs], cache_dir() / "headers")
    if headers.reasons:
        row = min(headers.reasons)
        raise DataError(
            f"{photographs[row]} is not a usable image ({headers.reasons[row]}); replace it, or remove it and its JSON"
        )
    sizes = headers.sizes.copy()
    for row, each in enumerate(files):
        sizes[row] = each.size or sizes[row]
    some = wanted or (finds is None and any(each.points is not None for each in files))
    table = CocoTable(
        annotations,
        fingerprint([each.file for each in files]),
        categories={1: CATEGORY},
        image_ids=np.arange(1, len(files) + 1),
        sizes=sizes,
        file_names=np.array([photo.name.encode() for photo in photographs]),
        image_of=np.repeat(np.arange(len(files), dtype=np.int32), counts),
        boxes=boxes,
        category_ids=np.ones(len(boxes), np.int32),
        areas=boxes[:, 2:].clip(0).prod(axis=1),
        crowd=np.zeros(len(boxes), dtype=bool),
        keypoints=in_one_order(files) if some else None,
        unsized=np.array([each.size is None for each in files]),
    )
    check_corners(table)
    return table


def pair_up(annotations: Path, images: Path) -> list[Path]:
    """The images, by name. Raises DataError unless images and JSON files match one to one."""
    if not annotations.is_dir() or not images.is_dir():
        missing = images if annotations.is_dir() else annotations
        raise DataError(f"{missing} is not a folder; put images into images/, and a JSON for each into annotations/")
    found: dict[str, Path] = {}
    everything = [*images.iterdir(), *annotations.glob("*.json")]
    if hidden := sum(is_hidden(path.name) for path in everything if is_image(path.name) or path.suffix == ".json"):
        log.info("%s in %s skipped", plural(hidden, "hidden file"), annotations.parent)
    for photo in sorted(images.iterdir()):
        if is_image(photo.name) and not is_hidden(photo.name):
            if photo.stem in found:
                twin = found[photo.stem].name
                raise DataError(
                    f"{images} has {twin} and {photo.name}, which would have the same JSON; rename one of them"
                )
            found[photo.stem] = photo
    files = {file.stem for file in annotations.glob("*.json") if not is_hidden(file.name)}
    if lonely := sorted(files - found.keys()):
        raise DataError(f"{annotations / lonely[0]}.json has no image {lonely[0]}.* in {images}; {_more(lonely)}")
    if lonely := sorted(found.keys() - files):
        raise DataError(f"{found[lonely[0]]} has no annotation {lonely[0]}.json in {annotations}; {_more(lonely)}")
    if not found:
        raise DataError(f"{images} has no images; put them there, and a JSON for each into {annotations}")
    return [found[name] for name in sorted(found)]


def _more(lonely: list[str]) -> str:
    others = f" ({len(lonely) - 1} more have none)" if len(lonely) > 1 else ""
    return f"add it, or remove the other{others}"


def read_file(file: Path) -> Told:
    """Read one annotation file. Raises DataError with the file name."""
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file} {_damage(error)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {file} ({error}); write it again as JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("bboxes"), list):
        raise DataError(f"{file} has no list 'bboxes'; write {{'bboxes': [[x1, y1, x2, y2], ...], 'keypoints': ...}}")
    size = _size(content, file)
    boxes = _numbers(content["bboxes"], (4,), f"{file}: bboxes", "list of boxes [x1, y1, x2, y2]")
    if content.get("keypoints") is None:
        return Told(file, boxes, None, size)
    points = _numbers(content["keypoints"], (0, 3), f"{file}: keypoints", "list, object by object, of points [x, y, v]")
    seen = points[:, :, 2]
    wrong = ~((seen == 0) | (seen == 1) | (seen == 2))
    if wrong.any():
        raise DataError(f"{file} has the visibility {seen[wrong][0]:g}; it is 0 absent, 1 occluded or 2 visible")
    each = Told(file, boxes, points, size)
    if len(boxes) == 0 and points.size == 0:
        return Told(file, boxes, None, size)
    if not each.orders():
        outer, inner = points.shape[:2]
        few = (
            "more boxes than rows of keypoints"
            if len(boxes) > max(outer, inner)
            else "boxes and keypoints that do not match"
        )
        raise DataError(
            f"{file} has {few}: {len(boxes)} boxes, and keypoints of {outer} x {inner} points; "
            "give each box its list of points, [0, 0, 0] for an absent one"
        )
    return each


def _size(content: dict[str, Any], file: Path) -> tuple[int, int] | None:
    """(height, width) of the image, if the JSON has both."""
    height, width = content.get("height"), content.get("width")
    if height is None and width is None:
        return None
    sides = [v for v in (height, width) if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(sides) < 2 or any(value % 1 or not 0 < value < 2**31 for value in sides):
        raise DataError(f"{file} has the height {height} and the width {width}; give whole pixels, or neither")
    return int(sides[0]), int(sides[1])


def _damage(error: json.JSONDecodeError) -> str:
    place = f"line {error.lineno}, column {error.colno}"
    if error.msg.startswith("Expecting ',' delimiter") and error.doc[error.pos : error.pos + 1] == '"':
        word = error.doc[error.pos : error.pos + 20].split('"')[1]
        return f"lacks a comma before '{word}' at {place}; add one after the preceding list"
    return f"is not readable JSON ({error.msg} at {place}); it may be damaged or truncated"


def _numbers(value: Any, tail: tuple[int, ...], where: str, what: str) -> np.ndarray:
    """Nested lists of finite numbers -> (N, *tail); 0 in `tail` means any length."""
    try:
        values = np.array(value, dtype=np.float64) if value else np.zeros((0, *tail))
    except (TypeError, ValueError, OverflowError):
        values = np.zeros(())
    if len(tail) == 2 and not values.size:
        return np.zeros((0, *tail))
    fits = values.ndim == len(tail) + 1 and all(b in (0, a) for a, b in zip(values.shape[1:], tail, strict=True))
    if not fits or _has_words(value) or not np.isfinite(values).all():
        raise DataError(f"{where} is not a {what}, all finite and of the same length; correct it")
    return values


def _has_words(value: Any) -> bool:
    """True for strings and booleans, which numpy would accept as numbers."""
    return any(map(_has_words, value)) if isinstance(value, list) else type(value) not in (int, float)


def in_one_order(files: list[Told]) -> np.ndarray:
    """(A, K, 3) keypoints of all objects, for either nesting.

    Raises:
        DataError: the files have different K, or the nesting is ambiguous.
    """
    some = [each for each in files if each.points is not None]
    clear = {order for each in some if len(each.orders()) == 1 for order in each.orders()}
    parts: list[np.ndarray] = []
    for each in some:
        points, orders = each.points, each.orders()
        assert points is not None
        if len(orders) == 2 and len(each.boxes) > 1:
            if len(clear) != 1:
                raise DataError(
                    f"{each.file} has as many boxes as points, {len(each.boxes)}, so it is ambiguous whether "
                    "keypoints are listed by object or by point; add a file with another number of objects"
                )
            orders = clear
        parts.append(points if "objects" in orders else points.swapaxes(0, 1))
    count = Counter(part.shape[1] for part in parts).most_common(1)[0][0] if parts else 0
    for each, part in zip(some, parts, strict=True):
        if part.shape[1] != count:
            raise DataError(
                f"{each.file} has {part.shape[1]} keypoints per object, other files have {count}; "
                "give each object all of them, [0, 0, 0] for an absent one"
            )
    own = {each.file: part for each, part in zip(some, parts, strict=True)}
    everything = np.concatenate([own.get(each.file, np.zeros((len(each.boxes), count, 3))) for each in files])
    return compact(everything.reshape(-1)).reshape(everything.shape)


def fingerprint(files: list[Path]) -> str:
    """sha256 over names and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
