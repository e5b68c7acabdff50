"""What happens to a photograph and its boxes between the disk and the batch. uint8 in, uint8 out.

    hflip        mirror half of them                                  -> resize
    multiscale   mirror half of them                                  -> resize to a short side from 480 to 800
    birder       by level, each including what is above it
                   0   nothing                                        -> resize
                   1   mirror half of them -> jitter the scale, or zoom out, inside the size a resize would give
                   3   SSD's crop before that
                   4   then one of: brightness, contrast and hue | SSD's colors | nothing
                   6   then one of: gray | solarize, half of the time
                 with `multiscale` the short side varies instead of the scale inside the size
    detr         mirror half of them -> of half of them a random part -> resize to a short side from 480 to 800
    ssd          SSD's colors -> zoom out half of them -> SSD's crop -> resize -> mirror half of them
    ssdlite      SSD's crop                                           -> resize -> mirror half of them
    lsj          mirror half of them -> a tenth to twice the size that fits, in a canvas of exactly (height, width)

A resize is to exactly (height, width); or, with `max_size`, `multiscale` or detr, the short side comes to the shorter
of the two and the long side to `max_size` at most. Where the short side varies and the network sees less than the
papers' (640, of detr 800), all these lengths shrink in proportion: detr with a size of 400 draws from 240 to 400.
Evaluation resizes only, of lsj to what fits into the canvas. Every change of geometry clips the boxes and drops, with
their labels, those narrower than a pixel. Random numbers come from the generator that is handed in, from nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from detection.data.augment import windows
from detection.data.augment.color import distort_colors, recolor
from detection.data.augment.geometry import Part, Sample, Size, crop, fitted, hflip, kept, resize, size_of, through
from detection.types import Target
from shared.errors import UsageError
from shared.recipes.registry import suggest

Augment = Callable[[Tensor, Target, np.random.Generator], Sample]

SHORT_SIDES, LONG_SIDE = range(480, 801, 32), 1333
USUAL_SHORT_SIDE = 640  # below it, the numbers of the line above shrink
DETR_SIZE: Size = (800, 800)  # what DETR is evaluated at
MADE_FOR = {"detr": DETR_SIZE}  # sizes that come with an augmentation, whichever network it is for


@dataclass(frozen=True)
class Output:
    """How large an image comes out.

    Args:
        size: height and width; where the aspect is kept, the shorter of them is the short side.
        long: longest side where the aspect is kept; None brings every image to exactly `size`.
        short: short sides to draw from; none leaves it at that of `size`.
        factor: by which the lengths of a paper are shrunk.
        antialias: whether an image made smaller is smoothed.
    """

    size: Size
    long: int | None = None
    short: tuple[int, ...] = ()
    factor: float = 1.0
    antialias: bool = True

    def of(self, size: Size, rng: np.random.Generator | None = None) -> Size:
        """What an image, or a part of one, of this size becomes."""
        if self.long is None:
            return self.size
        short = int(rng.choice(self.short)) if rng is not None and self.short else min(self.size)
        return fitted(size, short, self.long)


@dataclass(frozen=True)
class Augmentation:
    """One of the functions below with its numbers: plain data, since it travels to every worker."""

    run: Callable[[Tensor, Target, Augmentation, np.random.Generator], Sample]
    output: Output
    level: int = 0

    def __call__(self, image: Tensor, target: Target, rng: np.random.Generator) -> Sample:
        return self.run(image, target, self, rng)

    def resized(self, image: Tensor, target: Target, size: Size) -> Sample:
        return resize(image, target, size, antialias=self.output.antialias)

    def seen(self, image: Tensor, target: Target, window: Part, size: Size) -> Sample:
        """Through a window."""
        return through(image, target, window, size, antialias=self.output.antialias)


def plain(image: Tensor, target: Target, augmentation: Augmentation, _: np.random.Generator) -> Sample:
    """The resize alone: what evaluation sees."""
    return augmentation.resized(image, target, augmentation.output.of(size_of(image)))


def mirror(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """hflip and multiscale."""
    image, target = half_mirrored(image, target, rng)
    return augmentation.resized(image, target, augmentation.output.of(size_of(image), rng))


def birder(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """The default, by level."""
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
    """DETR's, with the random part that its paper cuts out of every other image."""
    image, target = half_mirrored(image, target, rng)
    if rng.random() < 0.5:
        image, target = crop(image, target, windows.cropped(size_of(image), augmentation.output.factor, rng))
    return augmentation.resized(image, target, augmentation.output.of(size_of(image), rng))


def ssd(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """SSD's; the canvas that it zooms out to is never painted where the crop does not look."""
    image = distort_colors(image, rng, share=0.5)
    window = windows.zoomed_out(size_of(image), rng) if rng.random() < 0.5 else windows.whole(size_of(image))
    return overlapping_part(image, target, window, augmentation, rng)


def ssdlite(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """SSD's crop alone."""
    return overlapping_part(image, target, windows.whole(size_of(image)), augmentation, rng)


def overlapping_part(
    image: Tensor, target: Target, window: Part, augmentation: Augmentation, rng: np.random.Generator
) -> Sample:
    window, inside = windows.overlapping(target["boxes"], window, rng)
    size = augmentation.output.of((window.height, window.width), rng)
    return half_mirrored(*augmentation.seen(image, kept(target, inside), window, size), rng)


def lsj(image: Tensor, target: Target, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """Large scale jitter."""
    image, target = half_mirrored(image, target, rng)
    window = windows.scaled(size_of(image), augmentation.output.size, rng)
    return augmentation.seen(image, target, window, augmentation.output.size)


def half_mirrored(image: Tensor, target: Target, rng: np.random.Generator) -> Sample:
    return hflip(image, target) if rng.random() < 0.5 else (image, target)


def draw_scale(level: int, rng: np.random.Generator) -> float:
    """Scale jitter, or half of the time zooming out, or nothing: how many times its size an object gets."""
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
    antialias: bool = True,
    train: bool = True,
) -> Augment:
    """(uint8 (3, H, W), target, random numbers) -> the same, augmented and resized.

    Args:
        name: one of AUGMENTATIONS; default is birder.
        level: 0 to 10, how much birder does.
        size: height and width to resize to; where the aspect is kept, the shorter of them is the short side.
        max_size: longest side; given, the aspect is kept.
        multiscale: train at short sides from `smallest_side` to 800, aspect kept.
        smallest_side: that multiscale and detr draw, in steps of 32 up to 800.
        antialias: smooth what is made smaller; torchvision's detectors were made without.
        train: False for the resize alone, as evaluation wants it.
    """
    if name not in AUGMENTATIONS:
        offered = ", ".join(AUGMENTATIONS)
        raise UsageError(f"no augmentation '{name}'{suggest(name, list(AUGMENTATIONS))}; there is {offered}")
    if not 0 <= level <= 10:
        raise UsageError(f"augmentation level {level} is not one of 0 to 10; 4 is the usual one")
    if min(size) < 1 or (max_size is not None and max_size < 1):
        raise UsageError(f"size {size[0]}x{size[1]} with longest side {max_size} leaves no pixel; sizes start at 1")
    if multiscale and name == "lsj":
        raise UsageError("lsj draws scales of its own, in a canvas of --size; leave --multiscale out")
    output = replace(output_of(name, size, max_size, multiscale, smallest_side), antialias=antialias)
    return Augmentation(AUGMENTATIONS[name] if train else plain, output, level)


def output_of(name: str, size: Size, max_size: int | None, multiscale: bool, smallest_side: int) -> Output:
    if multiscale or name in ("multiscale", "detr"):
        factor = min(1.0, min(size) / (min(DETR_SIZE) if name == "detr" else USUAL_SHORT_SIDE))
        short = tuple(max(1, round(factor * side)) for side in range(smallest_side, SHORT_SIDES[-1] + 1, 32))
        return Output(size, max_size or max(1, round(factor * LONG_SIDE)), short, factor)
    return Output(size, max_size or (max(size) if name == "lsj" else None))
