"""What the header of an image file says: size and EXIF orientation; the limit on pixels. Needs no torch.

first bytes -> JPEG: the markers before the pixels; others: Pillow -> Header, or BadImage

The limit on pixels holds for a process and those it starts: `limit_pixels`, the flag --max-pixels.
"""

from __future__ import annotations

import io
import os
from typing import Any, NamedTuple

from PIL import Image

from shared.feeding.orientation import STORED, TAG, jpeg_orientation, png_orientation

MAX_PIXELS = 50_000_000
MAX_SIDE = 20_000  # only with the default limit
LIMIT = "CHORDATE_MAX_PIXELS"  # environment variable, which loading processes inherit

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")  # no EPS or PDF, which start programs
PROFILE = "Raw profile type exif"  # of PNG, as ImageMagick writes it
NO_LENGTH = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers whose segment holds the size


class BadImage(ValueError):
    """Bytes that are not a usable image; the message is the reason, a few words."""


class Header(NamedTuple):
    """What the header of an image file says: stored height and width, EXIF orientation from 1 to 8."""

    height: int
    width: int
    orientation: int


def limit_pixels(count: int | None) -> None:
    """Set the largest number of pixels of an image, for this process and those it starts; None for the default.

    With the default limit of 50 megapixels, a side has at most 20,000.
    """
    if count is None:
        os.environ.pop(LIMIT, None)
    else:
        os.environ[LIMIT] = str(count)


def pixel_limit() -> int | None:
    """What `limit_pixels` was last called with, here or in the process that started this one."""
    return int(os.environ[LIMIT]) if LIMIT in os.environ else None


def too_large(height: int, width: int) -> bool:
    """True if an image of this size is over the limit."""
    if LIMIT in os.environ:
        return height * width > int(os.environ[LIMIT])
    return max(height, width) > MAX_SIDE or height * width > MAX_PIXELS


def image_size(data: bytes | bytearray) -> tuple[int, int]:
    """Bytes of a file -> stored (height, width), from the header alone.

    Raises:
        BadImage: not an image, or over the limit of `limit_pixels`.
    """
    header = image_header(data)
    check_size(header.height, header.width)
    return header.height, header.width


def image_header(data: bytes | bytearray, tail: bytes = b"") -> Header:
    """Stored size and EXIF orientation of a file, from its first bytes; any size is accepted.

    Args:
        data: the file, or its beginning.
        tail: its last bytes, if `data` is not the whole: PNG may have its EXIF there.

    Raises:
        BadImage: not an image, or more bytes are needed.
    """
    if is_jpeg(data):
        height, width, _ = jpeg_frame(data)
        return Header(height, width, jpeg_orientation(data))
    image = open_image(data)
    (height, width), orientation = stored_size(image), orientation_of(image, data, tail)
    return Header(height, width, orientation)


def is_jpeg(data: bytes | bytearray) -> bool:
    return data[:3] == b"\xff\xd8\xff"


def jpeg_frame(data: bytes | bytearray) -> tuple[int, int, int]:
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


def check_size(height: int, width: int) -> None:
    """Raise BadImage if an image of this size is over the limit, or has no pixels."""
    if height < 1 or width < 1:
        raise BadImage(f"{width}x{height} pixels")
    if too_large(height, width):
        limit = int(os.environ.get(LIMIT, MAX_PIXELS))
        side = "" if LIMIT in os.environ else f", {MAX_SIDE} a side"
        raise BadImage(
            f"{width}x{height} pixels is over the limit of {limit / 10**6:g} megapixels{side}; "
            f"--max-pixels {height * width} allows it"
        )


def open_image(data: bytes | bytearray) -> Image.Image:
    """Open with Pillow; reads the header only."""
    if not data:
        raise BadImage("empty file")
    if LIMIT in os.environ:  # Pillow has a limit of its own, of 179 megapixels
        Image.MAX_IMAGE_PIXELS = max(int(os.environ[LIMIT]), Image.MAX_IMAGE_PIXELS or 0)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise BadImage("not an image of a known format") from None
    except Exception as error:  # damaged headers raise nearly anything
        raise BadImage(few_words(error)) from None


def orientation_of(image: Image.Image, data: bytes | bytearray, tail: bytes = b"") -> int:
    """EXIF orientation of an image that is not loaded yet; 1 if there is none, or if it is damaged."""
    if image.format == "JPEG":
        return jpeg_orientation(data)
    if image.format == "PNG" and PROFILE not in image.info:  # Pillow would decode the pixels to look behind them
        return png_orientation(data, tail)
    try:
        orientation = image.getexif().get(TAG, STORED)
    except Exception:  # damaged EXIF does not make the pixels unusable
        return STORED
    return orientation if orientation in range(1, 9) else STORED


def stored_size(image: Any) -> tuple[int, int]:
    """(height, width) of the stored pixels; Pillow exchanges those of a turned TIFF."""
    if image.format == "TIFF":
        return int(image.tag_v2[257]), int(image.tag_v2[256])
    return image.height, image.width


def few_words(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{first or type(error).__name__}"[:120]
