"""Decode image files to (3, H, W) uint8 RGB, or raise BadImage.

bytes -> size, from the header alone (`image_header.py`) -> too large: BadImage before anything is decoded
      -> JPEG with one or three components: torchvision's decoder, the fastest
      -> everything else: Pillow, whose decoders do not crash on damaged files
      -> turned by the EXIF orientation on request
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from shared.feeding.image_header import (
    BadImage,
    check_size,
    few_words,
    image_header,
    image_size,
    is_jpeg,
    jpeg_frame,
    limit_pixels,
    open_image,
    orientation_of,
    too_large,
)
from shared.feeding.orientation import as_stored, jpeg_orientation, turned

__all__ = [
    "BadImage",
    "decode_image",
    "decode_luminance",
    "image_header",
    "image_size",
    "is_jpeg",
    "limit_pixels",
    "pixels_of",
    "too_large",
]


def decode_image(data: bytes | bytearray, *, upright: bool) -> Tensor:
    """Bytes of a file -> (3, H, W) uint8 RGB; first frame of animations, transparency dropped.

    Args:
        upright: apply the EXIF orientation; otherwise pixels are as stored, as boxes of COCO files refer to them.

    Raises:
        BadImage: not an image, damaged, or over the limit of `limit_pixels`.
    """
    pixels = _of_jpeg(data, ImageReadMode.RGB)
    if pixels is None:
        return _by_pillow(data, upright)
    return turned(pixels, jpeg_orientation(data)) if upright else pixels


def decode_luminance(data: bytes | bytearray) -> Tensor:
    """Bytes of a file -> (H, W) uint8 luminance, as stored; refuses what `decode_image` refuses, in less time.

    All of a JPEG is read, but its colors are not computed.

    Raises:
        BadImage: as `decode_image`.
    """
    pixels = _of_jpeg(data, ImageReadMode.GRAY)
    if pixels is not None:
        return pixels[0]
    colors = _by_pillow(data, False).permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(np.array(Image.fromarray(colors).convert("L")))


def _of_jpeg(data: bytes | bytearray, mode: ImageReadMode) -> Tensor | None:
    """(3 or 1, H, W) of a JPEG as stored; None for Pillow's files. Raises BadImage for those over the limit."""
    if not is_jpeg(data):
        return None
    height, width, colors = jpeg_frame(data)
    check_size(height, width)
    if colors == 4:  # CMYK storage depends on an Adobe marker, which only Pillow reads
        return None
    try:
        # decode_jpeg needs writable memory, hence the copy of `bytes`
        encoded = torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=torch.uint8)
        pixels = decode_jpeg(encoded, mode=mode)
    except RuntimeError:
        return None  # Pillow reads more kinds of JPEG and has shorter error messages
    assert isinstance(pixels, Tensor)  # a list is returned only for a list
    return pixels


def _by_pillow(data: bytes | bytearray, upright: bool) -> Tensor:
    image = open_image(data)
    check_size(image.height, image.width)
    orientation = orientation_of(image, data)
    try:
        image.load()
        pixels = pixels_of(image)
    except Exception as error:  # damaged files raise nearly anything
        raise BadImage(few_words(error)) from None
    if image.format == "TIFF":  # Pillow turns these when it loads them
        return pixels if upright else as_stored(pixels, orientation)
    return turned(pixels, orientation) if upright else pixels


def pixels_of(image: Image.Image) -> Tensor:
    """An image of Pillow, of any mode -> (3, H, W) uint8 RGB in memory of its own, as `decode_image` gives it."""
    return torch.from_numpy(np.array(_rgb(image))).permute(2, 0, 1)  # a writable copy


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode -> RGB: 16-bit values keep the upper 8 bits; floats are from 0 to 1, or to 255 if any exceeds 1."""
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((values * (255 if values.max() <= 1 else 1)).clip(0, 255).astype(np.uint8))
    elif image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns of palettes with transparency when converted directly
    return image.convert("RGB")
