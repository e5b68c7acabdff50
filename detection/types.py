"""Types shared by data, detectors and evaluation."""

from __future__ import annotations

from typing import NamedTuple, NotRequired, TypedDict

from torch import Tensor


class Images(NamedTuple):
    """A padded batch: normalized pixels (B, 3, H, W), and each image's own (height, width) inside it."""

    pixels: Tensor
    sizes: list[tuple[int, int]]
    proposals: list[Tensor] | None = None  # stored ones, (P, 5) as x0 y0 x1 y1 score, for networks that take them
    held: Tensor | None = None  # (B, 2) int64, the sizes on the device, for compiled networks: a graph knows no numbers


class Target(TypedDict):
    """The objects of one image, in pixels of the (augmented, unpadded) image."""

    boxes: Tensor  # (N, 4) float32 as x0 y0 x1 y1
    labels: Tensor  # (N,) int64 from 0
    masks: NotRequired[Tensor]  # (N, H, W) uint8, 1 where the object is
    keypoints: NotRequired[Tensor]  # (N, K, 3) as x y visibility: 0 not labeled, 1 occluded, 2 visible
    mirrored: NotRequired[tuple[int, ...]]  # (K,) index of each keypoint after a horizontal flip
    dataset: NotRequired[int]  # which of several data sets the image is from, 0 when there is one
    proposals: NotRequired[Tensor]  # (P, 5) float32 as x0 y0 x1 y1 score, stored ones
    absent: NotRequired[Tensor]  # (A,) labels that are known not to be in the image (LVIS)
    unfinished: NotRequired[Tensor]  # (U,) labels of which not every object is annotated (LVIS)
    known: NotRequired[Tensor]  # (K,) bool: classes that the image's file annotates, where several files are joined


class Detections(TypedDict):
    """The detections of one image, best first, in the same pixels."""

    boxes: Tensor  # (M, 4) float32 as x0 y0 x1 y1
    labels: Tensor  # (M,) int64 from 0
    scores: Tensor  # (M,) from 0 to 1
    masks: NotRequired[Tensor]  # (M, S, S) from 0 to 1: mask probabilities on a grid over the box
    keypoints: NotRequired[Tensor]  # (M, K, 3) as x y score
    heatmaps: NotRequired[Tensor]  # (M, K, G, G) logits on a grid over the box, of exported networks: not yet keypoints
