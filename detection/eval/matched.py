"""An evaluator's detections matched with its objects once, for intervals and comparisons; equal to pycocotools.

    dataset, Rows of a kind -> objects, similarity -> Matches

Similarity is IoU of boxes or masks, where a crowd is compared by the detection's own area, or OKS of keypoints. Images
and categories are rows in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detection.data.coco import CocoDetection, beyond_boxes
from detection.data.masks.paste import codec, merged
from detection.eval.official import Rows, areas_of
from detection.statistics.matching import AREAS, Finds, Matches, Objects, Similarity, match
from shared.feeding.columns import exact

MOST = {"boxes": 100, "masks": 100, "keypoints": 20}  # detections per image and category, as in pycocotools
AREAS_OF = {"boxes": AREAS, "masks": AREAS, "keypoints": (AREAS[0], *AREAS[2:])}


def matches_of(kind: str, dataset: CocoDetection, found: Rows, sigmas: Sequence[float] | None = None) -> Matches:
    """COCO's matching of a kind of detections (boxes, masks, keypoints).

    Args:
        found: with ids of the source; detections of unlisted categories are left out.
        sigmas: K, OKS sigmas.
    """
    objects, similarity = objects_of(kind, dataset), similarity_of(kind, dataset, found, sigmas)
    ids = np.sort(np.array(dataset.classes.source_ids))
    categories = found.rows[:, 5].astype(np.int64)
    listed = np.flatnonzero(np.isin(categories, ids))
    finds = Finds(
        np.searchsorted(np.sort(dataset.table.image_ids), found.images[listed]),
        np.searchsorted(ids, categories[listed]),
        found.rows[listed, 4],
        areas_of(kind, found)[listed],
    )
    matches = match(
        objects,
        finds,
        lambda claims, own: similarity(listed[claims], own),
        num_images=len(dataset.table.image_ids),
        num_categories=len(ids),
        most=MOST[kind],
        areas=AREAS_OF[kind],
    )
    return matches._replace(rows=listed[matches.rows])


def objects_of(kind: str, dataset: CocoDetection) -> Objects:
    """Every annotation; of keypoints, those without a labeled one need not be found."""
    table = dataset.table
    ids = np.array(dataset.classes.source_ids)
    ignored = table.crowd
    if kind == "keypoints" and table.keypoints is not None:
        ignored = ignored | ~(table.keypoints[:, :, 2] > 0).any(1)
    return Objects(
        np.searchsorted(np.sort(table.image_ids), table.image_ids[table.image_of]),
        np.searchsorted(np.sort(ids), ids[dataset.labels]),
        table.areas,
        table.crowd,
        ignored,
    )


def similarity_of(kind: str, dataset: CocoDetection, found: Rows, sigmas: Sequence[float] | None = None) -> Similarity:
    """(rows of `found`, rows of annotations) -> (D, G)."""
    table = dataset.table
    crowd = table.crowd.astype(np.uint8)
    if kind == "keypoints":
        assert table.keypoints is not None and sigmas is not None
        points = np.stack([exact(own) for own in table.keypoints]) if len(table.keypoints) else table.keypoints
        return lambda claims, own: object_keypoint_similarity(
            found.keypoints[claims, :, :2], points[own], table.boxes[own], table.areas[own], np.array(sigmas)
        )
    if kind == "masks":
        sizes = table.sizes[table.image_of].tolist()
        known: dict[int, dict[str, object]] = {}

        def outline(row: int) -> dict[str, object]:
            if row not in known:
                size = (sizes[row][0], sizes[row][1])
                segmentation = beyond_boxes(table, row)["segmentation"]
                known[row] = {"size": [*size], "counts": merged(segmentation, size)}
            return known[row]

        def overlap(claims: np.ndarray, own: np.ndarray) -> np.ndarray:
            masks = [found.masks[row] for row in claims.tolist()]
            return np.asarray(codec.iou(masks, [outline(row) for row in own.tolist()], crowd[own]))

        return overlap
    return lambda claims, own: np.asarray(codec.iou(found.rows[claims, :4], table.boxes[own], crowd[own]))


def object_keypoint_similarity(
    found: np.ndarray, points: np.ndarray, boxes: np.ndarray, areas: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """OKS (D, G) as pycocotools computes it: over labeled keypoints; of objects without any, by the distance from a
    box three times as wide and high.

    Args:
        found: (D, K, 2) x y.
        points: (G, K, 3) x y visibility.
        boxes: (G, 4) x y w h.
        areas: (G,) pixels.
    """
    seen = np.asarray(points[:, :, 2] > 0)
    low, high = boxes[:, None, :2] - boxes[:, None, 2:], boxes[:, None, :2] + 2 * boxes[:, None, 2:]
    away = found[:, None] - points[None, :, :, :2]
    beyond = np.maximum(low - found[:, None], 0) + np.maximum(found[:, None] - high, 0)
    labeled = np.asarray(seen.any(1))
    squares = np.where(labeled[:, None, None], away, beyond) ** 2
    error = (squares[..., 0] + squares[..., 1]) / (sigmas * 2) ** 2 / (areas[:, None] + np.spacing(1)) / 2
    counted = seen | ~labeled[:, None]
    return np.where(counted, np.exp(-error), 0.0).sum(-1) / counted.sum(-1)
