"""The few shapes that travel between data, detectors and evaluation."""

from __future__ import annotations

from typing import NamedTuple, NotRequired, TypedDict

from torch import Tensor


class Images(NamedTuple):
    """A padded batch: normalized pixels (B, 3, H, W), and each image's own (height, width) inside it."""

    pixels: Tensor
    sizes: list[tuple[int, int]]


class Target(TypedDict):
    """What is in one image, in pixels of the (augmented, unpadded) image."""

    boxes: Tensor  # (N, 4) float32 as x0 y0 x1 y1
    labels: Tensor  # (N,) int64 from 0
    masks: NotRequired[Tensor]  # (N, H, W) uint8, 1 where the object is
    keypoints: NotRequired[Tensor]  # (N, K, 3) as x y visibility: 0 not labelled, 1 hidden, 2 seen
    mirrored: NotRequired[tuple[int, ...]]  # (K,) which keypoint each one is in the image's mirror image


class Detections(TypedDict):
    """What a detector found in one image, best first, in the same pixels."""

    boxes: Tensor  # (M, 4) float32 as x0 y0 x1 y1
    labels: Tensor  # (M,) int64 from 0
    scores: Tensor  # (M,) from 0 to 1
    masks: NotRequired[Tensor]  # (M, S, S) from 0 to 1: how sure each place of a grid over its box is of being object
    keypoints: NotRequired[Tensor]  # (M, K, 3) as x y score
