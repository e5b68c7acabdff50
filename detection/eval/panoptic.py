"""Panoptic quality (PQ).

Kirillov, He, Girshick, Rother, Dollar, "Panoptic Segmentation", 2019.

    two maps of one image -> pairs of segments of one class with IoU above 0.5: true positives
                          -> Counts by category -> PQ = sum of IoU / (TP + FP / 2 + FN / 2)
                                                   SQ = mean IoU of TP, RQ = PQ / SQ; means over classes

Unlabeled pixels are in no union. A crowd is never a false negative, and a segment with more than half of its pixels
on a crowd of its class or on unlabeled pixels is not a false positive. As in COCO's own evaluation (panopticapi), the
area of a true segment is the one in the JSON, and of several crowds of a class in one image only the last one counts.
Where areas counted in the PNGs and all crowds give another PQ, `summary` logs it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from detection.data.annotations.json_values import whole_number, without_json
from detection.data.annotations.panoptic_json import Segment, check_ids, read_annotations, read_ids, read_json
from detection.data.panoptic import PanopticDetection
from detection.eval.coco import CocoEvaluator
from detection.eval.panoptic_output import coco_segments
from detection.eval.results import Found
from detection.parts.query.mask_queries import Segmented
from detection.parts.query.panoptic import SURE, panoptic_map
from detection.types import Detections
from shared.errors import DataError, Refusal

log = logging.getLogger(__name__)
Counts = dict[int, np.ndarray]  # category -> (4,) sum of IoU, TP, FP, FN
METRICS = tuple(f"{word}{of}" for of in ("", "_things", "_stuff") for word in ("pq", "sq", "rq"))


def compared(
    truth: np.ndarray,
    segments: Sequence[Segment],
    found: np.ndarray,
    claims: Sequence[Segment],
    *,
    by_pixels: bool = False,
) -> Counts:
    """Counts of one image.

    Args:
        truth: (H, W) ids of `segments`; other values are unlabeled.
        found: (H, W) ids of `claims`, the predicted segments.
        by_pixels: count areas in `truth` instead of taking those of the segments, and use every crowd.
    """
    overlap = shared_pixels(truth, [s.id for s in segments], found, [c.id for c in claims])
    void, counted = overlap[-1, :-1], overlap[:-1].sum(1).tolist()
    areas = np.array(
        [pixels if by_pixels or s.area is None else s.area for s, pixels in zip(segments, counted, strict=True)], float
    )
    own, both = overlap[:, :-1].sum(0), overlap[:-1, :-1]
    of_truth, of_found = (np.array([s.category for s in side], np.int64) for side in (segments, claims))
    crowd = np.array([s.crowd for s in segments], dtype=bool)
    same = of_truth[:, None] == of_found
    union = areas[:, None] + own - both - void
    iou = np.where(same & ~crowd[:, None], both / np.maximum(union, 1), 0)
    hit = iou > 0.5
    ignoring = crowd if by_pixels else last_crowds(segments)
    ignored = void + (both * (same & ignoring[:, None])).sum(0) > 0.5 * own
    counts: Counts = {}

    def add(categories: np.ndarray, column: int, values: Any) -> None:
        for category, value in zip(categories.tolist(), np.broadcast_to(values, categories.shape), strict=True):
            counts.setdefault(category, np.zeros(4))[column] += value

    rows, columns = np.nonzero(hit)
    add(of_truth[rows], 0, iou[rows, columns])
    add(of_truth[rows], 1, 1)
    add(of_found[~hit.any(0) & ~ignored], 2, 1)
    add(of_truth[~hit.any(1) & ~crowd], 3, 1)
    return counts


def last_crowds(segments: Sequence[Segment]) -> np.ndarray:
    """(T,) bool: the crowds that are the last of their class."""
    last = {segment.category: place for place, segment in enumerate(segments) if segment.crowd}
    return np.array([last.get(s.category) == place for place, s in enumerate(segments)], dtype=bool)


def shared_pixels(truth: np.ndarray, ids: Sequence[int], found: np.ndarray, claimed: Sequence[int]) -> np.ndarray:
    """(T + 1, F + 1) int64: common pixels of each pair; the last row and column are unlabeled."""
    rows, columns = places(truth, ids), places(found, claimed)
    cells = (len(ids) + 1) * (len(claimed) + 1)
    flat = (rows * (len(claimed) + 1) + columns).ravel()
    return np.bincount(flat, minlength=cells).reshape(len(ids) + 1, len(claimed) + 1)


def places(pixels: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """(H, W) ids -> (H, W) index into `ids`; len(ids) for other values."""
    if not len(ids):
        return np.zeros(pixels.shape, np.int64)
    order = np.argsort(ids)
    known = np.asarray(ids)[order]
    place = np.minimum(np.searchsorted(known, pixels), len(ids) - 1)
    return np.where(known[place] == pixels, order[place], len(ids))


def quality(counts: Mapping[int, np.ndarray]) -> dict[int, tuple[float, float, float]]:
    """PQ, SQ and RQ of each category with true or predicted segments."""
    qualities = {}
    for category, (iou, found, false, missed) in counts.items():
        if whole := found + 0.5 * false + 0.5 * missed:
            qualities[category] = (float(iou / whole), float(iou / max(found, 1)), float(found / whole))
    return qualities


def means(counts: Mapping[int, np.ndarray], things: Mapping[int, bool]) -> dict[str, float]:
    """METRICS, from 0 to 1: of all categories, of things, of stuff; -1 if there are none."""
    each = quality(counts)
    groups = (list(each), [c for c in each if things[c]], [c for c in each if not things[c]])
    rows = [np.mean([each[c] for c in group], axis=0).tolist() if group else [-1.0] * 3 for group in groups]
    return dict(zip(METRICS, (value for row in rows for value in row), strict=True))


# -- the evaluator --------------------------------------------------------------------------------


class Judged(NamedTuple):
    """Detections of one image and its counts."""

    segments_info: list[dict[str, Any]]
    counts: Counts
    by_pixels: Counts  # with areas counted in the PNG, and all crowds
    boxes: Found | None  # None if segments were read from a file


class PanopticEvaluator:
    """Collects the detections of a panoptic data set and computes PQ, with the interface of `CocoEvaluator`.

    An image that is never added counts as an image without detections. Box AP is of things only.

    Args:
        backend: of box AP.
        min_score: detections with this score or less are dropped.
    """

    def __init__(self, dataset: PanopticDetection, backend: str = "auto", *, min_score: float = SURE) -> None:
        self.dataset, self.min_score = dataset, min_score
        self.boxes = CocoEvaluator(dataset, backend)
        self.things = dict(zip(dataset.classes.source_ids, dataset.isthing, strict=True))
        self.found: dict[int, Judged] = {}  # by image id

    def original_size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image in the file."""
        return self.boxes.original_size(image_id)

    def add(self, image_id: int, detections: Detections, scale: tuple[float, float]) -> None:
        """Add the detections of one image.

        Args:
            detections: in pixels of the network's input, labels from 0, with `segments`.
            scale: (vertical, horizontal), original size divided by the unpadded input size.

        Raises:
            Refusal: no masks of the whole image, or NaN.
        """
        if "segments" not in detections:
            raise Refusal("this network has no panoptic masks; evaluate it on boxes, or train detr_panoptic")
        self.boxes.add(image_id, without_masks(detections), scale)
        found = panoptic_map(
            cast(Segmented, detections), self.dataset.isthing, self.original_size(image_id), min_score=self.min_score
        )
        ids, info = coco_segments(found, self.dataset.classes.source_ids, self.dataset.isthing)
        claims = [Segment(own["id"], own["category_id"]) for own in info]
        judged = Judged(info, *self.judge(image_id, ids, claims), self.boxes.found[image_id])
        self.found.setdefault(image_id, judged)

    def judge(self, image_id: int, found: np.ndarray, claims: Sequence[Segment]) -> tuple[Counts, Counts]:
        """The official counts of an image, and those by pixels."""
        truth, segments = self.dataset.truth(self.boxes.known_images[image_id])
        known = self.relabeled(segments)
        return compared(truth, known, found, claims), compared(truth, known, found, claims, by_pixels=True)

    def relabeled(self, segments: Sequence[Segment]) -> list[Segment]:
        """Segments with the category ids of the class map; with binary mode there is one."""
        if not self.dataset.classes.everything:
            return list(segments)
        return [segment._replace(category=self.dataset.classes.source_ids[0]) for segment in segments]

    def take(self, found: Mapping[int, Judged]) -> None:
        """Add the detections of another process. Each image is taken from the first process that has it."""
        for image_id, own in found.items():
            self.found.setdefault(image_id, own)
            if own.boxes is not None:
                self.boxes.take({image_id: own.boxes})

    def merge(self, files: Iterable[Path]) -> None:
        """Add a panoptic JSON with its folder of PNGs of the same name, as written by `detect predict`.

        Raises:
            DataError: not a panoptic JSON, or of other images or categories.
        """
        for path in files:
            top, _ = read_json(path)
            entries = top.get("annotations") if isinstance(top, dict) else None
            if not isinstance(entries, list):
                raise DataError(f"{path} is not a panoptic JSON: it has no list 'annotations'; see cocodataset.org")
            pngs, infos = read_annotations(entries, path)
            for image_id, png in pngs.items():
                size = self.original_size(image_id)
                claims = [self.claim(info, image_id, path) for info in infos[image_id]]
                ids = read_ids(without_json(path) / png, size)
                check_ids(ids, claims, without_json(path) / png, path)
                self.take({image_id: Judged(infos[image_id], *self.judge(image_id, ids, claims), None)})

    def claim(self, info: Any, image_id: int, path: Path) -> Segment:
        entry = info if isinstance(info, dict) else {}
        number, category = whole_number(entry.get("id")), whole_number(entry.get("category_id"))
        if number is None or category not in self.things:
            raise DataError(
                f"{path}: image {image_id}, segment {number} has the category {category}, which is not in the "
                "ground truth; evaluate it with the file it belongs to"
            )
        return Segment(number, cast(int, category))

    def counts(self, *, by_pixels: bool = False) -> Counts:
        """Sum over all images; images that were never added have only false negatives."""
        total: Counts = {}
        nothing = [image_id for image_id in self.boxes.known_images if image_id not in self.found]
        missed = (self.missed(image_id) for image_id in nothing)
        for part in (*(own.by_pixels if by_pixels else own.counts for own in self.found.values()), *missed):
            for category, row in part.items():
                total[category] = total.get(category, 0) + row
        return total

    def missed(self, image_id: int) -> Counts:
        segments = self.relabeled(self.dataset.book.segments[image_id])
        empty = np.zeros((1, 1), np.int32)
        return compared(empty, segments, empty, [])

    def summary(self) -> dict[str, float]:
        """METRICS, the headline first, and the box AP of things if there are boxes."""
        metrics = means(self.counts(), self.things)
        exact = means(self.counts(by_pixels=True), self.things)["pq"]
        if exact != metrics["pq"]:
            log.info(
                "PQ is %.4f by COCO's own evaluation, and %.4f if areas are counted in the PNGs and every crowd, not "
                "only the last one of its class, is used",
                metrics["pq"],
                exact,
            )
        with_boxes = any(own.boxes is not None for own in self.found.values())
        return metrics | (self.boxes.summary() if with_boxes else {})

    def per_class(self) -> dict[str, float]:
        """PQ by class name, for classes with true or predicted segments."""
        each, classes = quality(self.counts()), self.dataset.classes
        return {
            name: each[category][0]
            for name, category in zip(classes.names, classes.source_ids, strict=True)
            if category in each
        }

    def results(self) -> list[dict[str, Any]]:
        """The annotations of a panoptic JSON, by image id; `detect predict` writes the PNGs."""
        return [
            {"image_id": image_id, "file_name": f"{image_id:012d}.png", "segments_info": own.segments_info}
            for image_id, own in sorted(self.found.items())
        ]


def without_masks(detections: Detections) -> Detections:
    return Detections(boxes=detections["boxes"], labels=detections["labels"], scores=detections["scores"])
