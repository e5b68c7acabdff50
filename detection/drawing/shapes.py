"""Draw masks as translucent color with an outline, and skeletons as lines between dots.

    mask over a box, or of the whole image -> Patch, in pixels of the picture -> draw_mask
    keypoints (K, 3)                       -> Points                         -> draw_skeleton

Occluded keypoints, and those with a score of at most 0, are drawn thinner; unlabeled ones are not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw

from detection.data.masks.paste import Patch, paste
from detection.types import Detections, Target

SEEN = 1  # true keypoints with a higher visibility are visible
SURE = 0  # predicted keypoints with a higher score (a heatmap logit) are visible
Color = tuple[int, int, int]


class Points(NamedTuple):
    """The keypoints of one object, in pixels of the picture."""

    places: list[tuple[float, float]]
    shown: list[bool]
    thin: list[bool]


def read_patches(source: Detections | Target, scale: float, size: tuple[int, int]) -> list[Patch]:
    """The masks of an image's objects, scaled to a picture of (width, height) `size`."""
    masks = source["masks"]  # type: ignore[typeddict-item]
    if "scores" in source:
        return list(paste(masks, source["boxes"] * scale, (size[1], size[0])))
    return [enlarged(mask, scale) for mask in masks.cpu().numpy()]


def enlarged(mask: np.ndarray, scale: float) -> Patch:
    """Mask (H, W) -> its object, scaled, with smooth edges."""
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(down):
        return Patch(0, 0, np.zeros((0, 0), dtype=bool))
    top, bottom, left, right = down[0], down[-1] + 1, across[0], across[-1] + 1
    part = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
    corner = round(left * scale), round(top * scale)
    size = max(1, round(right * scale) - corner[0]), max(1, round(bottom * scale) - corner[1])
    return Patch(*corner, np.asarray(part.resize(size, Image.Resampling.BILINEAR)) > 127)


def read_points(source: Detections | Target, scale: float) -> list[Points]:
    """The keypoints of an image's objects, scaled."""
    keypoints = source["keypoints"]  # type: ignore[typeddict-item]
    known = torch.isfinite(keypoints).all(-1)
    if "scores" in source:
        shown, thin = known, keypoints[..., 2] <= SURE
    else:
        shown, thin = known & (keypoints[..., 2] > 0), keypoints[..., 2] <= SEEN
    places = (keypoints[..., :2] * scale).tolist()
    return [
        Points([(x, y) for x, y in own], *kinds)
        for own, *kinds in zip(places, shown.tolist(), thin.tolist(), strict=True)
    ]


def draw_mask(picture: Image.Image, patch: Patch, color: Color, *, cover: float, width: int) -> None:
    """Blend the color into the mask, with an opaque outline inside it.

    Args:
        cover: opacity from 0 to 1.
        width: of the outline.
    """
    inside = patch.inside
    down, across = inside.shape
    if not inside.any():
        return
    box = (patch.left, patch.top, patch.left + across, patch.top + down)
    pixels = np.asarray(picture.crop(box)).astype(np.float32)
    opaque = np.where(eroded(inside, width), cover, 1.0) * inside
    mixed = pixels + (np.array(color, np.float32) - pixels) * opaque[..., None]
    picture.paste(Image.fromarray(mixed.round().astype(np.uint8)), box[:2])


def eroded(inside: np.ndarray, width: int) -> np.ndarray:
    """(h, w) bool eroded by `width` pixels."""
    for _ in range(width):
        framed = np.pad(inside, 1)
        inside = inside & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return inside


def draw_skeleton(
    pen: ImageDraw.ImageDraw, points: Points, edges: Sequence[tuple[int, int]], color: Color, width: int
) -> None:
    """Draw lines in the color with a black border, and white dots."""
    drawn = [(a, b) for a, b in edges if max(a, b) < len(points.places) and points.shown[a] and points.shown[b]]
    for rim, ink in ((2, (0, 0, 0)), (0, color)):
        for a, b in drawn:
            thickness = max(1, width // 2) if points.thin[a] or points.thin[b] else width
            pen.line((*points.places[a], *points.places[b]), fill=ink, width=thickness + rim)
    for (x, y), shown, thin in zip(*points, strict=True):
        if shown:
            radius = width * (0.7 if thin else 1.3)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255), outline=(0, 0, 0))
