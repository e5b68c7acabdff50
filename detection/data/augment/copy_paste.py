"""Copy-paste: objects of one image pasted onto another, with blended edges.

    two samples, both large-scale jittered -> some objects of the second -> pasted over the first: occluded pixels are
    removed from its masks, fully occluded objects dropped, boxes of partly occluded ones updated

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", 2021. All random
numbers come from the given generator.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional as F

from detection.data.augment.geometry import OF_EACH_OBJECT, Sample, kept
from detection.parts.dense import boxes as box
from detection.types import Target

BLUR, SIGMA = 5, 2.0  # pixels of the Gaussian that blends edges


def copy_paste(onto: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Paste a random subset of the other sample's objects. Both have the same size; inputs are not modified.

    Objects are sampled with replacement and pasted once, so 63 % of them on average.
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
    """uint8 (3, H, W) twice, (H, W) bool -> the other image inside, this one outside, blended along the edge."""
    share = F.gaussian_blur(where[None].float(), [BLUR, BLUR], [SIGMA, SIGMA])
    return (image + share * (other.float() - image)).round().to(torch.uint8)


def uncovered(target: Target, hidden: Tensor) -> Target:
    """The target without the pixels in (H, W) bool."""
    masks = masks_of(target)
    left = masks & ~hidden
    touched = (masks & hidden).flatten(1).any(dim=1) & left.flatten(1).any(dim=1)
    boxes = target["boxes"].clone()
    if touched.any():
        boxes[touched] = masks_to_boxes(left[touched]) + boxes.new_tensor((0, 0, 1, 1))  # including the last pixel
    fields: Any = {**target, "boxes": boxes, "masks": left.to(torch.uint8)}
    return kept(fields, left.flatten(1).any(dim=1) & box.usable(boxes))


def both(target: Target, source: Target) -> Target:
    """The objects of two targets; fields of the image are those of the first. Stored proposals are of no use now."""
    fields: Any = {name: value for name, value in target.items() if name != "proposals"}
    theirs: Any = source
    if "absent" in fields:  # what is pasted is there now
        fields["absent"] = fields["absent"][~torch.isin(fields["absent"], source["labels"])]
    return fields | {name: torch.cat((fields[name], theirs[name])) for name in OF_EACH_OBJECT if name in fields}
