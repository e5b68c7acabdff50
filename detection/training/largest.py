"""The largest micro batch that training can give: what `--batch-size auto` and a dry run measure memory with.

photographs, augmentation -> the largest size after padding (of one group, where images are grouped by shape)
annotations               -> the photographs with the most objects, all of them kept, stretched to that size
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch

from detection.data.augment.presets import Augmentation, Output, plain
from detection.data.batch import collate
from detection.data.coco import CocoDetection
from detection.data.several import SeveralSets
from detection.recipe import DataConfig
from detection.training.datasets import Data, shapes_of
from detection.types import Target
from shared.errors import BadSample, DataError
from shared.feeding.plan import rng_for

PER_OBJECT = ("boxes", "labels", "masks", "keypoints")


class Largest:
    """(images) -> a micro batch of so many: photographs stretched to the largest size, those with most objects first.

    Args:
        data: opened; its images are read, and its augmentations are left as they are.
        config: the recipe's data section.
    """

    def __init__(self, data: Data, config: DataConfig) -> None:
        self.size = largest_size(data, config)
        self.samples = stretched(data, self.size)
        self.order = np.argsort(-objects_of(data), kind="stable").tolist()
        self.doubled = any(images.copy_paste for images in data.trains)
        self.read: list[Any] = []

    def __call__(self, count: int) -> Any:
        while len(self.read) < count and self.order:
            index = self.order.pop(0)
            try:
                picture, target = self.samples.load(index, rng_for(0, 0, index))
            except BadSample:
                continue
            self.read.append((picture, doubled(target) if self.doubled else target))
        if not self.read:
            raise DataError("no training image can be read; check --data-path")
        return collate([self.read[i % len(self.read)] for i in range(count)])


def largest_size(data: Data, config: DataConfig) -> tuple[int, int]:
    """Height and width in pixels of the largest image of a padded batch, before they are rounded up to a multiple."""
    groups = shapes_of(data, config)
    groups = np.zeros(sum(map(len, data.trains)), np.int64) if groups is None else groups
    starts, found = np.cumsum([0, *map(len, data.trains)]), []
    for group in np.unique(groups):
        sizes = []
        for images, start in zip(data.trains, starts.tolist(), strict=False):
            mine = images.table.sizes[groups[start : start + len(images)] == group]
            assert isinstance(images.augment, Augmentation)
            if len(mine):
                unique: list[tuple[int, int]] = [(h, w) for h, w in np.unique(mine, axis=0).tolist()]
                sizes.append(images.augment.largest(unique))
        heights, widths = zip(*sizes, strict=True)
        found.append((max(heights), max(widths)))
    return max(found, key=lambda size: size[0] * size[1])


def objects_of(data: Data) -> np.ndarray:
    """(N,) how many objects each training image of all sets has."""
    return np.concatenate(
        [np.bincount(images.table.image_of[images.is_target], minlength=len(images)) for images in data.trains]
    )


def stretched(data: Data, size: tuple[int, int]) -> Any:
    """The same training images, resized to exactly this size, with all their objects."""

    def of(images: CocoDetection) -> CocoDetection:
        same = copy(images)
        same.augment, same.copy_paste = Augmentation(plain, Output(size, antialias=False)), False
        return same

    if isinstance(data.samples, SeveralSets):
        return SeveralSets([one._replace(data=of(one.data)) for one in data.samples.sets], joined=data.samples.joined)
    return of(data.samples)


def doubled(target: Target) -> Target:
    """Twice the objects, as copy-paste may give an image those of another."""
    more = {name: torch.cat((values, values)) for name, values in target.items() if name in PER_OBJECT}  # type: ignore
    return Target(**{**target, **more})
