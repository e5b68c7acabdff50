"""EXIF orientation: reading it from the first bytes of a file, and turning pixels by it.

    1 as stored      2 mirrored    3 by 180 degrees         4 mirrored top to bottom
    5 transposed     6 clockwise   7 transposed and 180     8 counterclockwise          what makes the picture upright

One reading for headers and for pixels, so that a picture is turned exactly where its header says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # headers are read without torch
    from torch import Tensor

STORED = 1
TAG = 0x0112
EXIF = b"Exif\0\0"
BEYOND = 5  # orientations from here on exchange height and width
APP1, SOS, EOI = 0xE1, 0xDA, 0xD9
BARE = {0x00, 0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length


def turned(pixels: Tensor, orientation: int) -> Tensor:
    """Stored pixels (..., H, W) -> upright: (..., H, W), or (..., W, H) for orientations 5 to 8."""
    if orientation >= BEYOND:
        pixels = pixels.transpose(-1, -2)
    flips = {2: (-1,), 3: (-1, -2), 4: (-2,), 6: (-1,), 7: (-1, -2), 8: (-2,)}.get(orientation, ())
    return pixels.flip(flips) if flips else pixels


def as_stored(pixels: Tensor, orientation: int) -> Tensor:
    """The inverse of `turned`."""
    return turned(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def jpeg_orientation(data: bytes | bytearray) -> int:
    """Orientation of a JPEG from its first EXIF segment; 1 if there is none before the pixels."""
    return exif_orientation(jpeg_exif(data))


def jpeg_exif(data: bytes | bytearray) -> bytes:
    """The first EXIF block of a JPEG; empty if there is none before the pixels."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (SOS, EOI):
            break
        if marker == 0xFF or marker in BARE:  # fill bytes may precede a marker
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == APP1 and data[at + 4 : at + 10] == EXIF:
            return bytes(data[at + 10 : end])
        at = end
    return b""


def png_orientation(data: bytes | bytearray, tail: bytes = b"") -> int:
    """Orientation of a PNG, from the chunks of its first bytes, or from an eXIf chunk in its last bytes."""
    at, inside = 8, False
    while at + 12 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), bytes(data[at + 4 : at + 8])
        if kind == b"eXIf":
            return exif_orientation(bytes(data[at + 8 : at + 8 + length]))
        inside |= kind == b"IEND"
        at += 12 + length
    begin = tail.rfind(b"eXIf") if not inside else -1
    if begin < 4:
        return STORED
    length = int.from_bytes(tail[begin - 4 : begin])
    return exif_orientation(tail[begin + 4 : begin + 4 + length])


def exif_orientation(tiff: bytes) -> int:
    """Orientation in an EXIF block, from 1 to 8; 1 if it is damaged or has none."""
    value = orientation_tag(tiff)
    return value if value in range(1, 9) else STORED


def orientation_tag(tiff: bytes) -> int:
    """The value of the orientation tag of an EXIF block, any number; 1 if there is none."""
    tiff = tiff.removeprefix(EXIF)
    order = {b"II": "little", b"MM": "big"}.get(tiff[:2])
    if order is None:
        return STORED

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)  # type: ignore[arg-type]

    first = number(4, 4)
    for at in range(first + 2, min(first + 2 + 12 * number(first, 2), len(tiff) - 11), 12):
        if number(at, 2) == TAG:
            return number(at + 8, {3: 2, 4: 4, 1: 1}.get(number(at + 2, 2), 2))
    return STORED
