"""Panoptic segmentation from overlapping masks.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020.

    masks of confident detections -> argmax per pixel -> stuff segments of one class are merged
        ^------ repeated without the detections of segments of at most 4 pixels, until there are none ------|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.parts.query.mask_queries import Segmented

SURE = 0.85  # minimum score of a detection
FEW = 4  # segments with so many pixels or fewer are dropped


class Labeled(NamedTuple):
    """One segment of a map."""

    number: int  # value of its pixels, from 1
    label: int
    score: float  # of the best of its detections


class PanopticMap(NamedTuple):
    """A panoptic segmentation."""

    numbers: Tensor  # (H, W) int32, 0 for no segment
    segments: list[Labeled]


def panoptic_map(
    found: Segmented, isthing: Sequence[bool], size: tuple[int, int], *, min_score: float = SURE
) -> PanopticMap:
    """
    Args:
        found: detections, best first.
        isthing: by label; each stuff class has one segment.
        size: height and width of the map; masks are resized to it, bilinear.
        min_score: detections with this score or less are dropped.
    """
    sure = found["scores"] > min_score
    labels, scores = found["labels"][sure].tolist(), found["scores"][sure].tolist()
    if not labels:
        return PanopticMap(torch.zeros(size, dtype=torch.int32, device=found["scores"].device), [])
    logits = F.interpolate(found["segments"][sure][None], size, mode="bilinear", align_corners=False)[0]
    alive = list(range(len(labels)))
    while True:
        first = first_of_each([labels[i] for i in alive], isthing)
        # softmax does not change the order
        segment = torch.tensor(first, device=logits.device)[logits[alive].argmax(0)]
        areas = segment.flatten().bincount(minlength=len(alive)).tolist()
        enough = [i for place, i in enumerate(alive) if areas[first[place]] > FEW]
        if not enough or len(enough) == len(alive):
            break
        alive = enough
    if not enough:
        return PanopticMap(torch.zeros_like(segment, dtype=torch.int32), [])
    own = sorted(set(first))
    number = torch.zeros(len(alive), dtype=torch.int32, device=logits.device)
    number[own] = torch.arange(1, len(own) + 1, dtype=torch.int32, device=logits.device)
    segments = [Labeled(k, labels[alive[place]], scores[alive[place]]) for k, place in enumerate(own, start=1)]
    return PanopticMap(number[segment], segments)


def first_of_each(labels: Sequence[int], isthing: Sequence[bool]) -> list[int]:
    """For each detection, the index of the detection whose segment it joins: for stuff, the first of its class."""
    seen: dict[int, int] = {}
    return [place if isthing[label] else seen.setdefault(label, place) for place, label in enumerate(labels)]
