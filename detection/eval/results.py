"""Detections of an image in original pixels and source category ids; conversion to and from COCO results.

    Detections, scale -> read_detections -> Found: rows, masks as RLE, keypoints
                                            Found -> entries -> results.json -> read_entries -> {image id: Found}

An entry has `segmentation` and `keypoints` besides its box if the detector predicts them. The visibility of predicted
keypoints is 1, as in COCO; their scores are in `keypoint_scores`, which COCO's evaluation ignores. Files of other
programs are read as pycocotools reads them: an empty field is none, ids may be written as 3.0, polygons are masks.

    found.json         what pycocotools reads for the masks, or the keypoints: without `bbox`, the box is in `box`
    found.bbox.json    what it reads for the boxes; only beside masks or keypoints

Two files, since pycocotools' loadRes gives a result one area, that of its `bbox` where there is one, and uses it for
every kind: a box beside a mask moves objects between small, medium and large.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from detection.data.annotations.json_values import EXACT, whole_number
from detection.data.masks.encoding import read_polygons
from detection.data.masks.paste import codec, encode, paste, read_run_lengths
from detection.types import Detections
from shared.errors import DataError, Refusal
from shared.files import write_json

AGAIN = "write the results again with `detect predict` or `detect eval`"


class Found(NamedTuple):
    """M detections of one image, best first."""

    rows: np.ndarray  # (M, 6) as x y w h score category
    masks: list[bytes] | None = None  # M, compressed RLE of the whole image; empty for none
    keypoints: np.ndarray | None = None  # (M, K, 3) as x y score; NaN for none

    def best(self, min_score: float) -> Found:
        """Detections with at least this score."""
        keep = np.flatnonzero(self.rows[:, 4] >= min_score)
        masks = None if self.masks is None else [self.masks[i] for i in keep.tolist()]
        return Found(self.rows[keep], masks, None if self.keypoints is None else self.keypoints[keep])


def read_detections(
    image_id: int, detections: Detections, scale: tuple[float, float], size: tuple[int, int], source_ids: np.ndarray
) -> Found:
    """Detections in pixels of the network's input -> in pixels of the image of (height, width) `size`.

    Args:
        scale: (vertical, horizontal), original size divided by the unpadded input size.
        source_ids: (C,), category ids by label.

    Raises:
        Refusal: NaN or Inf, which pycocotools would count as a perfect match.
    """
    down, across = scale
    corners = detections["boxes"].detach().cpu().double() * torch.tensor([across, down] * 2, dtype=torch.float64)
    scores, labels = detections["scores"].detach().cpu().double().numpy(), detections["labels"].detach().cpu().numpy()
    keypoints = None
    if "keypoints" in detections:
        keypoints = detections["keypoints"].detach().cpu().double().numpy() * (across, down, 1.0)
    if not all(np.isfinite(x).all() for x in (corners.numpy(), scores, 0 if keypoints is None else keypoints)):
        raise Refusal(
            f"detections of image {image_id} contain NaN or Inf; "
            "the weights have diverged, so go back to an earlier epoch or lower the learning rate"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(source_ids):
        raise Refusal(
            f"image {image_id} has labels up to {labels.max()}, but there are {len(source_ids)} classes; "
            "use the class map of the weights"
        )
    masks = None
    if "masks" in detections:
        masks = [encode(patch, size) for patch in paste(detections["masks"], corners, size)]
    x0, y0, x1, y1 = corners.numpy().reshape(-1, 4).T
    return Found(np.column_stack((x0, y0, x1 - x0, y1 - y0, scores, source_ids[labels])), masks, keypoints)


def entries(
    image_id: int, found: Found, size: tuple[int, int], names: Mapping[int, str] | None = None
) -> list[dict[str, Any]]:
    """COCO results of one image of (height, width) `size`; with `names` by category id, each has a `category_name`."""
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": int(category), "bbox": box, "score": score}
        for *box, score, category in found.rows.tolist()
    ]
    for entry in results if names is not None else ():
        entry["category_name"] = names[entry["category_id"]]  # type: ignore[index]
    for entry, runs in zip(results, found.masks or (), strict=found.masks is not None):
        if runs:
            entry["segmentation"] = {"size": [*size], "counts": runs.decode("ascii")}
    flat: list[Any] = [] if found.keypoints is None else found.keypoints.tolist()
    for entry, points in zip(results, flat, strict=found.keypoints is not None):
        if not math.isnan(points[0][0]):
            entry["keypoints"] = [value for x, y, _ in points for value in (x, y, 1)]
            entry["keypoint_scores"] = [score for _, _, score in points]
    return results


def for_scoring(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """COCO results by the ending of their file: "" for the file itself, "bbox" for boxes beside masks or keypoints.

    Each list gives by pycocotools' loadRes and COCOeval the numbers of `CocoEvaluator`: the first for masks, else
    keypoints, else boxes. If there are both masks and keypoints, "keypoints" is a third list.
    """
    kinds = [name for name in ("segmentation", "keypoints") if any(name in entry for entry in results)]
    if not kinds:
        return {"": [*results]}
    core = ("image_id", "category_id", "score")
    parts = {"": [_without_area(entry) for entry in results if kinds[0] in entry]}
    parts["bbox"] = [{name: entry[name] for name in ("bbox", *core)} for entry in results]
    if len(kinds) > 1:
        parts["keypoints"] = [{name: e[name] for name in (*core, "keypoints")} for e in results if "keypoints" in e]
    return parts


def _without_area(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with its box under a name that pycocotools does not take an area from."""
    return {"box" if name == "bbox" else name: value for name, value in entry.items()}


def write_for_scoring(path: Path, results: Sequence[dict[str, Any]]) -> list[Path]:
    """Write the lists of `for_scoring`: `found.json`, and beside it `found.bbox.json`; returns the paths."""
    parts = for_scoring(results)
    paths = [path.with_suffix(f".{ending}{path.suffix}") if ending else path for ending in parts]
    for each, entries_of_file in zip(paths, parts.values(), strict=True):
        write_json(each, entries_of_file)
    return paths


def read_entries(results: Sequence[Any], size_of: Callable[[int], tuple[int, int]]) -> dict[int, Found]:
    """COCO results -> detections by image id, each image's in the order of the file.

    Args:
        size_of: (height, width) of an image by its id.

    Raises:
        DataError: an entry is not a COCO result, or its mask or keypoints do not fit its image.
    """
    read: dict[int, list[_Entry]] = {}
    shapes: set[int] = set()
    for number, result in enumerate(results, start=1):
        image_id, entry = _read(result, number, size_of)
        read.setdefault(image_id, []).append(entry)
        shapes |= set() if entry.points is None else {len(entry.points)}
        if len(shapes) > 1:
            counts = " and ".join(map(str, sorted(shapes)))
            raise DataError(f"result number {number} is the first with another number of keypoints ({counts}); {AGAIN}")
    nowhere = np.full((*shapes, 3), math.nan)
    return {
        image_id: Found(
            np.array([entry.row for entry in own]),
            [entry.runs for entry in own] if any(entry.runs for entry in own) else None,
            np.stack([nowhere if entry.points is None else entry.points for entry in own]) if shapes else None,
        )
        for image_id, own in read.items()
    }


class _Entry(NamedTuple):
    row: list[float]
    runs: bytes
    points: np.ndarray | None  # (K, 3)


def _read(result: Any, number: int, size_of: Callable[[int], tuple[int, int]]) -> tuple[int, _Entry]:
    """(image id, the rest) of one entry; one without `bbox` or `box` gets that of its mask, or of its keypoints."""
    result = result if isinstance(result, dict) else {}
    image_id, category = (whole_number(result.get(key)) for key in ("image_id", "category_id"))
    row: list[float] = []
    runs, points = b"", None
    if image_id is not None and category is not None and abs(category) < EXACT:
        runs, points = _mask(result, number, image_id, size_of), _keypoints(result, number)
        box = result.get("bbox") or result.get("box") or _box_around(runs, points, size_of(image_id))
        row = _numbers([*box, result.get("score"), category] if isinstance(box, list) else [])
    if image_id is None or len(row) != 6 or not all(map(math.isfinite, row)):
        raise DataError(
            f"result number {number} needs an image_id and a category_id that are whole numbers, a bbox of four finite "
            f"numbers and a score, not {_shown(result)}; {AGAIN}"
        )
    return image_id, _Entry(row, runs, points)


def _numbers(values: list[Any]) -> list[float]:
    """Floats; none if a value is not a number, or too large for one."""
    try:
        return [float(value) for value in values] if all(map(_is_number, values)) else []
    except OverflowError:
        return []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(result: dict[str, Any]) -> str:
    return json.dumps({key: result.get(key) for key in ("image_id", "category_id", "bbox", "score")})[:120]


def _box_around(runs: bytes, points: np.ndarray | None, size: tuple[int, int]) -> list[float]:
    if runs:
        return codec.toBbox({"size": [*size], "counts": runs}).tolist()
    if points is None:
        return []
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    return [*low.tolist(), *(high - low).tolist()]


def _mask(result: Any, number: int, image_id: int, size_of: Callable[[int], tuple[int, int]]) -> bytes:
    segmentation = result.get("segmentation")
    if not segmentation:
        return b""
    height, width = size_of(image_id)
    reader = read_polygons if isinstance(segmentation, list) else read_run_lengths
    runs = reader(segmentation, (height, width))
    if runs is None:
        raise DataError(
            f"the segmentation of result number {number} is neither polygons nor an RLE of the {width}x{height} pixels "
            f"of image {image_id}; {AGAIN}"
        )
    return runs


def _keypoints(result: Any, number: int) -> np.ndarray | None:
    """(K, 3) as x y score."""
    if result.get("keypoints") in (None, []):
        return None
    try:
        points = np.array(result["keypoints"], dtype=float).reshape(-1, 3)
        points[:, 2] = result.get("keypoint_scores", 1.0)
    except (TypeError, ValueError):
        points = np.full((1, 3), math.nan)
    if not len(points) or not np.isfinite(points).all():
        raise DataError(f"the keypoints of result number {number} are not triples x y v; {AGAIN}")
    return points
