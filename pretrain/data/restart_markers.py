"""JPEGs with restart markers: a crop decodes only its own rows of blocks, to the same pixels.

A restart marker (RST) after every row of blocks divides the compressed data into independent pieces. From such a file

    header | row 0 | RST0 | row 1 | RST1 | row 2 | ... | end

the rows of a crop form a valid smaller JPEG, after its header is set to the smaller height and its markers are
renumbered from 0. With chroma at half height, upsampling reads one pixel row across a block border, so a crop that
ends at a border includes the next row of blocks.

    marked(data)                  -> the same pixels with markers, by the program jpegtran
    decoded_view(data, view, rng) -> the view of an image, with only the needed rows decoded
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretrain.views.crops import Framed
from shared.errors import UsageError
from shared.feeding.image import BadImage, decode_image, is_jpeg, too_large
from shared.feeding.orientation import STORED, jpeg_exif, orientation_tag

SOF0, SOF1, DHT, RST0, EOI, SOS, DQT, DRI, COM = 0xC0, 0xC1, 0xC4, 0xD0, 0xD9, 0xDA, 0xDB, 0xDD, 0xFE
STEPPED_OVER = {DHT, DQT, COM, *range(0xE0, 0xF0)}  # segments that do not affect the position of rows
NO_JPEGTRAN = (
    "restart markers are written by the program jpegtran, which is not installed; install it (Debian and Ubuntu: "
    "libjpeg-turbo-progs, Fedora: libjpeg-turbo-utils, Homebrew: jpeg-turbo) or remove --restart-markers, "
    "and whole images are decoded in training"
)


class Rows(NamedTuple):
    """Layout of a JPEG with restart markers.

    height, width: of the image. tall: pixel rows between two markers. context: pixel rows outside a crop that its
        chroma
    depends on. height_at, begin: byte offsets of the height in the header, and of the first row.
    """

    height: int
    width: int
    tall: int
    context: int
    height_at: int
    begin: int


def rows_of(data: bytes | bytearray) -> Rows | None:
    """Bytes of a file -> layout of its rows, or None if they cannot be decoded separately.

    Supported: sequential, Huffman-coded 8-bit JPEGs with one interleaved scan and no EXIF rotation.
    """
    at, frame, interval = 2, 0, 0
    while is_jpeg(data) and data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker in (SOF0, SOF1):
            frame = at
        elif marker == DRI:
            interval = int.from_bytes(data[at + 4 : at + 6])
        elif marker == SOS:
            plain = frame and interval and orientation_tag(jpeg_exif(data)) == STORED
            return _rows(data, frame, at, end, interval) if plain else None
        elif marker not in STEPPED_OVER:
            return None
        at = end
    return None


def _rows(data: bytes | bytearray, frame: int, scan: int, begin: int, interval: int) -> Rows | None:
    if begin >= len(data) or scan - frame < 13 or scan - frame < 10 + 3 * data[frame + 9]:
        return None  # cut short
    height, width = int.from_bytes(data[frame + 5 : frame + 7]), int.from_bytes(data[frame + 7 : frame + 9])
    colors = data[frame + 9]
    if data[frame + 4] != 8 or colors not in (1, 3):
        return None
    if not height * width or too_large(height, width):
        return None  # to be refused
    if data[scan + 4 : scan + 5] != data[frame + 9 : frame + 10]:  # not interleaved
        return None
    factors = [divmod(data[frame + 11 + 3 * n], 16) for n in range(colors)]
    # a scan with a single component has 8x8 blocks regardless of its sampling factors
    across, down = (max(f[k] for f in factors) for k in (0, 1)) if colors > 1 else (1, 1)
    blocks = -(-width // (8 * max(across, 1)))
    if interval % blocks or not down:
        return None
    context = int(colors > 1 and any(f[1] != down for f in factors))
    return Rows(height, width, 8 * down * (interval // blocks), context, frame + 5, begin)


def cut(data: bytes | bytearray, rows: Rows, top: int, bottom: int) -> tuple[bytearray, int] | None:
    """Pixel rows [top, bottom) -> (a JPEG that contains them unchanged, the index of its first pixel row).

    None if that would be the whole image, or if the markers do not match the header.
    """
    count = -(-rows.height // rows.tall)
    first, last = max(top - rows.context, 0) // rows.tall, min(-(-(bottom + rows.context) // rows.tall), count)
    if last - first >= count:
        return None
    marks = restarts(data, rows.begin)
    if len(marks) != count - 1:
        return None
    begin = int(marks[first - 1]) + 2 if first else rows.begin
    end = int(marks[last - 1]) if last < count else len(data)
    piece = bytearray(rows.begin + end - begin)
    piece[: rows.begin], piece[rows.begin :] = data[: rows.begin], data[begin:end]
    height = min(last * rows.tall, rows.height) - first * rows.tall
    piece[rows.height_at : rows.height_at + 2] = height.to_bytes(2)
    inner = marks[first : last - 1]
    np.frombuffer(piece, np.uint8)[inner + (rows.begin - begin + 1)] = RST0 + np.arange(len(inner)) % 8
    if last < count:
        piece += bytes((0xFF, EOI))
    return piece, first * rows.tall


def restarts(data: bytes | bytearray, begin: int) -> np.ndarray:
    """Byte offsets of the restart markers from `begin` on -> (N,) int64, in order."""
    rest = np.frombuffer(data, np.uint8, offset=begin)
    found = np.flatnonzero(rest[:-1] == 0xFF)  # in compressed data, 0xFF is followed by 0 or is a marker
    return found[rest[found + 1] & 0xF8 == RST0] + begin


def decoded_rows(data: bytes | bytearray, rows: Rows, top: int, bottom: int) -> tuple[Tensor, int]:
    """Pixel rows [top, bottom) -> (3, h, W) uint8 that contain them, and the index of the first.

    Raises:
        BadImage: the decoded part is damaged.
    """
    found = cut(data, rows, top, bottom)
    if found is not None:
        with suppress(BadImage):  # fall back to decoding the whole image
            return decode_image(found[0], upright=True), found[1]
    return decode_image(data, upright=True), 0


def decoded_view(data: bytes | bytearray, view: Callable[[Tensor, np.random.Generator], Any], rng: np.random.Generator):
    """`view(decode_image(data), rng)`, decoding only the rows that the view needs where possible.

    Raises:
        BadImage: not an image, damaged or too large.
    """
    if not isinstance(view, Framed) or (rows := rows_of(data)) is None:
        return view(decode_image(data, upright=True), rng)
    box = view.box(rows.height, rows.width, rng)
    if box is None:
        return view(decode_image(data, upright=True), rng)
    top, left, height, width = box
    image, first = decoded_rows(data, rows, top, top + height)
    return view.inside(image, (top - first, left, height, width), rng)


def jpegtran() -> str:
    """Path of the program jpegtran. Raises UsageError with installation advice."""
    program = shutil.which("jpegtran")
    if program is None:
        raise UsageError(NO_JPEGTRAN)
    return program


def marked(data: bytes, program: str) -> bytes:
    """Bytes of an image file -> a JPEG with the same pixels and a marker after every row of blocks.

    Metadata are kept, and Huffman codes are optimized. The bytes are returned unchanged for other formats, images with
    EXIF rotation, damaged ones, and those with a single row of blocks.
    """
    if not is_jpeg(data) or rows_of(data) is not None:
        return data
    options = ["-copy", "all", "-optimize", "-restart", "1"]
    done = subprocess.run([program, *options], input=data, capture_output=True, check=False)
    rows = rows_of(done.stdout)
    if done.returncode != 0 or rows is None or rows.height <= rows.tall:
        return data
    with suppress(BadImage):
        if torch.equal(decode_image(data, upright=True), decode_image(done.stdout, upright=True)):
            return done.stdout
    return data
