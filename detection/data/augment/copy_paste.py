"""Objects of one photograph pasted onto another, masks and all; their edges are blended in.

    two samples, both large-scale jittered -> some objects of the second -> over the first: what they hide is gone from
    its masks, an object that is hidden altogether is dropped, one that is hidden in part gets the box of what is left

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", 2021. Random numbers
come from the generator that is handed in, from nowhere else.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional as F

from detection.data.augment.geometry import Sample, kept
from detection.parts.dense import boxes as box
from detection.types import Target

BLUR, SIGMA = 5, 2.0  # pixels of the Gaussian that blends edges


def copy_paste(onto: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """A random part of the other sample's objects, over this one. Both are of one size; neither is changed.

    As many objects are drawn as there are, and those drawn twice are pasted once: six in ten on average.
    """
    (image, target), (theirs, source) = onto, other
    count = len(source["boxes"])
    if count == 0:
        return onto
    drawn = torch.zeros(count, dtype=torch.bool)
    drawn[torch.from_numpy(rng.integers(count, size=count))] = True
    source = kept(source, drawn)
    hidden = masks_of(source).any(dim=0)
    return blended(image, theirs, hidden), both(uncovered(target, hidden), source)


def masks_of(target: Target) -> Tensor:
    """(N, H, W) bool."""
    return cast(Any, target)["masks"].bool()


def blended(image: Tensor, other: Tensor, where: Tensor) -> Tensor:
    """uint8 (3, H, W) twice, (H, W) bool -> the other there, this one elsewhere, and a mixture along the edge."""
    share = F.gaussian_blur(where[None].float(), [BLUR, BLUR], [SIGMA, SIGMA])
    return (image + share * (other.float() - image)).round().to(torch.uint8)


def uncovered(target: Target, hidden: Tensor) -> Target:
    """What is left of the objects under (H, W) bool."""
    masks = masks_of(target)
    left = masks & ~hidden
    touched = (masks & hidden).flatten(1).any(dim=1) & left.flatten(1).any(dim=1)
    boxes = target["boxes"].clone()
    if touched.any():
        boxes[touched] = masks_to_boxes(left[touched]) + boxes.new_tensor((0, 0, 1, 1))  # up to the pixel's far edge
    fields: Any = {**target, "boxes": boxes, "masks": left.to(torch.uint8)}
    return kept(fields, left.flatten(1).any(dim=1) & box.usable(boxes))


def both(target: Target, source: Target) -> Target:
    """The objects of two targets; what belongs to the image is that of the first."""
    fields: Any = {
        name: torch.cat((value, cast(Any, source)[name])) if isinstance(value, Tensor) else value
        for name, value in target.items()
    }
    return fields
