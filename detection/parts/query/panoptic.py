"""From masks that overlap to one map that says whose each pixel is.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020.

    masks of the sure detections -> each pixel is of the mask that is surest of it -> stuff of one class is one segment
        ^------------------ without those of segments of 4 pixels and fewer, until there are none ------------------|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.parts.query.mask_queries import Segmented

SURE = 0.85  # what a detection scores at least to have pixels
FEW = 4  # pixels that are no segment


class Labelled(NamedTuple):
    """One segment of a map."""

    number: int  # what its pixels say, from 1
    label: int
    score: float  # of the best of its detections


class PanopticMap(NamedTuple):
    """What an image consists of."""

    numbers: Tensor  # (H, W) int32, 0 where nobody is
    segments: list[Labelled]


def panoptic_map(
    found: Segmented, isthing: Sequence[bool], size: tuple[int, int], *, min_score: float = SURE
) -> PanopticMap:
    """
    Args:
        found: best first, as a detector gives it.
        isthing: by label; of what is none, there is one segment a class.
        size: height and width of the map; masks are brought to it, bilinear.
        min_score: detections that score no more have no pixels.
    """
    sure = found["scores"] > min_score
    labels, scores = found["labels"][sure].tolist(), found["scores"][sure].tolist()
    if not labels:
        return PanopticMap(torch.zeros(size, dtype=torch.int32, device=found["scores"].device), [])
    logits = F.interpolate(found["segments"][sure][None], size, mode="bilinear", align_corners=False)[0]
    alive = list(range(len(labels)))
    while True:
        first = first_of_each([labels[i] for i in alive], isthing)
        segment = torch.tensor(first, device=logits.device)[logits[alive].argmax(0)]  # softmax changes no order
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
    segments = [Labelled(k, labels[alive[place]], scores[alive[place]]) for k, place in enumerate(own, start=1)]
    return PanopticMap(number[segment], segments)


def first_of_each(labels: Sequence[int], isthing: Sequence[bool]) -> list[int]:
    """For each detection, the place of the one whose segment it is part of: of stuff the first of its class."""
    seen: dict[int, int] = {}
    return [place if isthing[label] else seen.setdefault(label, place) for place, label in enumerate(labels)]
