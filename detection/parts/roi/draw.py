"""Random anchors or regions to learn from: a fixed number of every image, at most a share of them positive.

    positive, negative (B, P) --how many of each--> the host --permutations of the counts--> places

Ren, He, Girshick, Sun, "Faster R-CNN", 2015. The draws are those of torchvision's sampler: for each image a permutation
of its positive places and one of its negative ones. The host asks the device once, for the counts of all images.
Shape letters: B images, P places of an image, S drawn places of all images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared.devices.device import sent


class Drawn(NamedTuple):
    places: Tensor  # (S,) ascending, counted over all images: image * P + place
    positive: Tensor  # (T,) ascending, rows of `places` that are positive
    positives: list[int]  # how many of them each image has


def draw(positive: Tensor, negative: Tensor, count: int, share: float) -> Drawn:
    """Which places (B, P) are positive and which negative -> at most `count` of each image.

    Args:
        share: at most this share of `count` is positive; negative ones fill up.
    """
    sums = torch.stack((positive, negative)).flatten(1).cumsum(1)
    until = np.asarray(sums[:, positive.shape[1] - 1 :: positive.shape[1]].tolist())  # (2, B); the device is asked here
    having = np.diff(until, prepend=0)
    wanted = np.minimum(having, int(count * share))
    wanted[1] = np.minimum(having[1], count - wanted[0])
    drawn = [
        torch.randperm(have, device=positive.device)[:want]
        for each in zip(having.T.tolist(), wanted.T.tolist(), strict=True)
        for have, want in zip(*each, strict=True)
    ]
    before = sent(np.repeat((until - having).flatten() + 1, wanted.flatten()), sums.device)
    ranks = (torch.cat([*drawn[::2], *drawn[1::2]]) + before).split(wanted.sum(1).tolist())
    held, rest = (torch.searchsorted(each, rank) for each, rank in zip(sums, ranks, strict=True))
    places = torch.cat((held, rest)).sort().values
    return Drawn(places, torch.searchsorted(places, held.sort().values), wanted[0].tolist())
