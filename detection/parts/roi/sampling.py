"""Regions to learn from: proposals and the objects themselves, matched by IoU, a fixed number with few positives.

    proposals (P, 4), objects (N, 4) -> each takes its best object if the IoU is at least 0.5, else it is background
                                     -> at most a quarter positive, filled up with background -> Regions

Girshick, "Fast R-CNN", 2015. Random numbers come from torch's global generator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detection.parts.dense.assign import overlaps

BACKGROUND = -1


class Regions(NamedTuple):
    """R regions of one image, the positive ones first."""

    boxes: Tensor  # (R, 4)
    objects: Tensor  # (R,) index of the object, or BACKGROUND
    overlap: Tensor  # (R,) IoU with its best object, 0 without objects

    @property
    def positive(self) -> Tensor:
        """(R,) bool"""
        return self.objects >= 0


def sampled(
    proposals: Tensor, objects: Tensor, *, count: int = 512, share: float = 0.25, enough: float = 0.5
) -> Regions:
    """Proposals (P, 4) and objects (N, 4) of one image -> `count` regions, fewer if there are not so many.

    Args:
        count: regions of an image.
        share: at most this share is positive; background fills up.
        enough: IoU from which a region is positive.
    """
    boxes = torch.cat((proposals.detach(), objects))
    if not len(objects):
        most, which = boxes.new_zeros(len(boxes)), torch.full((len(boxes),), BACKGROUND, device=boxes.device)
    else:
        seen = overlaps(objects, boxes)
        most = seen.most
        which = torch.where(most >= enough, seen.which, BACKGROUND)
    positive = some(which >= 0, int(count * share))
    keep = torch.cat((positive, some(which < 0, count - len(positive))))
    return Regions(boxes[keep], which[keep], most[keep])


def some(wanted: Tensor, most: int) -> Tensor:
    """(P,) bool -> (K,) at most `most` of the places where it is true, at random."""
    places = wanted.nonzero()[:, 0]
    return places[torch.randperm(len(places), device=places.device)[:most]]
