"""Photographs and what is in them, moved together: mirror, resize, crop, paste, and a window that is all three.

    image, target -> Move: a change of the pixel grid, and where its points go
                  -> MOVERS: every field of a target follows in its own way -> image, target

A change of geometry clips boxes to the image and drops, with all their fields, the objects whose box is less than a
pixel wide or high. Fields that are in no mover's care belong to the image, and stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from detection.parts import boxes as box
from detection.types import Target

Sample = tuple[Tensor, Target]
Size = tuple[int, int]  # height, width
FILL = (124, 116, 104)  # ImageNet's mean colour: what shows where an image does not reach


class Part(NamedTuple):
    """A rectangle of an image: its first row and column, its size."""

    down: int
    across: int
    height: int
    width: int


@dataclass(frozen=True)
class Move:
    """One change of geometry.

    Args:
        size: of the image afterwards.
        grid: pixels (..., H, W) -> (..., *size), and whether they are a photograph; otherwise they are masks.
        factor, shift: (down, across), what positions are multiplied by, and then moved by.
        mirrored: left to right, before that.
    """

    size: Size
    grid: Callable[[Tensor, bool], Tensor]
    factor: tuple[float, float] = (1, 1)
    shift: tuple[float, float] = (0, 0)
    mirrored: bool = False


def moved_boxes(boxes: Tensor, move: Move) -> Tensor:
    """(N, 4) -> (N, 4), clipped to the image."""
    if move.mirrored:
        boxes = box.mirrored(boxes, move.size[1])
    return box.clip(box.shifted(box.scaled(boxes, move.factor), move.shift), move.size)


def moved_masks(masks: Tensor, move: Move) -> Tensor:
    """(N, H, W) -> (N, *size); beyond the image there is no object."""
    return move.grid(masks, False) if len(masks) else masks.new_zeros((0, *move.size))


def moved_keypoints(keypoints: Tensor, move: Move) -> Tensor:
    """(N, K, 3) as x y visibility -> the same; what is not labelled, or leaves the image, becomes 0 0 0.

    Mirroring moves the points alone: which of them is the left one and which the right is as before.
    """
    x, y, seen = keypoints.unbind(-1)
    (height, width), (down, across), (lower, further) = move.size, move.factor, move.shift
    x = (width - x if move.mirrored else x) * across + further
    y = y * down + lower
    inside = (seen > 0) & (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return torch.stack((x, y, seen), dim=-1) * inside[..., None]


MOVERS: dict[str, Callable[[Tensor, Move], Tensor]] = {
    "boxes": moved_boxes,
    "masks": moved_masks,
    "keypoints": moved_keypoints,
}


def moved(image: Tensor, target: Target, move: Move) -> Sample:
    """uint8 (3, H, W) and what is in it, after one change of geometry."""
    fields: dict[str, Any] = {**target}
    for name in MOVERS.keys() & fields.keys():
        fields[name] = MOVERS[name](fields[name], move)
    return move.grid(image, True), kept(cast(Target, fields), box.usable(fields["boxes"]))


def kept(target: Target, keep: Tensor) -> Target:
    """The target of these objects alone, (N,) bool; what is no tensor belongs to the image and stays."""
    if keep.all():
        return target
    fields = {name: value[keep] if isinstance(value, Tensor) else value for name, value in target.items()}
    return cast(Target, fields)


# -- moves ----------------------------------------------------------------------------------------


def hflip(image: Tensor, target: Target) -> Sample:
    """Mirror left to right."""
    return moved(image, target, Move(size_of(image), lambda grid, _: grid.flip(-1), mirrored=True))


def resize(image: Tensor, target: Target, size: Size) -> Sample:
    """To exactly (height, width): bilinear and antialiased, masks by their nearest pixel."""
    old = size_of(image)

    def grid(pixels: Tensor, photograph: bool) -> Tensor:
        if size == old:
            return pixels
        how = InterpolationMode.BILINEAR if photograph else InterpolationMode.NEAREST_EXACT
        return F.resize(pixels, list(size), interpolation=how, antialias=photograph)

    return moved(image, target, Move(size, grid, factor=(size[0] / old[0], size[1] / old[1])))


def crop(image: Tensor, target: Target, part: Part) -> Sample:
    """This part of the image; boxes cut by its edge are clipped."""
    down, across, height, width = part

    def grid(pixels: Tensor, _: bool) -> Tensor:
        return pixels[..., down : down + height, across : across + width]

    return moved(image, target, Move((height, width), grid, shift=(-down, -across)))


def paste(image: Tensor, target: Target, corner: Size, size: Size) -> Sample:
    """Onto a canvas of (height, width), top left at (down, across)."""
    (down, across), (height, width) = corner, size_of(image)
    if (height, width) == size:
        return image, target

    def grid(pixels: Tensor, photograph: bool) -> Tensor:
        canvas = pixels.new_zeros((*pixels.shape[:-2], *size))
        if photograph:
            canvas += pixels.new_tensor(FILL)[:, None, None]
        canvas[..., down : down + height, across : across + width] = pixels
        return canvas

    return moved(image, target, Move(size, grid, shift=corner))


def through(image: Tensor, target: Target, window: Part, size: Size) -> Sample:
    """What is seen through a window, brought to `size`; where the window reaches outside the image, mean colour.

    Cut first, resized once and pasted last, so no pixel is touched that is not seen.
    """
    height, width = size_of(image)
    top, left = max(0, window.down), max(0, window.across)
    bottom, right = min(height, window.down + window.height), min(width, window.across + window.width)
    down, across = size[0] / window.height, size[1] / window.width
    corner = round((top - window.down) * down), round((left - window.across) * across)
    corner = min(corner[0], size[0] - 1), min(corner[1], size[1] - 1)
    end = round((bottom - window.down) * down), round((right - window.across) * across)
    small = max(1, end[0] - corner[0]), max(1, end[1] - corner[1])
    seen = crop(image, target, Part(top, left, bottom - top, right - left))
    return paste(*resize(*seen, small), corner, size)


# -- sizes ----------------------------------------------------------------------------------------


def size_of(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def fitted(size: Size, short: int, long: int) -> Size:
    """The size with its short side brought to `short`, or its long side to `long` where that is smaller."""
    scale = min(short / min(size), long / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
