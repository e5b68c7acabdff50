"""Augmentation presets of images and boxes; uint8 in, uint8 out. "flip" is a horizontal flip with probability 0.5.

    hflip        flip                                                 -> resize
    multiscale   flip                                                 -> resize to a short side from 480 to 800
    birder       by level, cumulative
                   0   nothing                                        -> resize
                   1   flip -> scale jitter or zoom out, within the output size
                   3   SSD's crop before that
                   4   then one of: brightness, contrast and hue | SSD's colors | nothing
                   6   then, with probability 0.5, one of: grayscale | solarize
                 with `multiscale` the short side varies instead of the scale
    detr         flip -> random crop with probability 0.5 -> resize to a short side from 480 to 800
    ssd          SSD's colors -> zoom out with probability 0.5 -> SSD's crop -> resize -> flip
    ssdlite      SSD's crop                                           -> resize -> flip
    lsj          flip -> scale 0.1 to 2 of the size that fits, on a canvas of exactly (height, width)

Images are resized to exactly (height, width); or, with `max_size`, `multiscale`, `short_sides` or detr, to that short
side, with a long side of at most `max_size`. If the short side varies and the size is smaller than the papers' (640,
for detr 800), all lengths are scaled: detr with size 400 uses 240 to 400. Evaluation only resizes, for lsj to the size
that fits into the canvas. Boxes are clipped, and those narrower than a pixel dropped. All random numbers come from the
given generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from detection.data.augment import windows
from detection.data.augment.color import distort_colors, recolor
from detection.data.augment.geometry import Part, Sample, crop, hflip, kept, resize, size_of, through
from detection.data.augment.sizes import RULES, Size, fitted, within
from detection.types import Target
from shared.errors import UsageError
from shared.recipes.registry import suggest

Augment = Callable[[Tensor, Target, np.random.Generator], Sample]

SHORT_SIDES, LONG_SIDE = range(480, 801, 32), 1333
USUAL_SHORT_SIDE = 640  # for smaller sizes, the lengths above are scaled
DETR_SIZE: Size = (800, 800)  # DETR's evaluation size
MADE_FOR = {"detr": DETR_SIZE}  # default sizes of augmentations, for any network


@dataclass(frozen=True)
class Output:
    """The output size.

    Args:
        size: height and width; with `long`, the smaller one is the short side.
        long: maximum long side, keeping the aspect ratio; None resizes to exactly `size`.
        short: short sides to sample from; () for that of `size`.
        factor: scale of a paper's lengths.
        antialias: antialias when downscaling.
        rule: rounding of sizes that keep the aspect ratio, a name of `sizes.RULES`.
        canvas: height and width that no image may exceed; larger ones are made smaller. None for no limit.
    """

    size: Size
    long: int | None = None
    short: tuple[int, ...] = ()
    factor: float = 1.0
    antialias: bool = True
    rule: str = "torchvision"
    canvas: Size | None = None

    def of(self, size: Size, rng: np.random.Generator | None = None) -> Size:
        """Output size of an image, or a crop, of this size."""
        if self.long is None:
            return self.size
        short = int(rng.choice(self.short)) if rng is not None and self.short else min(self.size)
        found = fitted(size, short, self.long, self.rule)
        return found if self.canvas is None else within(found, self.canvas)


@dataclass(frozen=True)
class Augmentation:
    """One of the functions below with its parameters; picklable, since it is sent to every worker."""

    run: Callable[[Tensor, Target, Augmentation, np.random.Generator], Sample]
    output: Output
    level: int = 0

    def __call__(self, image: Tensor, target: Target, rng: np.random.Generator) -> Sample:
        return self.run(image, target, self, rng)

    def largest(self, sizes: Sequence[Size]) -> Size:
        """A height and a width that no training image of photographs of these sizes exceeds."""
        output = self.output
        if output.long is None or self.run is lsj:
            return output.size
        if self.run not in (plain, mirror):  # a crop may have any shape
            sizes = [(1, output.long), (output.long, 1)]
        short = max(output.short or (min(output.size),))
        one = replace(output, size=(short, short), short=())
        heights, widths = zip(*map(one.of, sizes), strict=True)
        return max(heights), max(widths)

    def resized(self, image: Tensor, target: Target, size: Size) -> Sample:
        return resize(image, target, size, antialias=self.output.antialias)

    def seen(self, image: Tensor, target: Target, window: Part, size: Size) -> Sample:
        """Crop to a window and resize."""
        return through(image, target, window, size, antialias=self.output.antialias)


def plain(image: Tensor, target: Target, augmentation: Augmentation, _: np.random.Generator) -> Sample:
    """Resize only, as for evaluation."""
    return augmentation.resized(image, target, augmentation.output.of(size_of(image)))


def mirror(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """Flip, then resize; multiscale with a random short side."""
    image, target = half_mirrored(image, target, rng)
    return augmentation.resized(image, target, augmentation.output.of(size_of(image), rng))


def birder(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """birder's augmentation by level, 0 to 10."""
    if augmentation.level >= 3:
        window, inside = windows.overlapping(target["boxes"], windows.whole(size_of(image)), rng)
        image, target = crop(image, kept(target, inside), window)
    if augmentation.level >= 1:
        image, target = half_mirrored(image, target, rng)
    size = augmentation.output.of(size_of(image), rng)
    if augmentation.level >= 1 and not augmentation.output.short:
        window = windows.jittered(size_of(image), draw_scale(augmentation.level, rng), rng)
        image, target = augmentation.seen(image, target, window, size)
    else:
        image, target = augmentation.resized(image, target, size)
    return recolor(image, augmentation.level, rng), target


def detr(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """DETR's augmentation: flip, random crop, random short side."""
    image, target = half_mirrored(image, target, rng)
    if rng.random() < 0.5:
        image, target = crop(image, target, windows.cropped(size_of(image), augmentation.output.factor, rng))
    return augmentation.resized(image, target, augmentation.output.of(size_of(image), rng))


def ssd(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """SSD's augmentation: colors, zoom out, crop, flip."""
    image = distort_colors(image, rng, share=0.5)
    window = windows.zoomed_out(size_of(image), rng) if rng.random() < 0.5 else windows.whole(size_of(image))
    return overlapping_part(image, target, window, augmentation, rng)


def ssdlite(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """SSD's crop, then flip."""
    return overlapping_part(image, target, windows.whole(size_of(image)), augmentation, rng)


def overlapping_part(
    image: Tensor, target: Target, window: Part, augmentation: Augmentation, rng: np.random.Generator
) -> Sample:
    window, inside = windows.overlapping(target["boxes"], window, rng)
    size = augmentation.output.of((window.height, window.width), rng)
    return half_mirrored(*augmentation.seen(image, kept(target, inside), window, size), rng)


def lsj(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """Large-scale jitter on a fixed canvas."""
    image, target = half_mirrored(image, target, rng)
    window = windows.scaled(size_of(image), augmentation.output.size, rng)
    return augmentation.seen(image, target, window, augmentation.output.size)


def half_mirrored(image: Tensor, target: Target, rng: np.random.Generator) -> Sample:
    return hflip(image, target) if rng.random() < 0.5 else (image, target)


def draw_scale(level: int, rng: np.random.Generator) -> float:
    """A random scale: jitter with probability 0.5, else zoom out or 1."""
    if rng.random() < 0.5:
        return rng.uniform(max(0.1, 0.5 - 0.08 * level), 2)
    return 1 / rng.uniform(1, 3 + 0.1 * level) if rng.random() < 0.5 else 1.0


AUGMENTATIONS = {
    "birder": birder,
    "default": birder,
    "detr": detr,
    "hflip": mirror,
    "lsj": lsj,
    "multiscale": mirror,
    "ssd": ssd,
    "ssdlite": ssdlite,
}


def augmentations() -> list[str]:
    """Every name with the first line of what it does, for `detect list`."""
    width = max(map(len, AUGMENTATIONS))
    return [f"{name:<{width}}  {(run.__doc__ or '').partition(chr(10))[0]}" for name, run in AUGMENTATIONS.items()]


def build_augment(
    name: str,
    *,
    level: int = 4,
    size: Size,
    max_size: int | None = None,
    multiscale: bool = False,
    smallest_side: int = SHORT_SIDES[0],
    short_sides: tuple[int, int] | None = None,
    antialias: bool = True,
    resize_rule: str | None = None,
    train: bool = True,
) -> Augmentation:
    """Build an augmentation: (uint8 (3, H, W), target, random generator) -> augmented and resized image and target.

    Args:
        name: one of AUGMENTATIONS; "default" is birder.
        level: strength of birder, 0 to 10.
        size: output height and width; if the aspect ratio is kept, the smaller one is the short side.
        max_size: maximum long side; keeps the aspect ratio.
        multiscale: random short sides from `smallest_side` to 800, keeping the aspect ratio.
        smallest_side: of multiscale and detr, in steps of 32 up to 800.
        short_sides: random short sides, any whole number from the first to the second, instead of those in steps of
            32; keeps the aspect ratio.
        antialias: antialias when downscaling; torchvision's detectors were trained without.
        resize_rule: rounding of sizes that keep the aspect ratio, a name of `sizes.RULES`; None for that of the
            augmentation's authors, which is torchvision's for all but detr.
        train: False to resize only.

    Raises:
        UsageError: an unknown name, or a level or size out of range.
    """
    if name not in AUGMENTATIONS:
        offered = ", ".join(AUGMENTATIONS)
        raise UsageError(f"no augmentation '{name}'{suggest(name, list(AUGMENTATIONS))}; give one of {offered}")
    if not 0 <= level <= 10:
        raise UsageError(f"augmentation level {level} is not one of 0 to 10; 4 is the usual one")
    if min(size) < 1 or (max_size is not None and max_size < 1):
        raise UsageError(f"size {size[0]}x{size[1]} with longest side {max_size} leaves no pixel; sizes start at 1")
    resize_rule = resize_rule or ("detr" if name == "detr" else "torchvision")
    if resize_rule not in RULES:
        raise UsageError(f"no resize rule '{resize_rule}'; give one of {', '.join(RULES)}")
    if multiscale and name == "lsj":
        raise UsageError("lsj has its own random scales, on a canvas of --size; remove --multiscale")
    output = output_of(name, size, max_size, multiscale or short_sides is not None, smallest_side)
    if short_sides is not None:
        output = replace(output, long=max_size or LONG_SIDE, short=sides_between(name, *short_sides))
    output = replace(output, antialias=antialias, rule=resize_rule)
    return Augmentation(AUGMENTATIONS[name] if train else plain, output, level)


def sides_between(name: str, low: int, high: int) -> tuple[int, ...]:
    """All short sides of --short-side-range."""
    if low > high:
        raise UsageError(f"--short-side-range {low} {high} has the larger side first; give {high} {low}")
    if name == "lsj":
        raise UsageError("lsj has its own random scales, on a canvas of --size; remove --short-side-range")
    return tuple(range(low, high + 1))


def output_of(name: str, size: Size, max_size: int | None, multiscale: bool, smallest_side: int) -> Output:
    if multiscale or name in ("multiscale", "detr"):
        factor = min(1.0, min(size) / (min(DETR_SIZE) if name == "detr" else USUAL_SHORT_SIDE))
        short = tuple(max(1, round(factor * side)) for side in range(smallest_side, SHORT_SIDES[-1] + 1, 32))
        return Output(size, max_size or max(1, round(factor * LONG_SIDE)), short, factor)
    return Output(size, max_size or (max(size) if name == "lsj" else None))
