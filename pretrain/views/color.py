"""Color augmentation of batches on the device: jitter, grayscale, blur and solarize, random per image.

    uint8 (B, 3, H, W) -> brightness, contrast, saturation, hue in any order -> gray -> blur -> solarize -> float32

The parameters have the distributions of torchvision's ColorJitter, RandomGrayscale, GaussianBlur and RandomSolarize.
Pixels stay within 0 to 255 and are not rounded in between. Random numbers are from torch's global CPU generator, so
a seed gives the same colors on any device, without synchronization.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # weights of R, G and B in luma, ITU-R BT.601
REACH = 2.6  # radius of a blur kernel in standard deviations; the rest is less than one gray level
CACHED = 2**18  # pixel values per chunk on a CPU

Finish = Callable[[Tensor], Tensor]


class Drawn(NamedTuple):
    """Random parameters for B images.

    order: (B, 4) permutation of brightness, contrast, saturation and hue (0 to 3).
    amounts: (B, 4) three factors around 1, and the hue shift in turns.
    jittered, gray, solarized: (B,) bool.
    sigma: (B,) standard deviation of the blur in pixels; 0 for none.
    """

    order: np.ndarray
    amounts: np.ndarray
    jittered: np.ndarray
    gray: np.ndarray
    sigma: np.ndarray
    solarized: np.ndarray

    def some(self, rows: slice) -> Drawn:
        return Drawn._make(column[rows] for column in self)


@dataclass(frozen=True)
class Color:
    """Random color augmentation.

    Args:
        jitter: probability that brightness, contrast, saturation and hue are changed.
        gray: probability of grayscale.
        blur: probability of a Gaussian blur.
        solarize: probability that values above the middle are inverted.
        strengths: maximum distance of the factors of brightness, contrast and saturation from 1, and of the hue from 0.
        sigma: range of the blur's standard deviation in pixels.
    """

    jitter: float = 0.8
    gray: float = 0.2
    blur: float = 0.5
    solarize: float = 0.0
    strengths: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    sigma: tuple[float, float] = (0.1, 2.0)

    def __call__(self, images: Tensor, finish: Finish | None = None) -> Tensor:
        """(B, 3, H, W) uint8 -> (B, 3, H, W) float32 from 0 to 255, or the result of `finish`, such as Normalize"""
        return colored(images, self.draw(len(images)), finish)

    def draw(self, count: int) -> Drawn:
        """Random parameters for `count` images."""
        chances = torch.rand(count, 4) < torch.tensor([self.jitter, self.gray, self.blur, self.solarize])
        jittered, gray, blurred, solarized = chances.numpy().transpose()
        order = torch.rand(count, 4).argsort(1).numpy()
        low = torch.tensor([max(0.0, 1 - s) for s in self.strengths[:3]] + [-self.strengths[3]])
        high = torch.tensor([1 + s for s in self.strengths[:3]] + [self.strengths[3]])
        amounts = (low + (high - low) * torch.rand(count, 4)).numpy()
        sigma = (self.sigma[0] + (self.sigma[1] - self.sigma[0]) * torch.rand(count)).numpy()
        return Drawn(order, amounts, jittered, gray, sigma * blurred, solarized)


@torch.no_grad()
@torch.compiler.disable()  # CPU random numbers would break compiled graphs
def colored(images: Tensor, drawn: Drawn, finish: Finish | None = None) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, 3, H, W) float32"""
    pixels = images.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    # a CPU is fastest with chunks that fit in its cache, such as one 224x224 image
    few = max(1, CACHED // pixels[0].numel()) if pixels.device.type == "cpu" else len(pixels)
    for first in range(0, len(pixels), few):
        rows = slice(first, first + few)
        paint(pixels[rows], drawn.some(rows))
        if finish is not None:
            pixels[rows] = finish(pixels[rows])
    return pixels


def paint(pixels: Tensor, drawn: Drawn) -> None:
    """Apply the parameters in place; images with the same operation are processed together."""
    for place in range(4):
        for number in sorted(set(drawn.order[drawn.jittered, place].tolist())):
            chosen = drawn.jittered & (drawn.order[:, place] == number)
            change(pixels, chosen, JITTERS[number], drawn.amounts[:, number])
    change(pixels, drawn.gray, saturation, np.zeros_like(drawn.sigma))
    change(pixels, drawn.sigma > 0, partial(blur, reach=math.ceil(REACH * drawn.sigma.max())), drawn.sigma)
    change(pixels, drawn.solarized, solarize, drawn.sigma)


def change(pixels: Tensor, chosen: np.ndarray, how: Callable[[Tensor, Tensor], None], amounts: np.ndarray) -> None:
    """Apply an operation in place to the chosen images, each with its own amount."""
    rows = np.flatnonzero(chosen)
    if len(rows) == 0:
        return
    amount = torch.from_numpy(amounts[rows]).to(pixels).view(-1, 1, 1, 1)
    if len(rows) == len(pixels):
        how(pixels, amount)
        return
    where = torch.from_numpy(rows).to(pixels.device)
    some = pixels[where]
    how(some, amount)
    pixels.index_copy_(0, where, some)


# --- operations on (B, 3, H, W), in place; amounts are (B, 1, 1, 1) ---------------------------


def brightness(pixels: Tensor, factor: Tensor) -> None:
    pixels.mul_(factor).clamp_(0, 255)


def contrast(pixels: Tensor, factor: Tensor) -> None:
    """Blend with the image's mean gray; a factor above 1 extrapolates."""
    gray = (pixels.mean((2, 3), keepdim=True) * pixels.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    pixels.mul_(factor).add_(gray * (1 - factor)).clamp_(0, 255)


def saturation(pixels: Tensor, factor: Tensor) -> None:
    """Blend with each pixel's gray; 0 is grayscale."""
    r, g, b = pixels.split(1, 1)
    gray = (r * LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2]).mul_(1 - factor)
    pixels.mul_(factor).add_(gray).clamp_(0, 255)


def hue(pixels: Tensor, turns: Tensor) -> None:
    """Rotate the hue, at constant value and saturation of HSV."""
    r, g, b = pixels.unbind(1)
    top = torch.maximum(r, g)
    torch.maximum(top, b, out=top)
    span = torch.minimum(r, g)
    torch.sub(top, torch.minimum(span, b, out=span), out=span)
    # sixths of a turn, times the span: from -1 at magenta over 0 at red to 5; `sign` and `lerp` are a quick `where`
    by_blue, by_green = (r - g).add_(span, alpha=4), (b - r).add_(span, alpha=2)
    by_green.lerp_(by_blue, (top - g).sign_())
    sixths = torch.sub(g, b, out=by_blue).lerp_(by_green, (top - r).sign_())
    angle = sixths.div_((span * 6).clamp_(min=1e-6)).add_(turns[:, 0])
    # below the top by a trapezium over the circle, as high as the span
    least, spare = top.sub_(span, alpha=2), by_green
    for channel, start in zip((r, g, b), (5 / 6, 3 / 6, 1 / 6), strict=True):
        torch.add(angle, start + 1, out=spare).frac_().sub_(1 / 3).abs_().clamp_(1 / 6, 1 / 3)
        torch.addcmul(least, spare, span, value=6, out=channel)


def blur(pixels: Tensor, sigma: Tensor, reach: int) -> None:
    """Separable Gaussian blur with radius `reach`; edges are reflected."""
    height, width = pixels.shape[-2:]
    reach = min(reach, height - 1, width - 1)
    weights = (torch.arange(-reach, reach + 1, device=pixels.device) / sigma).square().mul_(-0.5).exp_()
    taps = (weights / weights.sum(-1, keepdim=True)).split(1, -1)
    for plane in pixels.split(1, 1):  # one channel at a time stays in the cache
        tall = F.pad(plane, (0, 0, reach, reach), mode="reflect")
        torch.mul(tall[:, :, :height], taps[0], out=plane)
        for k in range(1, 2 * reach + 1):
            plane.addcmul_(tall[:, :, k : k + height], taps[k])
        wide = F.pad(plane, (reach, reach, 0, 0), mode="reflect")
        torch.mul(wide[..., :width], taps[0], out=plane)
        for k in range(1, 2 * reach + 1):
            plane.addcmul_(wide[..., k : k + width], taps[k])


def solarize(pixels: Tensor, _: Tensor) -> None:
    """Invert values above the middle."""
    torch.minimum(pixels, 255 - pixels, out=pixels)


JITTERS = (brightness, contrast, saturation, hue)
