"""EXIF orientation: one reading for headers and pixels, in every format that has it."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from shared.feeding.image import BadImage, decode_image, image_header
from shared.feeding.orientation import as_stored, exif_orientation, jpeg_orientation, turned

KINDS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def picture() -> Image.Image:
    """32x24, every corner of another color."""
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:12, :16], pixels[:12, 16:], pixels[12:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(pixels)


def encoded(kind: str, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture().save(buffer, kind, exif=exif, **KINDS[kind], **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def upright(orientation: int) -> torch.Tensor:
    image = Image.open(io.BytesIO(encoded("PNG", orientation)))
    return torch.from_numpy(np.array(ImageOps.exif_transpose(image))).permute(2, 0, 1)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and (one.int() - other.int()).abs().float().mean() < 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_and_pixels_agree_in_every_format(kind: str, orientation: int) -> None:
    """Pillow turns a TIFF when it is loaded; as stored is as stored there as well."""
    data = encoded(kind, orientation)
    assert image_header(data) == (24, 32, orientation)
    stored = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    assert close(decode_image(data, upright=False), stored)
    assert close(decode_image(data, upright=True), upright(orientation))
    pixels = torch.arange(24).view(1, 4, 6)
    assert torch.equal(as_stored(turned(pixels, orientation), orientation), pixels)


def test_exif_after_other_metadata_and_behind_the_pixels_is_found() -> None:
    data = encoded("JPEG", 6)
    comment = b"\xff\xe1\x00\x20http://ns.adobe.com/xap/1.0/\0\0"[:34]
    assert len(comment) == 2 + 0x20
    xmp_first = data[:2] + comment + data[2:]
    assert jpeg_orientation(xmp_first) == 6
    assert close(decode_image(xmp_first, upright=True), upright(6))
    png = encoded("PNG", 8)
    at = png.index(b"eXIf") - 4
    chunk = png[at : at + 12 + int.from_bytes(png[at : at + 4])]
    end = len(png) - 12
    late = png[:at] + png[at + len(chunk) : end] + chunk + png[end:]
    assert image_header(late).orientation == 8 and close(decode_image(late, upright=True), upright(8))
    assert image_header(late[:60], late[-60:]).orientation == 8


def test_damaged_exif_is_none_at_all() -> None:
    rng, data = random.Random(0), encoded("JPEG", 6)
    begin = data.index(b"Exif") + 6
    for _ in range(300):
        mutant = bytearray(data)
        for _ in range(3):
            mutant[begin + rng.randrange(26)] = rng.randrange(256)
        orientation = jpeg_orientation(mutant)
        assert orientation in range(1, 9)
        try:
            image = decode_image(mutant, upright=True)
        except BadImage:
            continue
        assert image.shape == ((3, 24, 32) if orientation < 5 else (3, 32, 24))
    for junk in (b"", b"II", b"MM\0*\0\0\0\x08", b"II*\0\xff\xff\xff\xff", b"XX"):
        assert exif_orientation(junk) == 1
