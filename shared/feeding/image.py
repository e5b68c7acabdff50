"""Decode image files to (3, H, W) uint8 RGB, or raise BadImage.

bytes -> size, from the header alone -> too large: BadImage before anything is decoded
      -> JPEG with one or three components: torchvision's decoder, the fastest
      -> everything else: Pillow, whose decoders do not crash on damaged files
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

MAX_PIXELS = 50_000_000
MAX_SIDE = 20_000

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")  # no EPS or PDF, which start programs
NO_LENGTH = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers whose segment holds the size

# Pillow warns of large images, where our limit is stricter, and of damage, which raises BadImage if it matters
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", message="(?s).*decoding and encoding capabilities of TorchVision")


class BadImage(ValueError):
    """Bytes that are not a usable image; the message is the reason, a few words."""


def decode_image(data: bytes | bytearray, *, upright: bool) -> Tensor:
    """Bytes of a file -> (3, H, W) uint8 RGB; first frame of animations, transparency dropped.

    Args:
        upright: apply the EXIF orientation; otherwise pixels are as stored, as boxes of COCO files refer to them.

    Raises:
        BadImage: not an image, damaged, or over 50 megapixels or 20,000 pixels on a side.
    """
    if not is_jpeg(data):
        return _by_pillow(data, upright)
    height, width, colors = _jpeg_frame(data)
    _check_size(height, width)
    if colors == 4:  # CMYK storage depends on an Adobe marker, which only Pillow reads
        return _by_pillow(data, upright)
    try:
        # decode_jpeg needs writable memory, hence the copy of `bytes`
        encoded = torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=torch.uint8)
        pixels = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=upright)
        assert isinstance(pixels, Tensor)  # a list is returned only for a list
        return pixels
    except RuntimeError:
        return _by_pillow(data, upright)  # it reads more kinds of JPEG and has shorter error messages


def image_size(data: bytes | bytearray) -> tuple[int, int]:
    """Bytes of a file -> stored (height, width), from the header alone.

    Raises:
        BadImage: not an image, or over 50 megapixels or 20,000 pixels on a side.
    """
    if is_jpeg(data):
        height, width, _ = _jpeg_frame(data)
    else:
        width, height = _open(data).size
    _check_size(height, width)
    return height, width


def is_jpeg(data: bytes | bytearray) -> bool:
    return data[:3] == b"\xff\xd8\xff"


def _jpeg_frame(data: bytes | bytearray) -> tuple[int, int, int]:
    """Height, width and number of components, from the markers."""
    at = 2
    while at >= 0:
        at = data.find(b"\xff", at)
        while at >= 0 and data[at : at + 1] == b"\xff":  # fill bytes may precede a marker
            at += 1
        if at < 0 or at + 9 > len(data):
            break
        marker = data[at]
        if marker in FRAMES:
            return int.from_bytes(data[at + 4 : at + 6]), int.from_bytes(data[at + 6 : at + 8]), data[at + 8]
        if marker in (0xD9, 0xDA):  # pixels, or the end, before any size
            break
        at += 1 if marker == 0 or marker in NO_LENGTH else 1 + max(2, int.from_bytes(data[at + 1 : at + 3]))
    raise BadImage("JPEG without a size in its header")


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise BadImage(f"{width}x{height} pixels")
    if height > MAX_SIDE or width > MAX_SIDE or height * width > MAX_PIXELS:
        raise BadImage(
            f"{width}x{height} pixels is over the limit of {MAX_PIXELS // 10**6} megapixels, {MAX_SIDE} a side"
        )


def _open(data: bytes | bytearray) -> Image.Image:
    """Open with Pillow; reads the header only."""
    if not data:
        raise BadImage("empty file")
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImage("not an image of a known format") from None
    except Exception as error:  # damaged headers raise nearly anything
        raise BadImage(_few_words(error)) from None


def _by_pillow(data: bytes | bytearray, upright: bool) -> Tensor:
    image = _open(data)
    _check_size(image.height, image.width)
    try:
        image.load()
        image = _rgb(_turned(image) if upright else image)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # a writable copy
    except Exception as error:  # damaged files raise nearly anything
        raise BadImage(_few_words(error)) from None


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF does not make the pixels unusable
        return image


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


def _few_words(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{first or type(error).__name__}"[:120]
