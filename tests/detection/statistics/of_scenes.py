"""Simulated validation sets: scenes of a known distribution and what detectors of known quality find in them.

    scenes -> found_by -> matched | matched_masks | matched_keypoints -> Matches

A mask is a polygon of CORNERS corners around an oval in its box; a detection's has the box of the detection, and
corners that are as far off as its sides are. Keypoints lie anywhere in the box, so do those of a detection of nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detection.data.masks.paste import codec
from detection.eval.matched import AREAS_OF, MOST, object_keypoint_similarity
from detection.statistics.matching import Finds, Matches, Objects, match

CLASSES = 4
SIDE = 640
CORNERS, POINTS = 12, 17
SIGMA = 0.07  # of every keypoint; the mean of COCO's
LABELED = 0.7  # share of the keypoints of an object of at least 32 x 32 pixels; of smaller ones none


class Scenes(NamedTuple):
    """Objects of I images; how hard each image is."""

    objects: Objects
    boxes: np.ndarray  # (G, 4) x y w h
    hard: np.ndarray  # (I,)


class Found(NamedTuple):
    """What a detector finds."""

    finds: Finds
    boxes: np.ndarray  # (M, 4) x y w h
    source: np.ndarray  # (M,) the object it was seen in, -1 for nothing
    blur: np.ndarray  # (M,) noise of a side, as a share of it


class Detector(NamedTuple):
    """skill: mean quality of a detection. noise: of a side, as a share of it. confused: share of wrong classes.
    ghosts: detections of nothing per image."""

    skill: float = 1.0
    noise: float = 0.08
    confused: float = 0.1
    ghosts: float = 3.0


def scenes(rng: np.random.Generator, images: int) -> Scenes:
    """Images with one to about fifteen objects of four classes, some rarer than others, from 8 to 400 pixels."""
    hard = rng.normal(0, 1, images)
    image = np.repeat(np.arange(images), 1 + rng.negative_binomial(1.2, 0.25, images))
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (len(image), 1))) * np.exp(rng.normal(0, 0.2, (len(image), 2)))
    boxes = np.hstack((rng.random((len(image), 2)) * SIDE, sides)).round(2)
    categories = rng.choice(CLASSES, len(image), p=(0.5, 0.25, 0.15, 0.1))
    crowd = rng.random(len(image)) < 0.01
    return Scenes(Objects(image, categories, boxes[:, 2] * boxes[:, 3], crowd, crowd), boxes, hard)


def found_by(detector: Detector, seen: Scenes, rng: np.random.Generator) -> Found:
    """Detections of objects, once or twice, and of nothing; surer where the scene is easy."""
    objects, images = seen.objects, len(seen.hard)
    small = (np.log(objects.areas) < np.log(32.0**2)).astype(float)
    quality = detector.skill - 0.6 * seen.hard[objects.images] - small + rng.normal(0, 1, len(objects.images))
    times = (quality > -0.5).astype(int) + (rng.random(len(quality)) < 0.15)
    source = np.repeat(np.arange(len(quality)), times)
    blur = detector.noise * np.exp(-0.25 * quality[source])
    noise = blur[:, None] * np.tile(seen.boxes[source, 2:], 2)
    boxes = seen.boxes[source] + rng.normal(0, 1, (len(source), 4)) * noise
    wrong = rng.random(len(source)) < detector.confused
    categories = np.where(wrong, rng.integers(0, CLASSES, len(source)), objects.categories[source])
    scores = quality[source] + rng.normal(0, 0.7, len(source))
    ghosts = np.repeat(np.arange(images), rng.poisson(detector.ghosts * np.exp(0.3 * seen.hard - 0.045)))
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (len(ghosts), 2)))
    boxes = np.concatenate((boxes, np.hstack((rng.random((len(ghosts), 2)) * SIDE, sides))))
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    image = np.concatenate((objects.images[source], ghosts))
    categories = np.concatenate((categories, rng.integers(0, CLASSES, len(ghosts))))
    scores = np.concatenate((scores, rng.normal(-0.8, 1, len(ghosts))))
    finds = Finds(image, categories, 1 / (1 + np.exp(-scores)), boxes[:, 2] * boxes[:, 3])
    return Found(
        finds,
        boxes,
        np.concatenate((source, np.full(len(ghosts), -1))),
        np.concatenate((blur, np.full(len(ghosts), detector.noise))),
    )


def matched(seen: Scenes, found: Found) -> Matches:
    """COCO's matching of boxes."""
    crowd = seen.objects.crowd.astype(np.uint8)

    def similarity(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
        return np.asarray(codec.iou(found.boxes[rows], seen.boxes[own], crowd[own]))

    return match(seen.objects, found.finds, similarity, num_images=len(seen.hard), num_categories=CLASSES, most=100)


def matched_masks(seen: Scenes, found: Found, rng: np.random.Generator) -> Matches:
    """COCO's matching of masks; the areas are those of the masks.

    Args:
        rng: draws the shapes of objects, then those of detections: the same objects for the same state.
    """
    shapes = rng.uniform(0.7, 1.0, (len(seen.boxes), CORNERS))
    of_found = np.where(found.source[:, None] >= 0, shapes[found.source], rng.uniform(0.7, 1.0, (1, CORNERS)))
    of_found = (of_found + rng.normal(0, 1, of_found.shape) * found.blur[:, None]).clip(0.2, 1.3)
    own_masks, masks = masks_of(seen.boxes, shapes), masks_of(found.boxes, of_found)
    crowd = seen.objects.crowd.astype(np.uint8)

    def similarity(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
        return np.asarray(codec.iou([masks[row] for row in rows], [own_masks[row] for row in own], crowd[own]))

    objects = seen.objects._replace(areas=areas_of(own_masks))
    finds = found.finds._replace(areas=areas_of(masks))
    return match(objects, finds, similarity, num_images=len(seen.hard), num_categories=CLASSES, most=MOST["masks"])


def masks_of(boxes: np.ndarray, shapes: np.ndarray) -> list[dict[str, object]]:
    """COCO's RLE of N polygons: around ovals in `boxes`, corners at `shapes` (N, CORNERS) of the oval's radius."""
    angles = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    around = np.stack((np.cos(angles), np.sin(angles)), 1)[None] * shapes[:, :, None]
    corners = boxes[:, None, :2] + boxes[:, None, 2:] * (1 + around) / 2
    flat = corners.clip(0, SIDE).reshape(len(boxes), -1)
    return [codec.frPyObjects([polygon], SIDE, SIDE)[0] for polygon in flat.tolist()]


def areas_of(masks: list[dict[str, object]]) -> np.ndarray:
    return np.array([float(codec.area(mask)) for mask in masks])


def matched_keypoints(seen: Scenes, found: Found, rng: np.random.Generator) -> Matches:
    """COCO's matching of the keypoints of one class, which all objects are of. `rng`: as in `matched_masks`."""
    within = rng.random((len(seen.boxes), POINTS, 2))
    labeled = (rng.random((len(seen.boxes), POINTS)) < LABELED) & (seen.objects.areas >= 32.0**2)[:, None]
    points = np.concatenate((seen.boxes[:, None, :2] + within * seen.boxes[:, None, 2:], labeled[..., None]), 2)
    anywhere = found.boxes[:, None, :2] + rng.random((len(found.boxes), POINTS, 2)) * found.boxes[:, None, 2:]
    noise = (found.blur * np.sqrt(found.finds.areas))[:, None, None] * rng.normal(0, 1, anywhere.shape)
    places = np.where(found.source[:, None, None] >= 0, points[found.source, :, :2] + noise, anywhere)
    ignored = seen.objects.ignored | ~labeled.any(1)
    objects = seen.objects._replace(categories=np.zeros_like(seen.objects.categories), ignored=ignored)
    finds = found.finds._replace(categories=np.zeros_like(found.finds.categories))
    sigmas = np.full(POINTS, SIGMA)

    def similarity(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
        return object_keypoint_similarity(places[rows], points[own], seen.boxes[own], objects.areas[own], sigmas)

    return match(
        objects,
        finds,
        similarity,
        num_images=len(seen.hard),
        num_categories=1,
        most=MOST["keypoints"],
        areas=AREAS_OF["keypoints"],
    )
