"""COCO metrics from arrays, by pycocotools (the reference) or hotcoco (faster).

    ground truth, Rows of each kind -> evaluate_kinds -> summaries, AP by category

Images and categories are numbered from 1 for the backend, in the order of their ids, and translated back: as float64,
which hotcoco takes, ids beyond 2**53 would be others, and 0 and negative ids have meanings of their own.

The area of a detection, which decides whether it is small, medium or large, is that of its box for boxes, of its
mask for masks, and of the bounding rectangle of its keypoints for keypoints.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from detection.data.masks.paste import codec

IOU_TYPE: dict[str, Any] = {"boxes": "bbox", "masks": "segm", "keypoints": "keypoints"}


class Rows(NamedTuple):
    """N detections of all images, by image."""

    images: np.ndarray  # (N,) int64 ids
    rows: np.ndarray  # (N, 6) as x y w h score category
    masks: list[dict[str, Any]]  # N RLE as in pycocotools, or none
    keypoints: np.ndarray  # (N, K, 3) as x y score, or (0, 0, 3)


class Numbers(NamedTuple):
    """Results of one evaluation."""

    summary: list[float]  # in pycocotools' order; -1 without such objects
    by_category: dict[int, float]  # AP over all thresholds; -1 without ground truth


def undefined_as_nan(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics with NaN where pycocotools says -1, which reads as a number: there are no such objects."""
    return {name: math.nan if value == -1 else value for name, value in metrics.items()}


def evaluate_kinds(
    truth: dict[str, Any], found: dict[str, Rows], backend: str, sigmas: Sequence[float] | None
) -> dict[str, Numbers]:
    """Evaluate each kind (boxes, masks, keypoints).

    Args:
        truth: content of a COCO file, with the fields of the kinds in every annotation. Its ids become numbers.
        found: detections by kind; those of unlisted categories are left out, as pycocotools does.
        sigmas: K, OKS sigmas.
    """
    backend_for = _hotcoco if backend == "hotcoco" else _pycocotools
    numbers = {}
    numbering = Numbering.of(truth)
    numbering.renumber(truth)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "hotcoco: kpt_oks_sigmas differ")
        evaluation_of = backend_for(truth)
        for kind, rows in found.items():
            evaluation = evaluation_of(kind, numbering.rows(rows))
            if kind == "keypoints":
                evaluation.params.kpt_oks_sigmas = np.array(sigmas)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            by_number = _by_category(evaluation)
            by_category = {int(numbering.categories[number - 1]): ap for number, ap in by_number.items()}
            numbers[kind] = Numbers([float(number) for number in evaluation.stats], by_category)
    return numbers


class Numbering(NamedTuple):
    """Ids in ascending order: id k has the number k + 1."""

    images: np.ndarray  # (I,) int64
    categories: np.ndarray  # (C,) int64

    @classmethod
    def of(cls, truth: dict[str, Any]) -> Numbering:
        images, categories = (sorted({entry["id"] for entry in truth[key]}) for key in ("images", "categories"))
        return cls(np.array(images, np.int64), np.array(categories, np.int64))

    def renumber(self, truth: dict[str, Any]) -> None:
        """Replace the ids of a COCO file's content in place."""
        images, categories = (dict(zip(ids.tolist(), range(1, len(ids) + 1), strict=True)) for ids in self)
        for entries, key, numbers in (
            (truth["images"], "id", images),
            (truth["categories"], "id", categories),
            (truth["annotations"], "image_id", images),
            (truth["annotations"], "category_id", categories),
        ):
            for entry in entries:
                entry[key] = numbers[entry[key]]

    def rows(self, rows: Rows) -> Rows:
        """Detections with numbers for ids, without those of unlisted categories."""
        category = rows.rows[:, 5].astype(np.int64)
        keep = np.isin(category, self.categories)
        values = rows.rows[keep]
        values[:, 5] = np.searchsorted(self.categories, category[keep]) + 1
        return Rows(
            np.searchsorted(self.images, rows.images[keep]) + 1,
            values,
            [mask for mask, kept in zip(rows.masks, keep.tolist(), strict=True) if kept] if rows.masks else [],
            rows.keypoints[keep] if len(rows.keypoints) else rows.keypoints,
        )


def _pycocotools(truth: dict[str, Any]) -> Callable[[str, Rows], Any]:
    """(kind, rows) -> pycocotools' COCOeval."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def evaluation(kind: str, rows: Rows) -> Any:
        # loadRes fails for an empty list, makes a polygon of every box, and uses the box's area for masks
        sides: list[Any] = [COCO(), COCO()]
        for side, objects in zip(sides, (truth["annotations"], annotations_of(kind, rows)), strict=True):
            side.dataset = {**truth, "annotations": objects}
            side.createIndex()
        return COCOeval(sides[0], sides[1], IOU_TYPE[kind])

    return evaluation


def _hotcoco(truth: dict[str, Any]) -> Callable[[str, Rows], Any]:
    """(kind, rows) -> hotcoco's COCOeval."""
    from hotcoco import COCO, COCOeval

    whole = COCO(truth)

    def evaluation(kind: str, rows: Rows) -> Any:
        if not len(rows.images):
            return COCOeval(whole, COCO({**truth, "annotations": []}), IOU_TYPE[kind])
        if kind == "keypoints":  # hotcoco computes the areas itself
            columns = (rows.images.tolist(), *rows.rows[:, 4:].T.tolist(), _flat(rows.keypoints))
            found = whole.load_res(
                [
                    {"image_id": image, "category_id": int(category), "score": score, "keypoints": points}
                    for image, score, category, points in zip(*columns, strict=True)
                ]
            )
        else:
            segmentation: Any = rows.masks or None
            found = whole.load_res(np.column_stack((rows.images, rows.rows)), segmentation=segmentation)
        if kind == "masks":
            found.update_anns(ids=np.arange(1, len(rows.images) + 1), area=areas_of(kind, rows))
        return COCOeval(whole, found, IOU_TYPE[kind])

    return evaluation


def annotations_of(kind: str, rows: Rows) -> list[dict[str, Any]]:
    """Detections as COCO dicts with ids from 1, since 0 means unmatched."""
    columns = (rows.images.tolist(), rows.rows.tolist(), areas_of(kind, rows).tolist())
    annotations: list[dict[str, Any]] = [
        {"id": n, "image_id": i, "category_id": int(row[5]), "bbox": row[:4], "score": row[4], "area": a, "iscrowd": 0}
        for n, (i, row, a) in enumerate(zip(*columns, strict=True), start=1)
    ]
    for entry, runs in zip(annotations, rows.masks, strict=False):
        entry["segmentation"] = runs
    for entry, points in zip(annotations, _flat(rows.keypoints), strict=False):
        entry["keypoints"] = points
    return annotations


def _flat(keypoints: np.ndarray) -> list[list[float]]:
    """(N, K, 3) -> N lists of x y v x y v ..."""
    return keypoints.reshape(len(keypoints), keypoints.shape[1] * 3).tolist()


def areas_of(kind: str, rows: Rows) -> np.ndarray:
    """(N,) in pixels."""
    if kind == "masks":
        few = range(0, len(rows.masks), 255)  # pycocotools 2.0.11 counts the masks of one call in a byte
        return np.concatenate([np.zeros(0), *(codec.area(rows.masks[i : i + 255]) for i in few)])
    if kind == "keypoints":
        x, y = rows.keypoints[:, :, 0], rows.keypoints[:, :, 1]
        return (x.max(1) - x.min(1)) * (y.max(1) - y.min(1))
    return rows.rows[:, 2] * rows.rows[:, 3]


def _by_category(evaluation: Any) -> dict[int, float]:
    """{category id: AP}."""
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # all areas, most detections: (T, R, K)
    valid = precision > -1
    mean = np.where(valid, precision, 0).sum((0, 1)) / np.maximum(valid.sum((0, 1)), 1)
    mean[~valid.any((0, 1))] = -1
    return dict(zip(map(int, evaluation.params.catIds), mean.tolist(), strict=True))
