"""Simulated validation sets: scenes of a known distribution and what detectors of known quality find in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from detection.data.masks.paste import codec
from detection.statistics.matching import Finds, Matches, Objects, match

CLASSES = 4
SIDE = 640


class Scenes(NamedTuple):
    """Objects of I images; how hard each image is."""

    objects: Objects
    boxes: np.ndarray  # (G, 4) x y w h
    hard: np.ndarray  # (I,)


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


def found_by(detector: Detector, seen: Scenes, rng: np.random.Generator) -> tuple[Finds, np.ndarray]:
    """Detections and their boxes: of objects, once or twice, and of nothing; surer where the scene is easy."""
    objects, images = seen.objects, len(seen.hard)
    small = (np.log(objects.areas) < np.log(32.0**2)).astype(float)
    quality = detector.skill - 0.6 * seen.hard[objects.images] - small + rng.normal(0, 1, len(objects.images))
    times = (quality > -0.5).astype(int) + (rng.random(len(quality)) < 0.15)
    source = np.repeat(np.arange(len(quality)), times)
    noise = detector.noise * np.exp(-0.25 * quality[source, None]) * np.tile(seen.boxes[source, 2:], 2)
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
    return Finds(image, categories, 1 / (1 + np.exp(-scores)), boxes[:, 2] * boxes[:, 3]), boxes


def matched(seen: Scenes, finds: Finds, boxes: np.ndarray) -> Matches:
    """COCO's matching of boxes."""
    crowd = seen.objects.crowd.astype(np.uint8)

    def similarity(found: np.ndarray, own: np.ndarray) -> np.ndarray:
        return np.asarray(codec.iou(boxes[found], seen.boxes[own], crowd[own]))

    return match(seen.objects, finds, similarity, num_images=len(seen.hard), num_categories=CLASSES, most=100)
