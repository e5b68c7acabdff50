"""What happens to a photograph and its boxes between the disk and the batch. uint8 in, uint8 out.

    hflip        mirror half of them                                  -> resize
    multiscale   mirror half of them                                  -> resize to a short side from 480 to 800
    birder       by level, each including what is above it
                   0   nothing                                        -> resize
                   1   mirror half of them -> jitter the scale, or zoom out, inside the size a resize would give
                   3   SSD's crop before that
                   4   then one of: brightness, contrast and hue | SSD's colours | nothing
                   6   then one of: grey | solarize, half of the time
                 with `multiscale` the short side varies instead of the scale inside the size

A resize is to exactly (height, width); or, with `max_size` or any multiscale, the short side comes to the shorter of
the two and the long side to `max_size` at most. Every change of geometry clips the boxes and drops, with their labels,
those narrower than a pixel. Random numbers come from the generator that is handed in, and from nowhere else.

Liu et al., "SSD: Single Shot MultiBox Detector", 2016 (crop, zoom out, colours); Ghiasi et al., "Simple Copy-Paste",
2021 (scale jitter).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detection.parts import boxes as box
from detection.types import Target
from shared.errors import UsageError
from shared.registry import suggest

Sample = tuple[Tensor, Target]
Augment = Callable[[Tensor, Target, np.random.Generator], Sample]
Size = tuple[int, int]  # height, width

SHORT_SIDES = range(480, 801, 32)
LONG_SIDE = 1333
FILL = (124, 116, 104)  # ImageNet's mean colour: what shows where a shrunken image does not reach
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, None)  # of SSD's crop; None leaves the image whole
CROP_TRIALS = 40
TABLE = 17  # colours along each axis of a colour table

# -- geometry -----------------------------------------------------------------------------------


def with_boxes(target: Target, boxes: Tensor, size: Size) -> Target:
    """The target after its boxes moved: clipped to (height, width), the vanished ones dropped from every field."""
    boxes = box.clip(boxes, size)
    return _kept(cast(Target, {**target, "boxes": boxes}), box.usable(boxes))


def _kept(target: Target, keep: Tensor) -> Target:
    """The target of these objects alone, (N,) bool; what is no tensor belongs to the image and stays."""
    fields = {name: value[keep] if isinstance(value, Tensor) else value for name, value in target.items()}
    return cast(Target, fields)


def hflip(image: Tensor, target: Target) -> Sample:
    """Mirror left to right."""
    mirrored = box.mirrored(target["boxes"], image.shape[-1])
    return image.flip(-1), with_boxes(target, mirrored, size_of(image))


def resize(image: Tensor, target: Target, size: Size) -> Sample:
    """Bilinear, antialiased, to exactly (height, width)."""
    (height, width), old = size, size_of(image)
    if size == old:
        return image, with_boxes(target, target["boxes"], size)
    resized = F.resize(image, [height, width], antialias=True)
    return resized, with_boxes(target, box.scaled(target["boxes"], (height / old[0], width / old[1])), size)


def crop(image: Tensor, target: Target, corner: Size, size: Size) -> Sample:
    """The part of (height, width) whose top left is at (down, across); boxes cut by its edge are clipped."""
    (down, across), (height, width) = corner, size
    part = image[:, down : down + height, across : across + width]
    return part, with_boxes(target, box.shifted(target["boxes"], (-down, -across)), size)


def paste(image: Tensor, target: Target, corner: Size, size: Size) -> Sample:
    """Onto a canvas of (height, width), top left at (down, across)."""
    (down, across), (height, width) = corner, size_of(image)
    canvas = torch.tensor(FILL, dtype=image.dtype).repeat(*size, 1).permute(2, 0, 1)
    canvas[:, down : down + height, across : across + width] = image
    return canvas, with_boxes(target, box.shifted(target["boxes"], corner), size)


def rescale(image: Tensor, target: Target, scale: float, size: Size, rng: np.random.Generator) -> Sample:
    """To exactly `size`, everything in it `scale` times as large as a resize would make it.

    Above 1 a random part fills the canvas: cut first and enlarged once, which costs less than enlarging it all.
    Below 1 the whole image lies at a random place of a canvas of mean colour.
    """
    if scale >= 1:
        part = tuple(max(1, round(side / scale)) for side in size_of(image))
        corner = tuple(int(rng.integers(side - p + 1)) for side, p in zip(size_of(image), part, strict=True))
        return resize(*crop(image, target, cast(Size, corner), cast(Size, part)), size)
    small = tuple(max(1, round(side * scale)) for side in size)
    corner = tuple(int(rng.integers(side - s + 1)) for side, s in zip(size, small, strict=True))
    return paste(*resize(image, target, cast(Size, small)), cast(Size, corner), size)


def iou_crop(image: Tensor, target: Target, rng: np.random.Generator) -> Sample:
    """SSD's crop: a part that overlaps some object by a drawn amount; objects whose centre it misses are dropped."""
    boxes = target["boxes"].numpy()
    while len(boxes):
        overlap = OVERLAPS[rng.integers(len(OVERLAPS))]
        if overlap is None:
            break
        part = _part_overlapping(boxes, size_of(image), overlap, rng)
        if part is None:
            continue  # no trial was good enough: draw another overlap, as SSD does
        x0, y0, x1, y1 = part.tolist()
        inside = _kept(target, torch.from_numpy(_centres_inside(boxes, part[None])[0]))
        return crop(image, inside, (y0, x0), (y1 - y0, x1 - x0))
    return image, with_boxes(target, target["boxes"], size_of(image))


def _part_overlapping(boxes: np.ndarray, size: Size, overlap: float, rng: np.random.Generator) -> np.ndarray | None:
    """(N, 4) -> (4,) int, the first of T random parts to hold a centre and reach the overlap; None if none does."""
    height, width = size
    draws = rng.random((CROP_TRIALS, 4))
    sides = ((0.3 + 0.7 * draws[:, :2]) * (width, height)).astype(int)
    corners = ((np.array((width, height)) - sides) * draws[:, 2:]).astype(int)
    parts_T4 = np.concatenate((corners, corners + sides), axis=1)
    aspect = sides[:, 0] / np.maximum(sides[:, 1], 1)
    inside_TN = _centres_inside(boxes, parts_T4)
    reached = (np.where(inside_TN, _iou(parts_T4, boxes), -1).max(axis=1)) >= overlap
    good = (sides.min(axis=1) > 0) & (aspect >= 0.5) & (aspect <= 2) & reached
    return parts_T4[good.argmax()] if good.any() else None


def _centres_inside(boxes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(N, 4), (T, 4) -> (T, N) bool."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside: np.ndarray = (centres > parts[:, None, :2]) & (centres < parts[:, None, 2:])
    return np.all(inside, axis=2)


def _iou(parts: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(T, 4), (N, 4) -> (T, N)."""
    low = np.maximum(parts[:, None, :2], boxes[:, :2])
    high = np.minimum(parts[:, None, 2:], boxes[:, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    areas = (parts[:, 2:] - parts[:, :2]).prod(axis=1)[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return common / (areas - common)


def size_of(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def fitted(size: Size, short: int, long: int) -> Size:
    """The size with its short side brought to `short`, or its long side to `long` where that is smaller."""
    scale = min(short / min(size), long / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


# -- colours ------------------------------------------------------------------------------------


def by_table(image: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change each pixel by its colour alone, through a table of 17 x 17 x 17 colours and linear in between.

    One pass over the pixels however long the chain, and no hue arithmetic on each: three to four times faster, and off
    by about one level of 255 in the mean.

    Args:
        change: colours (3, N, 17) from 0 to 1 -> the same shape.
    """
    table = change(_all_colours()).permute(1, 2, 0).reshape(-1).tolist()
    pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(np.array(pixels.filter(ImageFilter.Color3DLUT(TABLE, table)))).permute(2, 0, 1)


def _all_colours() -> Tensor:
    """(3, 17 * 17, 17): an even grid over red, green and blue, red fastest."""
    steps = torch.linspace(0, 1, TABLE)
    blue, green, red = torch.meshgrid(steps, steps, steps, indexing="ij")
    return torch.stack((red, green, blue)).reshape(3, TABLE * TABLE, TABLE)


def mean_grey(image: Tensor) -> float:
    """uint8 (3, H, W) -> 0 to 1, from every fourth row and column; what contrast is about."""
    return float(F.rgb_to_grayscale(image[:, ::4, ::4].float()).mean()) / 255


def with_contrast(colours: Tensor, factor: float, grey: float) -> Tensor:
    return (grey + factor * (colours - grey)).clamp(0, 1)


def jitter_colours(image: Tensor, level: int, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast and hue, further off at a higher level."""
    by = np.array((0.1 + 0.0125 * level, 0.015 * level, max(0.0, 0.01 * level - 0.025)))
    brightness, contrast, hue = rng.uniform(-by, by)
    grey = min(1.0, mean_grey(image) * (1 + brightness))

    def change(colours: Tensor) -> Tensor:
        colours = F.adjust_brightness(colours, 1 + brightness)
        return F.adjust_hue(with_contrast(colours, 1 + contrast, grey), hue)

    return by_table(image, change)


def distort_colours(image: Tensor, rng: np.random.Generator) -> Tensor:
    """SSD's colours: brightness, contrast (early or late), saturation, hue, and the channels in any order."""
    brightness, hue = rng.uniform(0.875, 1.125), rng.uniform(-0.05, 0.05)
    contrast, saturation = rng.uniform(0.5, 1.5, size=2)
    late, order = rng.random() < 0.5, rng.permutation(3).tolist()
    grey = min(1.0, mean_grey(image) * brightness)

    def change(colours: Tensor) -> Tensor:
        colours = F.adjust_brightness(colours, brightness)
        colours = colours if late else with_contrast(colours, contrast, grey)
        colours = F.adjust_hue(F.adjust_saturation(colours, saturation), hue)
        return (with_contrast(colours, contrast, grey) if late else colours)[order]

    return by_table(image, change)


def recolour(image: Tensor, level: int, rng: np.random.Generator) -> Tensor:
    """The colours of a level: nothing below 4, more from 6 on."""
    if level >= 4:
        choice = rng.integers(3)
        if choice == 0:
            image = jitter_colours(image, level, rng)
        elif choice == 1:
            image = distort_colours(image, rng)
    if level >= 6:
        grey, apply = rng.random(2) < 0.5
        if apply:
            image = F.rgb_to_grayscale(image, 3) if grey else F.solarize(image, 255 - 10 * level)
    return image


# -- the whole way ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputSize:
    """How large an image comes out.

    Args:
        size: height and width; where the aspect is kept, the shorter of them is the short side.
        long: longest side where the aspect is kept; None brings every image to exactly `size`.
        multiscale: draw the short side instead.
    """

    size: Size
    long: int | None = None
    multiscale: bool = False

    def of(self, image: Tensor, rng: np.random.Generator | None = None) -> Size:
        if self.long is None:
            return self.size
        short = min(self.size) if rng is None or not self.multiscale else int(rng.choice(SHORT_SIDES))
        return fitted(size_of(image), short, self.long)


@dataclass(frozen=True)
class Plain:
    """The resize alone: what evaluation sees. One of these travels to every worker, so it is plain data."""

    output: OutputSize
    level: int = 0

    def __call__(self, image: Tensor, target: Target, rng: np.random.Generator | None = None) -> Sample:
        return resize(image, target, self.output.of(image))


@dataclass(frozen=True)
class Mirror:
    """hflip and multiscale."""

    output: OutputSize
    level: int

    def __call__(self, image: Tensor, target: Target, rng: np.random.Generator) -> Sample:
        image, target = half_mirrored(image, target, rng)
        return resize(image, target, self.output.of(image, rng))


@dataclass(frozen=True)
class Birder:
    """The default, by level."""

    output: OutputSize
    level: int

    def __call__(self, image: Tensor, target: Target, rng: np.random.Generator) -> Sample:
        if self.level >= 3:
            image, target = iou_crop(image, target, rng)
        if self.level >= 1:
            image, target = half_mirrored(image, target, rng)
        size = self.output.of(image, rng)
        if self.level >= 1 and not self.output.multiscale:
            image, target = rescale(image, target, draw_scale(self.level, rng), size, rng)
        else:
            image, target = resize(image, target, size)
        return recolour(image, self.level, rng), target


BUILDERS = {"hflip": Mirror, "multiscale": Mirror, "birder": Birder, "default": Birder}


def build_augment(
    name: str, *, level: int = 4, size: Size, max_size: int | None = None, multiscale: bool = False, train: bool = True
) -> Augment:
    """(uint8 (3, H, W), target, random numbers) -> the same, augmented and resized.

    Args:
        name: hflip, multiscale, birder, or default, which is birder.
        level: 0 to 10, how much birder does.
        size: height and width to resize to; where the aspect is kept, the shorter of them is the short side.
        max_size: longest side; given, the aspect is kept.
        multiscale: train at short sides from 480 to 800, aspect kept.
        train: False for the resize alone, as evaluation wants it.
    """
    if name not in BUILDERS:
        raise UsageError(f"no augmentation '{name}'{suggest(name, list(BUILDERS))}; there is {', '.join(BUILDERS)}")
    if not 0 <= level <= 10:
        raise UsageError(f"augmentation level {level} is not one of 0 to 10; 4 is the usual one")
    if min(size) < 1 or (max_size is not None and max_size < 1):
        raise UsageError(f"size {size[0]}x{size[1]} with longest side {max_size} leaves no pixel; sizes start at 1")
    multiscale = multiscale or name == "multiscale"
    long = max_size or (LONG_SIDE if multiscale else None)
    return (BUILDERS[name] if train else Plain)(OutputSize(size, long, multiscale), level)


def half_mirrored(image: Tensor, target: Target, rng: np.random.Generator) -> Sample:
    # before any resize, so that fewer pixels are moved
    return hflip(image, target) if rng.random() < 0.5 else (image, target)


def draw_scale(level: int, rng: np.random.Generator) -> float:
    """Scale jitter, or half of the time zooming out, or nothing: how many times its size an object gets."""
    if rng.random() < 0.5:
        return rng.uniform(max(0.1, 0.5 - 0.08 * level), 2)
    return 1 / rng.uniform(1, 3 + 0.1 * level) if rng.random() < 0.5 else 1.0
