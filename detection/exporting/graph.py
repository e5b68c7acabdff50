"""A detector as one function of an image, with fixed shapes: what is written into a file.

    uint8 (B, 3, h, w) -> normalized -> padded to the canvas -> network -> boxes (B, M, 4), labels, scores (B, M), ...

Padding is part of the function: an image of any height and width up to the canvas goes in, and all sizes inside are
those of the canvas. Images of one batch have one size. Rows of score 0 are padding.
Shape letters: B images, M detections.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.data.augment.sizes import Size
from detection.parts.fixed import fixed_shapes
from detection.training.task import DetectTask
from detection.types import Detections, Images

FIELDS = ("boxes", "labels", "scores", "masks", "heatmaps")  # of detections in fixed shapes, those that there are


class DetectionGraph(nn.Module):
    """
    Args:
        task: a trained detector and its normalization.
        canvas: height and width of the largest image; rounded up to a multiple of the network's strides.
    """

    def __init__(self, task: DetectTask, canvas: Size) -> None:
        super().__init__()
        self.detector, self.normalize = task.detector, task.normalize
        self.canvas = tuple(-(-side // task.multiple) * task.multiple for side in canvas)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, h, w) -> a tensor (B, M, ...) for each of `names`"""
        with fixed_shapes():
            found = self.detector.detect(self.images(image))
        return tuple(torch.stack([one[name] for one in found]) for name in FIELDS if name in found[0])  # type: ignore[literal-required]

    def images(self, image: Tensor) -> Images:
        """uint8 (B, 3, h, w) -> a normalized batch on the canvas; padding is 0, as `pad_batch` makes it."""
        height, width = image.shape[-2:]
        pixels = F.pad(self.normalize(image), (0, self.canvas[1] - width, 0, self.canvas[0] - height))
        return Images(pixels, [(height, width)] * len(image))

    @torch.no_grad()
    def eager(self, image: Tensor) -> list[Detections]:
        """What the network itself finds on the same canvas."""
        return self.detector.detect(self.images(image))

    def names(self) -> list[str]:
        """Names of the tensors that come out, from a run on an image of zeros."""
        with fixed_shapes(), torch.no_grad():
            (found,) = self.detector.detect(self.images(torch.zeros(1, 3, *self.canvas, dtype=torch.uint8)))
        return [name for name in FIELDS if name in found]
