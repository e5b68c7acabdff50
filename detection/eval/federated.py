"""LVIS's rules of evaluation as precision and recall, by pycocotools (the reference) or hotcoco (faster).

    truth, detections -> 1. the 300 best detections of each image over all categories, the first of equal scores
                         2. without detections and objects of no area
                         3. without detections of a category that is neither among the image's objects nor known to be
                            absent: they have used up places, but nobody knows whether they are right
                      -> 4. matched as in COCO, category by category; `iscrowd` is not looked at
                         5. unmatched detections of a category that is not annotated exhaustively count as nothing
                         6. areas as in COCO
                      -> Curves

Steps 1 to 3 are done here, on columns, for both backends: what is left of LVIS is few pairs of image and category.
Step 5 is hotcoco's own for LVIS, and the one line that pycocotools lacks.

Gupta, Dollar, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", 2019.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from detection.data.masks.paste import codec, merged
from detection.eval.official import IOU_TYPE, Rows, annotations_of, areas_of
from detection.statistics.matching import AREAS, PLACES, THRESHOLDS, Finds, Matches, Objects, match

PER_IMAGE = 300  # detections that count
PER_CATEGORY = 10_000  # of AP fixed


class Truth(NamedTuple):
    """A objects in I images with C categories, each by its row; what is known of each pair of image and category."""

    images: np.ndarray  # (A,) int64
    categories: np.ndarray  # (A,) int64
    boxes: np.ndarray  # (A, 4) float64 x y w h
    areas: np.ndarray  # (A,) float64
    masks: list[Any]  # A polygons or RLE, or none
    sizes: np.ndarray  # (I, 2) height, width
    absent: np.ndarray  # (I, C) bool
    unfinished: np.ndarray  # (I, C) bool

    def select(self, keep: np.ndarray) -> Truth:
        """(A,) bool -> the same images with these objects."""
        masks = [self.masks[row] for row in np.flatnonzero(keep).tolist()] if self.masks else []
        columns = (self.images[keep], self.categories[keep], self.boxes[keep], self.areas[keep])
        return Truth(*columns, masks, *self[5:])

    def present(self) -> np.ndarray:
        """(I, C) bool: pairs with an object."""
        there = np.zeros(self.absent.shape, dtype=bool)
        there[self.images, self.categories] = True
        return there


class Curves(NamedTuple):
    """Precision and recall of T thresholds, R places, C categories, 4 areas; -1 for a category without objects."""

    precision: np.ndarray  # (T, R, C, 4)
    recall: np.ndarray  # (T, C, 4)


def curves_of(kind: str, truth: Truth, found: Rows, backend: str, *, fixed: bool = False) -> Curves:
    """Precision and recall by LVIS's rules.

    Args:
        kind: "boxes" or "masks".
        found: detections, with rows for image and category ids; the category -1 is in no list.
        fixed: limit the detections of each category over all images, not of each image.
    """
    truth, found, most = counted(kind, truth, found, fixed=fixed)
    backend_for = _hotcoco if backend == "hotcoco" else _pycocotools
    with contextlib.redirect_stdout(io.StringIO()):
        return backend_for(kind, truth, found, most)


def counted(kind: str, truth: Truth, found: Rows, *, fixed: bool = False) -> tuple[Truth, Rows, int]:
    """Steps 1 to 3: the objects and detections that count, and the most of an image."""
    scores, groups = found.rows[:, 4], found.rows[:, 5].astype(np.int64) if fixed else found.images
    found = taken(found, best_of(groups, scores, PER_CATEGORY if fixed else PER_IMAGE))
    sizes = areas_of(kind, found)
    found = taken(found, (found.rows[:, 5] >= 0) & (sizes > 0) & (sizes < np.inf))
    truth = truth.select((truth.areas > 0) & (truth.areas < np.inf))
    known = truth.present() | truth.absent
    found = taken(found, known[found.images, found.rows[:, 5].astype(np.int64)])
    return truth, found, int(max(np.bincount(found.images).max(initial=1), 1))


def matches_of(kind: str, truth: Truth, found: Rows) -> Matches:
    """The detections matched with the objects by all steps, for intervals."""
    truth, found, most = counted(kind, truth, found)
    nothing = np.zeros(len(truth.images), dtype=bool)
    objects = Objects(truth.images, truth.categories, truth.areas, nothing, nothing)
    finds = Finds(found.images, found.rows[:, 5].astype(np.int64), found.rows[:, 4], areas_of(kind, found))
    crowd = nothing.astype(np.uint8)

    def similarity(claims: np.ndarray, own: np.ndarray) -> np.ndarray:
        if kind == "boxes":
            return np.asarray(codec.iou(found.rows[claims, :4], truth.boxes[own], crowd[own]))
        sizes = truth.sizes[truth.images[own]].tolist()
        outlines = [
            {"size": size, "counts": merged(truth.masks[row], (size[0], size[1]))}
            for row, size in zip(own.tolist(), sizes, strict=True)
        ]
        return np.asarray(codec.iou([found.masks[row] for row in claims.tolist()], outlines, crowd[own]))

    return match(
        objects,
        finds,
        similarity,
        num_images=len(truth.sizes),
        num_categories=truth.absent.shape[1],
        most=most,
        unfinished=truth.unfinished,
    )


def best_of(groups: np.ndarray, scores: np.ndarray, most: int) -> np.ndarray:
    """(N,) whole numbers, (N,) -> (N,) bool: the best of each group; of equal scores the first."""
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if counts.max(initial=0) <= most:
        return np.ones(len(groups), dtype=bool)
    order = np.lexsort((-scores, group))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    keep = np.zeros(len(groups), dtype=bool)
    keep[order[rank < most]] = True
    return keep


def taken(found: Rows, keep: np.ndarray) -> Rows:
    """(N,) bool -> these detections."""
    if keep.all():
        return found
    masks = [found.masks[row] for row in np.flatnonzero(keep).tolist()] if found.masks else []
    return Rows(found.images[keep], found.rows[keep], masks, found.keypoints)


# -- backends -------------------------------------------------------------------------------------


def _hotcoco(kind: str, truth: Truth, found: Rows, most: int) -> Curves:
    from hotcoco import COCO, COCOeval, LVISResults

    lists = zip(*(_rows_of(pairs) for pairs in (truth.absent, truth.unfinished)), truth.sizes.tolist(), strict=True)
    images = [
        {"id": n, "height": h, "width": w, "neg_category_ids": absent, "not_exhaustive_category_ids": unfinished}
        for n, (absent, unfinished, (h, w)) in enumerate(lists, start=1)
    ]
    categories = [{"id": n, "name": str(n), "frequency": "f"} for n in range(1, truth.absent.shape[1] + 1)]
    columns = (truth.images + 1, truth.categories + 1, truth.boxes)
    whole = COCO.from_arrays(images, categories, *columns, area=truth.areas, segmentation=truth.masks or None)
    rows = np.column_stack((found.images + 1, found.rows))
    rows[:, 6] += 1
    if not len(rows):
        nobody = np.zeros(0, np.int64)
        results = COCO.from_arrays(images, categories, nobody, nobody, np.zeros((0, 4)))
    elif kind == "masks":
        masks: Any = found.masks
        results = whole.load_res(rows, segmentation=masks)
        results.update_anns(ids=np.arange(1, len(rows) + 1), area=areas_of(kind, found))
    else:
        results = LVISResults(whole, rows, max_dets=-1)
    evaluation = COCOeval(whole, results, IOU_TYPE[kind], lvis_style=True)
    evaluation.params.max_dets = [most]
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval is not None
    precision, recall = (np.asarray(evaluation.eval[name])[..., 0] for name in ("precision", "recall"))
    return Curves(precision, recall)


def _rows_of(pairs: np.ndarray) -> list[list[int]]:
    """(I, C) bool -> the numbers, from 1, of the categories of each image."""
    return [(np.flatnonzero(row) + 1).tolist() for row in pairs]


def _pycocotools(kind: str, truth: Truth, found: Rows, most: int) -> Curves:
    """Each category on its own, with the images that have it alone: all others add nothing."""
    count = truth.absent.shape[1]
    precision = np.full((len(THRESHOLDS), len(PLACES), count, len(AREAS)), -1.0)
    recall = np.full((len(THRESHOLDS), count, len(AREAS)), -1.0)
    objects = _by_category(truth.categories, count)
    detections = _by_category(found.rows[:, 5].astype(np.int64), count)
    for category, (own, claims) in enumerate(zip(objects, detections, strict=True)):
        if len(own):
            curves = _one_category(kind, truth, found, category, own, claims, most)
            precision[:, :, category], recall[:, category] = curves.precision[:, :, 0], curves.recall[:, 0]
    return Curves(precision, recall)


def _by_category(categories: np.ndarray, count: int) -> list[np.ndarray]:
    """(N,) -> the indices of each category, ascending."""
    order = np.argsort(categories, kind="stable")
    return np.split(order, np.searchsorted(categories[order], np.arange(1, count)))


def _one_category(
    kind: str, truth: Truth, found: Rows, category: int, own: np.ndarray, claims: np.ndarray, most: int
) -> Curves:
    """Curves with C = 1, of the objects `own` and the detections `claims`, by index."""
    from pycocotools.coco import COCO

    theirs = Rows(
        found.images[claims] + 1,
        found.rows[claims],
        [found.masks[i] for i in claims.tolist()] if found.masks else [],
        found.keypoints,
    )
    annotations = [
        {"id": n, "image_id": image + 1, "category_id": category, "bbox": box, "area": area, "iscrowd": 0}
        for n, (image, box, area) in enumerate(
            zip(truth.images[own].tolist(), truth.boxes[own].tolist(), truth.areas[own].tolist(), strict=True), start=1
        )
    ]
    for entry, row in zip(annotations, own.tolist(), strict=True):
        if truth.masks:
            entry["segmentation"] = truth.masks[row]
    numbers = np.unique(np.concatenate((truth.images[own] + 1, theirs.images)))
    images = [
        {"id": n, "height": height, "width": width}
        for n, (height, width) in zip(numbers.tolist(), truth.sizes[numbers - 1].tolist(), strict=True)
    ]
    sides: list[Any] = [COCO(), COCO()]
    for side, entries in zip(sides, (annotations, annotations_of(kind, theirs)), strict=True):
        side.dataset = {"images": images, "categories": [{"id": category, "name": "it"}], "annotations": entries}
        side.createIndex()
    unfinished = set((np.flatnonzero(truth.unfinished[:, category]) + 1).tolist())
    evaluation = _lenient(sides, IOU_TYPE[kind], unfinished)
    evaluation.params.maxDets = [most]
    evaluation.evaluate()
    evaluation.accumulate()
    return Curves(evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0])


def _lenient(sides: Sequence[Any], iou_type: Any, unfinished: set[int]) -> Any:
    """COCOeval that ignores unmatched detections in some images.

    Args:
        unfinished: numbers of the images.
    """
    from pycocotools.cocoeval import COCOeval

    class Lenient(COCOeval):
        def evaluateImg(self, imgId: int, catId: int, aRng: Any, maxDet: int) -> Any:
            seen = super().evaluateImg(imgId, catId, aRng, maxDet)
            if seen is not None and imgId in unfinished:
                seen["dtIgnore"] = np.logical_or(seen["dtIgnore"], seen["dtMatches"] == 0)
            return seen

    return Lenient(sides[0], sides[1], iou_type)
