"""COCO AP of boxes, masks and keypoints, in original pixels and the file's category ids.

    add(image, detections, scale) -> Found, in original pixels and source category ids -> results() -> COCO result JSON
                                                                                       -> summary(), per_class()

The ground truth is every annotation of the file: with crowds, on which detections are not counted as false
positives, and empty boxes, which nothing can match; so AP equals that of pycocotools on the same files. pycocotools
is the reference; hotcoco, if installed, gives the same numbers many times faster.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from detection.data.annotations.box_format import check_boxes, fit_turned_only
from detection.data.coco import CocoDetection
from detection.data.masks.paste import merged
from detection.eval.matched import AREAS_OF, matches_of
from detection.eval.official import Numbers, Rows, evaluate_kinds
from detection.eval.results import Found, entries, read_detections, read_entries
from detection.statistics.bootstrap import Statistic
from detection.statistics.matching import Matches
from detection.types import Detections
from shared.errors import DataError, UsageError, plural

log = logging.getLogger(__name__)


def _twelve(what: str) -> tuple[str, ...]:
    ap = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    return tuple(f"{what}_{name}" for name in (*ap, "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"))


METRICS = _twelve("box")
METRICS_OF = {
    "boxes": METRICS,
    "masks": _twelve("mask"),
    "keypoints": (
        *("keypoint_ap", "keypoint_ap50", "keypoint_ap75", "keypoint_ap_medium", "keypoint_ap_large"),
        *("keypoint_ar", "keypoint_ar50", "keypoint_ar75", "keypoint_ar_medium", "keypoint_ar_large"),
    ),
}


def of_kind(kind: str) -> str:
    """What AP of a kind is called in the list of classes: "ap", "mask ap", "keypoint ap"."""
    return "ap" if kind == "boxes" else f"{kind.removesuffix('s')} ap"


class CocoEvaluator:
    """Collects the detections of a data set and computes COCO AP.

    An image that is added twice, as by processes with a padded share, counts once; one that is never added counts as an
    image without detections.

    Args:
        backend: pycocotools, hotcoco, or auto for the faster one that is installed.
        finds: "masks", "keypoints": evaluated besides boxes. The data set must have them; its skeleton has the OKS
            sigmas.
    """

    def __init__(self, dataset: CocoDetection, backend: str = "auto", finds: Sequence[str] = ()) -> None:
        if backend not in ("auto", "pycocotools", "hotcoco"):
            raise UsageError(f"no evaluation backend '{backend}'; give auto, pycocotools or hotcoco")
        installed = importlib.util.find_spec("hotcoco") is not None
        if backend == "hotcoco" and not installed:
            raise UsageError("hotcoco is not installed; pip install hotcoco, or use pycocotools")
        self.backend = ("hotcoco" if installed else "pycocotools") if backend == "auto" else backend
        self.dataset, self.kinds = dataset, ("boxes", *finds)
        self.source_ids = np.array(dataset.classes.source_ids)
        self.known_images = {image_id: index for index, image_id in enumerate(dataset.image_ids)}
        self.found: dict[int, Found] = {}  # by image id
        self.scored: dict[str, Numbers] | None = None
        self.sigmas: tuple[float, ...] | None = None
        if "keypoints" in finds:
            if dataset.skeleton is None:
                raise DataError(
                    f"{dataset.table.path} has no keypoint names; give annotations that have them (person_keypoints)"
                )
            self.sigmas = dataset.skeleton.sigmas

    def add(self, image_id: int, detections: Detections, scale: tuple[float, float]) -> None:
        """Add the detections of one image; masks are converted to RLE immediately.

        Args:
            detections: in pixels of the network's input, labels from 0.
            scale: (vertical, horizontal), original size divided by the unpadded input size.

        Raises:
            Refusal: a box, keypoint or score is NaN or Inf, or a label is out of range.
        """
        size = self.original_size(image_id)
        self.take({image_id: read_detections(image_id, detections, scale, size, self.source_ids)})

    def original_size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of an image in the file. Raises DataError for an unknown image."""
        if image_id not in self.known_images:
            raise DataError(
                f"image {image_id} is not in {self.dataset.table.path}; evaluate with the file it belongs to"
            )
        return self.dataset.height_width(self.known_images[image_id])

    def take(self, found: Mapping[int, Found]) -> None:
        """Add the detections of another process. Each image is taken from the first process that has it."""
        for image_id, own in found.items():
            self.original_size(image_id)  # raises for images of another file
            self._check_keypoints(image_id, own)
            self.found.setdefault(image_id, own)
        self.scored = None

    def merge(self, parts: Iterable[list[dict[str, Any]]]) -> None:
        """Add COCO results, such as those of a result file. Each image is taken from the first part that has it.

        Results of a category that the annotations do not list count nowhere, as in pycocotools; a warning says so.

        Raises:
            DataError: an entry is not a COCO result, or of another file.
        """
        for results in parts:
            found = read_entries(results, self.original_size)
            self._check_pixels(found)
            listed = set(self.dataset.classes.source_ids)
            categories = [category for own in found.values() for category in own.rows[:, 5].astype(np.int64).tolist()]
            if strange := [category for category in categories if category not in listed]:
                log.warning(
                    "%d of %d results have a category that %s does not list, such as %d, and are not counted",
                    *(len(strange), len(categories), self.dataset.table.path, strange[0]),
                )
            self.take(found)

    def _check_pixels(self, found: Mapping[int, Found]) -> None:
        """Raise DataError if the boxes are in another format, or of photographs turned another way than the file's."""
        if not found:
            return
        boxes = np.concatenate([own.rows[:, :4] for own in found.values()])
        image = np.repeat(np.array([*found], dtype=np.int64), [len(own.rows) for own in found.values()])
        sizes = np.array([self.original_size(image_id)[::-1] for image_id in found], dtype=float)
        limit = np.repeat(sizes, [len(own.rows) for own in found.values()], axis=0)
        check_boxes(boxes, limit, "the results")
        if turned := fit_turned_only(boxes, limit, image):
            raise DataError(
                f"the results of {plural(len(turned), 'image')}, such as {turned[0]}, fit only if the image is turned "
                f"by 90 degrees, so they are of photographs that were turned by EXIF, and those of "
                f"{self.dataset.table.path} are not; detect with this file (`detect predict --coco-json-path`)"
            )

    def results(self) -> list[dict[str, Any]]:
        """COCO results, by image id, each image's detections in the order they were added."""
        ids = sorted(self.found)
        return [entry for i in ids for entry in entries(i, self.found[i], self.original_size(i))]

    def summary(self) -> dict[str, float]:
        """The metrics of METRICS_OF, from 0 to 1, the headline first; -1, as in pycocotools, if the file has no such
        objects."""
        numbers = self._score()
        return {
            name: value
            for kind in self.kinds
            for name, value in zip(METRICS_OF[kind], numbers[kind].summary, strict=True)
        }

    def per_class(self, kind: str = "boxes") -> dict[str, float]:
        """AP by class name, for classes with objects."""
        classes, ap = self.dataset.classes, self._score()[kind].by_category
        return {
            name: ap[category]
            for name, category in zip(classes.names, classes.source_ids, strict=True)
            if ap[category] > -1
        }

    def matches(self, kind: str = "boxes") -> Matches:
        """The detections of a kind matched with its objects, for intervals and comparisons."""
        return matches_of(kind, self.dataset, self.rows(kind), self.sigmas)

    def statistics(self, kind: str = "boxes") -> dict[str, Statistic]:
        """The metrics of `summary` and `per_class` that can be computed from `matches`: all but recall at 1 and 10."""
        categories = np.arange(len(self.source_ids))
        what, limit = ("keypoint", "") if kind == "keypoints" else (kind.removesuffix("es").removesuffix("s"), "100")
        sizes = ["", "_medium", "_large"] if kind == "keypoints" else ["", "_small", "_medium", "_large"]
        rows = dict(enumerate([*sizes, "50", "75"]))
        found = {f"{what}_ap{name}": Statistic("precision", row, categories) for row, name in rows.items()}
        found |= {
            f"{what}_ar{name or limit}": Statistic("recall", row, categories)
            for row, name in rows.items()
            if kind == "keypoints" or row < len(AREAS_OF[kind])
        }
        return found | self.statistics_by_class(kind)

    def statistics_by_class(self, kind: str) -> dict[str, Statistic]:
        """AP of each class, by the names of `detect eval`."""
        places = np.searchsorted(np.sort(self.source_ids), self.source_ids)
        names = [f"{of_kind(kind)} of {name}" for name in self.dataset.classes.names]
        return {name: Statistic("precision", 0, place[None]) for name, place in zip(names, places, strict=True)}

    def _score(self) -> dict[str, Numbers]:
        """Results by kind, cached."""
        if self.scored is None:
            truth = self.dataset.ground_truth()
            if self.sigmas is not None:
                _complete_keypoints(truth, len(self.sigmas))
            found = {kind: self.rows(kind) for kind in self.kinds}
            self.scored = evaluate_kinds(truth, found, self.backend, self.sigmas)
        return self.scored

    def rows(self, kind: str) -> Rows:
        """Detections of all images that have this kind."""
        count, ids = len(self.sigmas or ()), sorted(self.found)
        every = [self.found[i] for i in ids]
        images = np.repeat(np.array(ids, np.int64), [len(own.rows) for own in every])
        rows = np.concatenate([np.zeros((0, 6)), *(own.rows for own in every)])
        masks: list[dict[str, Any]] = []
        points = np.zeros((0, count, 3))
        keep = np.ones(len(rows), dtype=bool)
        if kind == "masks":
            keep = np.array([bool(runs) for own in every for runs in own.masks or [b""] * len(own.rows)], dtype=bool)
            for image_id, own in zip(ids, every, strict=True):
                size = [*self.original_size(image_id)]
                masks += [{"size": size, "counts": runs} for runs in own.masks or () if runs]
        elif kind == "keypoints":
            nowhere = (
                np.full((len(own.rows), count, 3), np.nan) if own.keypoints is None else own.keypoints for own in every
            )
            points = np.concatenate([points, *nowhere])
            keep = np.isfinite(points[:, 0, 0])
            points = points[keep]
        return Rows(images[keep], rows[keep], masks, points)

    def _check_keypoints(self, image_id: int, found: Found) -> None:
        if self.sigmas is not None and found.keypoints is not None and found.keypoints.shape[1] != len(self.sigmas):
            raise DataError(
                f"image {image_id} has detections of {found.keypoints.shape[1]} keypoints, but the annotations have "
                f"{len(self.sigmas)}; evaluate against a file with the same skeleton"
            )


def _complete_keypoints(truth: dict[str, Any], count: int) -> None:
    """Add unlabeled keypoints to objects without any, which pycocotools ignores."""
    for annotation in truth["annotations"]:
        if not annotation.get("keypoints"):
            annotation |= {"keypoints": [0] * (3 * count), "num_keypoints": 0}


def ground_truth_as_results(dataset: CocoDetection) -> list[dict[str, Any]]:
    """The ground truth as results with score 1, without crowds and empty boxes.

    Their AP is 1 unless the file has empty boxes or masks, which count as missed. Keypoint AP is 1 if no image has more
    than 20 objects, the limit of pycocotools.
    """
    truth, results = dataset.ground_truth(), []
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for annotation in truth["annotations"]:
        if annotation["iscrowd"] or annotation["bbox"][2] <= 0 or annotation["bbox"][3] <= 0:
            continue
        entry = {name: annotation[name] for name in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        if annotation.get("segmentation"):
            size = sizes[annotation["image_id"]]
            entry["segmentation"] = {
                "size": [*size],
                "counts": merged(annotation["segmentation"], size).decode("ascii"),
            }
        if annotation.get("num_keypoints"):
            entry["keypoints"] = annotation["keypoints"]
        results.append(entry)
    return results
