"""Geometric augmentation of images with their boxes, masks and keypoints: flip, resize, crop, paste, window.

    image, target -> Move: a change of the pixel grid and of coordinates
                  -> MOVERS: a function for every field of a target -> image, target

Boxes are clipped to the image, and objects whose box is then less than a pixel wide or high are dropped with all their
fields, those of OF_EACH_OBJECT. Every other field belongs to the image and is kept; stored proposals move with the
boxes and are filtered only by their own size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detection.data.augment.sizes import Size
from detection.data.masks.silhouettes import Silhouettes
from detection.parts.dense import boxes as box
from detection.types import Target

Sample = tuple[Tensor, Target]
Masks = TypeVar("Masks", Tensor, Silhouettes)
FILL = (124, 116, 104)  # ImageNet's mean color, for areas outside the image
OF_EACH_OBJECT = ("boxes", "labels", "masks", "keypoints")  # fields with one entry per object


class Part(NamedTuple):
    """A rectangle of an image: top, left, height, width."""

    down: int
    across: int
    height: int
    width: int


@dataclass(frozen=True)
class Move:
    """A geometric transform.

    Args:
        photograph: pixels (3, H, W) -> (3, *size).
        rows, columns: for masks, the source row and column of each new one; -1 outside the image.
        factor, shift: (vertical, horizontal) scale and then shift of coordinates.
        mirrored: horizontal flip, applied first.
    """

    photograph: Callable[[Tensor], Tensor]
    rows: Tensor
    columns: Tensor
    factor: tuple[float, float] = (1, 1)
    shift: tuple[float, float] = (0, 0)
    mirrored: bool = False

    @property
    def size(self) -> Size:
        """Size of the transformed image."""
        return len(self.rows), len(self.columns)


def moved_boxes(boxes: Tensor, move: Move) -> Tensor:
    """(N, 4) -> (N, 4), clipped to the image."""
    if move.mirrored:
        boxes = box.mirrored(boxes, move.size[1])
    return box.clip(box.shifted(box.scaled(boxes, move.factor), move.shift), move.size)


def moved_masks(masks: Masks, move: Move) -> Masks:
    """(N, H, W) -> (N, *size); 0 outside the image."""
    if isinstance(masks, Silhouettes):
        return masks.seen(move.rows, move.columns)
    there = (move.rows >= 0)[:, None] & (move.columns >= 0)
    return masks[:, move.rows.clamp(min=0)][:, :, move.columns.clamp(min=0)] * there


def moved_keypoints(keypoints: Tensor, move: Move) -> Tensor:
    """(N, K, 3) as x y visibility -> the same; unlabeled keypoints and those outside the image become 0 0 0."""
    x, y, seen = keypoints.unbind(-1)
    (height, width), (down, across), (lower, further) = move.size, move.factor, move.shift
    x = (width - x if move.mirrored else x) * across + further
    y = y * down + lower
    inside = (seen > 0) & (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return torch.stack((x, y, seen), dim=-1) * inside[..., None]


def moved_proposals(proposals: Tensor, move: Move) -> Tensor:
    """(P, 5) as x0 y0 x1 y1 score -> the same, clipped, without those less than a pixel wide or high."""
    boxes = moved_boxes(proposals[:, :4], move)
    return torch.cat((boxes, proposals[:, 4:]), 1)[box.usable(boxes)]


MOVERS: dict[str, Callable[[Any, Move], Any]] = {
    "masks": moved_masks,
    "keypoints": moved_keypoints,
    "proposals": moved_proposals,
}


def moved(image: Tensor, target: Target, move: Move) -> Sample:
    """Apply a transform to an image uint8 (3, H, W) and its target."""
    boxes = moved_boxes(target["boxes"], move)
    fields: dict[str, Any] = {**kept(cast(Target, {**target, "boxes": boxes}), box.usable(boxes))}
    for name in MOVERS.keys() & fields.keys():
        fields[name] = MOVERS[name](fields[name], move)
    return move.photograph(image), cast(Target, fields)


def kept(target: Target, keep: Tensor) -> Target:
    """The target of a subset of objects, (N,) bool; fields of the image are kept whole."""
    if keep.all():
        return target
    fields: dict[str, Any] = {**target}
    fields.update({name: fields[name][keep] for name in OF_EACH_OBJECT if name in fields})
    return cast(Target, fields)


# -- moves ----------------------------------------------------------------------------------------


def hflip(image: Tensor, target: Target) -> Sample:
    """Horizontal flip. Keypoints are permuted by `target["mirrored"]`: left and right elbow are exchanged."""
    height, width = size_of(image)
    columns = torch.arange(width - 1, -1, -1)
    image, target = moved(
        image, target, Move(lambda pixels: pixels.flip(-1), torch.arange(height), columns, mirrored=True)
    )
    if "keypoints" in target and "mirrored" in target:
        target["keypoints"] = target["keypoints"][:, list(target["mirrored"])]
    return image, target


def resize(image: Tensor, target: Target, size: Size, *, antialias: bool = True) -> Sample:
    """Resize to exactly (height, width): bilinear, antialiased by default; masks nearest neighbor."""
    old = size_of(image)

    def photograph(pixels: Tensor) -> Tensor:
        return pixels if size == old else F.resize(pixels, list(size), antialias=antialias)

    rows, columns = (nearest(before, after) for before, after in zip(old, size, strict=True))
    return moved(image, target, Move(photograph, rows, columns, factor=(size[0] / old[0], size[1] / old[1])))


def nearest(before: int, after: int) -> Tensor:
    """Source index of each new pixel, nearest neighbor."""
    return (torch.arange(after) * 2 + 1) * before // (2 * after)


def crop(image: Tensor, target: Target, part: Part) -> Sample:
    """Crop to a part of the image."""
    down, across, height, width = part

    def photograph(pixels: Tensor) -> Tensor:
        return pixels[..., down : down + height, across : across + width]

    rows, columns = torch.arange(down, down + height), torch.arange(across, across + width)
    return moved(image, target, Move(photograph, rows, columns, shift=(-down, -across)))


def paste(image: Tensor, target: Target, corner: Size, size: Size) -> Sample:
    """Paste onto a canvas of (height, width), with the top left corner at (y, x)."""
    (down, across), (height, width) = corner, size_of(image)
    if (height, width) == size:
        return image, target

    def photograph(pixels: Tensor) -> Tensor:
        canvas = pixels.new_zeros((3, *size)) + pixels.new_tensor(FILL)[:, None, None]
        canvas[..., down : down + height, across : across + width] = pixels
        return canvas

    rows, columns = (torch.full((side,), -1) for side in size)
    rows[down : down + height], columns[across : across + width] = torch.arange(height), torch.arange(width)
    return moved(image, target, Move(photograph, rows, columns, shift=corner))


def through(image: Tensor, target: Target, window: Part, size: Size, *, antialias: bool = True) -> Sample:
    """Crop to a window that may extend beyond the image, and resize to `size`; the outside is mean color.

    Crop, one resize, paste: only visible pixels are processed.
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
    return paste(*resize(*seen, small, antialias=antialias), corner, size)


def size_of(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]
