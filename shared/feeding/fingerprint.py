"""Fingerprints of pictures: 192 bits that stay nearly the same when a picture is encoded again, resized or mirrored.

    file -> luminance, 64 x 64 whatever the shape -> cosine transform -> signs of the 192 lowest frequencies

Two pictures that have nothing in common differ in 96 bits, give or take 7. A copy that was encoded again or resized
differs in a few. Mirrored, the odd horizontal frequencies change their sign. A crop of a picture differs in 30 to 90,
so the picture that is looked for is transformed over windows as well: as if cropped, and as if it were the crop, with
its edge continued. JPEGs are decoded at an eighth to a half of their size, luminance alone.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from shared.feeding.image import decode_image, image_header, image_size, is_jpeg
from shared.feeding.orientation import BEYOND, turned

SIDE = 64  # pixels of a small picture
BITS, WORDS = 192, 3
FREQUENCIES = 19  # of an axis: 0 to 18
REDUCED = 90  # pixels of the short side from which a small picture is interpolated
SAMPLES = 960  # of an axis of a window
CROPPED = 0.1  # of an axis, that a crop may lack in all
COARSE, FINE = 0.05, 0.025  # steps between windows, as a share of the axis: 72 windows, and 450
PLAIN = 2.0  # standard deviation, of 255: below it, signs are noise
BILINEAR = Image.Resampling.BILINEAR  # antialiased where it shrinks


def _lowest() -> tuple[np.ndarray, np.ndarray]:
    """Vertical and horizontal frequency of each bit, from low to high; not the mean."""
    pairs = [(u, v) for u in range(FREQUENCIES) for v in range(FREQUENCIES) if u + v]
    down, across = zip(*sorted(pairs, key=lambda pair: (sum(pair), abs(pair[0] - pair[1]), pair))[:BITS], strict=True)
    return np.array(down), np.array(across)


DOWN, ACROSS = _lowest()


def small_picture(data: bytes | bytearray) -> np.ndarray:
    """Bytes of an image file -> (64, 64) uint8 luminance, upright by EXIF.

    Raises:
        BadImage: not an image, damaged, or over the limit of `limit_pixels`.
    """
    image_size(data)
    image = _reduced(data) if is_jpeg(data) else None
    if image is None:
        pixels = decode_image(data, upright=True).permute(1, 2, 0).contiguous().numpy()
        image = Image.fromarray(pixels).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), BILINEAR))


def small_luminance(luminance: Tensor, orientation: int) -> np.ndarray:
    """The same of an image that is decoded anyway: (H, W) uint8 luminance as stored -> (64, 64) uint8, upright by EXIF.

    It differs from `small_picture` by what encoding again does, so compare small pictures of one kind.
    """
    image = Image.fromarray(luminance.numpy())
    image = image.reduce(max(1, min(image.size) // REDUCED)).resize((SIDE, SIDE), BILINEAR)
    return turned(torch.from_numpy(np.array(image)), orientation).contiguous().numpy()


def _reduced(data: bytes | bytearray) -> Image.Image | None:
    """A JPEG at the smallest size that its decoder offers above 64 pixels; None for those that it cannot decode so."""
    orientation = image_header(data).orientation
    try:
        image = Image.open(io.BytesIO(data))
        if image.mode not in ("RGB", "L"):  # CMYK has no luminance before it is converted
            return None
        image.draft("L", (SIDE, SIDE))
        image = image.convert("L")
    except (OSError, ValueError, SyntaxError):
        return None
    if orientation >= BEYOND:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    mirrored, upside_down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if upside_down else image


def fingerprints(pictures: np.ndarray) -> np.ndarray:
    """(N, 64, 64) small pictures -> (N, 3) uint64; 0 for plain ones, which have no fingerprint."""
    whole = basis(0.0, 1.0)
    found = packed(signed(whole @ pictures.astype(np.float32) @ whole.T))
    found[pictures.std(axis=(1, 2)) < PLAIN] = 0
    return found


def signed(coefficients: np.ndarray) -> np.ndarray:
    """(..., 19, 19) coefficients -> (..., 192), those of the bits."""
    return coefficients[..., DOWN, ACROSS]


def packed(coefficients: np.ndarray) -> np.ndarray:
    """(..., 192) coefficients -> (..., 3) uint64 of their signs, lowest bit first."""
    packed_bytes = np.packbits(coefficients > 0, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed_bytes).view("<u8").astype(np.uint64, copy=False)


MIRRORED = packed(np.where(ACROSS % 2, 1.0, -1.0))  # bits that differ in the mirrored picture


@cache
def basis(begin: float, end: float) -> np.ndarray:
    """(19, 64): cosines over a window of an axis that a picture fills from 0 to 1; beyond it, its edge continues."""
    places = (np.arange(SAMPLES) + 0.5) / SAMPLES
    pixels = np.clip(((begin + (end - begin) * places) * SIDE).astype(np.int64), 0, SIDE - 1)
    waves = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * places)
    table = np.zeros((FREQUENCIES, SIDE))
    np.add.at(table.T, pixels, waves.T)
    return (table / SAMPLES).astype(np.float32)


@cache
def windows(step: float) -> tuple[np.ndarray, np.ndarray]:
    """Windows along an axis, (W, 19, 64) each: crops of a picture, and frames that it may be a crop of; whole first."""
    steps = range(round(CROPPED / step) + 1)
    crops = [(step * low, 1 - step * high) for low in steps for high in steps if low + high < len(steps)]
    frames = [(-begin / (end - begin), 1 + (1 - end) / (end - begin)) for begin, end in crops]
    groups = (np.stack([basis(begin, end) for begin, end in group]) for group in (crops, frames))
    return next(groups), next(groups)


def over_windows(pictures: np.ndarray, step: float) -> np.ndarray:
    """(N, 64, 64) small pictures -> (N, W, 192) coefficients over all windows: crop by crop, frame by frame."""
    found, pictures = [], pictures.astype(np.float32)
    for axis in windows(step):
        down = np.einsum("wfp,npq->nwfq", axis, pictures, optimize=True)
        both = np.einsum("nwfq,vgq->nwvfg", down, axis, optimize=True)
        found.append(signed(both).reshape(len(pictures), -1, BITS))
    return np.concatenate(found, axis=1)
