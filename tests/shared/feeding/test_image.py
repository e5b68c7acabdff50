"""Whatever the bytes, decoding ends in RGB pixels or in a refusal: never in something else, never in a dead process."""

from __future__ import annotations

import io
import os
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from shared.feeding.image import BadImage, decode_image, decode_luminance, image_size


def pattern(height: int = 24, width: int = 32) -> Image.Image:
    """Large soft colors, so that lossy formats keep them."""
    y, x = np.mgrid[:height, :width] * 255.0 / max(height, width)
    return Image.fromarray(np.stack([y, x, (x + y) / 2], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(pixels: torch.Tensor, image: Image.Image) -> int:
    return int(np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(image.convert("RGB")).astype(int)).max())


def palette_with_transparency() -> bytes:
    image = pattern().quantize(16)
    return encoded(image, "PNG", transparency=bytes([0, 128] + [255] * 14))


SIXTEEN = Image.fromarray((np.arange(24 * 32).reshape(24, 32) * 85).astype(np.uint16))
KINDS = {
    "baseline JPEG": encoded(pattern(), "JPEG"),
    "progressive JPEG": encoded(pattern(), "JPEG", progressive=True),
    "gray JPEG": encoded(pattern().convert("L"), "JPEG"),
    "CMYK JPEG": encoded(pattern().convert("CMYK"), "JPEG"),
    "RGB PNG": encoded(pattern(), "PNG"),
    "L PNG": encoded(pattern().convert("L"), "PNG"),
    "LA PNG": encoded(pattern().convert("LA"), "PNG"),
    "P PNG": encoded(pattern().quantize(16), "PNG"),
    "P+tRNS PNG": palette_with_transparency(),
    "1-bit PNG": encoded(pattern().convert("1"), "PNG"),
    "RGBA PNG": encoded(pattern().convert("RGBA"), "PNG"),
    "WebP": encoded(pattern(), "WEBP", lossless=True),
    "BMP": encoded(pattern(), "BMP"),
    "TIFF": encoded(pattern(), "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_becomes_rgb_bytes_that_pillow_would_also_see(kind):
    for upright in (True, False):
        pixels = decode_image(KINDS[kind], upright=upright)
        assert pixels.dtype == torch.uint8 and pixels.shape == (3, 24, 32)
        assert difference(pixels, Image.open(io.BytesIO(KINDS[kind]))) <= 3
    assert image_size(KINDS[kind]) == (24, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_luminance_alone_is_that_of_the_pixels(kind):
    luminance, colors = decode_luminance(KINDS[kind]), decode_image(KINDS[kind], upright=False)
    wanted = np.asarray(Image.fromarray(colors.permute(1, 2, 0).contiguous().numpy()).convert("L"))
    assert luminance.dtype == torch.uint8 and tuple(luminance.shape) == wanted.shape
    assert np.abs(luminance.numpy().astype(int) - wanted.astype(int)).max() <= 2  # colors are rounded and clipped


def test_the_luminance_alone_is_refused_exactly_where_the_pixels_are():
    rng = random.Random(5)
    refused = [0, 0]
    for kind in ("baseline JPEG", "progressive JPEG", "gray JPEG", "CMYK JPEG", "RGB PNG"):
        for number in range(60):
            data = bytearray(KINDS[kind])
            if number % 3:
                for _ in range(1 if number % 3 == 1 else 40):
                    data[rng.randrange(2, len(data))] = rng.randrange(256)
            else:
                del data[rng.randrange(len(data)) :]
            fates = []
            for decode in (decode_luminance, lambda data: decode_image(data, upright=False)):
                try:
                    fates.append(tuple(decode(data).shape[-2:]))
                except BadImage as error:
                    fates.append(str(error))
            assert fates[0] == fates[1], (kind, number)
            refused[isinstance(fates[0], str)] += 1
    assert min(refused) > 20


def test_ycck_is_not_taken_for_rgb_or_plain_cmyk():
    ycck = bytearray(KINDS["CMYK JPEG"])
    adobe = ycck.find(b"Adobe")
    ycck[adobe + 11] = 2  # the transform byte of the Adobe marker: the first three colors are YCbCr
    pixels = decode_image(bytes(ycck), upright=False)
    assert pixels.shape == (3, 24, 32) and difference(pixels, Image.open(io.BytesIO(bytes(ycck)))) == 0
    assert not torch.equal(pixels, decode_image(KINDS["CMYK JPEG"], upright=False))


def test_sixteen_bits_keep_their_upper_half_and_floats_their_range():
    expected = torch.from_numpy((np.arange(24 * 32).reshape(24, 32) * 85 >> 8).astype(np.uint8)).expand(3, -1, -1)
    for kind in ("PNG", "TIFF"):
        assert torch.equal(decode_image(encoded(SIXTEEN, kind), upright=True), expected)
    ramp = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32)
    bright = decode_image(encoded(Image.fromarray(ramp), "TIFF"), upright=True)
    assert bright.min() == 0 and bright.max() == 255
    assert torch.equal(bright, decode_image(encoded(Image.fromarray(ramp * 255), "TIFF"), upright=True))


def test_a_moving_image_gives_its_first_frame():
    other = Image.new("RGB", (32, 24), (255, 0, 0))
    for kind in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        moving = encoded(pattern().quantize(16).convert("RGB"), kind, save_all=True, append_images=[other], **options)
        pixels = decode_image(moving, upright=True)
        assert pixels.shape == (3, 24, 32)
        assert difference(pixels, pattern().quantize(16)) <= 8 < difference(pixels, other)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_if_asked_for_and_only_then(kind, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(pattern(), kind, exif=exif)
    stored = Image.open(io.BytesIO(data))
    assert difference(decode_image(data, upright=False), stored) <= 3
    turned = ImageOps.exif_transpose(stored)
    upright = decode_image(data, upright=True)
    assert upright.shape == (3, turned.height, turned.width) and difference(upright, turned) <= 3
    assert image_size(data) == (24, 32)


@pytest.mark.parametrize("kind", ["baseline JPEG", "progressive JPEG", "CMYK JPEG", "RGB PNG", "WebP", "TIFF"])
def test_an_image_cut_anywhere_is_refused(kind):
    whole = KINDS[kind]
    # a PNG is whole before its IEND; every other format ends with what it needs
    last = whole.rfind(b"IDAT") if kind == "RGB PNG" else len(whole) - 2
    for end in [*range(0, last, max(1, last // 40)), last]:
        with pytest.raises(BadImage):
            decode_image(whole[:end], upright=True)


def test_bytes_that_are_no_image_are_refused_with_a_reason():
    for data, reason in ((b"", "empty"), (b"<html>not found</html>", "not an image"), (b"\xff\xd8\xff\xd9", "JPEG")):
        for read in (lambda data: decode_image(data, upright=True), image_size):
            with pytest.raises(BadImage, match=reason):
                read(data)


def with_size(data: bytes, height: int, width: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2) + width.to_bytes(2) + data[at + 4 :]


@pytest.mark.parametrize(("height", "width"), [(13000, 13000), (65000, 10), (10, 20001), (0, 10), (65535, 65535)])
def test_an_absurd_size_is_refused_from_the_header_before_any_decoding(height, width, monkeypatch):
    monkeypatch.setattr("shared.feeding.image.decode_jpeg", None)
    data = with_size(KINDS["baseline JPEG"], height, width)
    for read in (lambda data: decode_image(data, upright=True), image_size):
        with pytest.raises(BadImage, match="pixels"):
            read(data)


def test_a_png_bomb_is_refused_from_its_header(monkeypatch):
    bomb = encoded(Image.new("1", (7100, 7100)), "PNG")
    assert len(bomb) < 10**5
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    with pytest.raises(BadImage, match="megapixels"):
        decode_image(bomb, upright=True)


def test_single_pixels_and_the_longest_allowed_side_are_read():
    assert decode_image(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), upright=True).flatten().tolist() == [
        9,
        8,
        7,
    ]
    assert image_size(encoded(Image.new("L", (20000, 1)), "PNG")) == (1, 20000)


def mutant(data: bytes, rng: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 30))):
        mutated[rng.randrange(len(mutated))] = rng.randrange(256)
    if rng.random() < 0.3:
        del mutated[rng.randrange(len(mutated)) :]
    if rng.random() < 0.2:
        at = rng.randrange(len(mutated) + 1)
        mutated[at:at] = rng.randbytes(rng.randrange(1, 50))
    return bytes(mutated)


@pytest.mark.filterwarnings("ignore")
def test_no_damage_ends_the_process_or_escapes_as_another_error():
    child = os.fork()
    if child == 0:  # a segmentation fault must not take the tests along
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders grumble there
            rng, refused = random.Random(0), 0
            for i in range(300):
                data = mutant(list(KINDS.values())[i % len(KINDS)], rng)
                try:
                    pixels = decode_image(data, upright=bool(i & 1))
                    assert pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[0] == 3
                except BadImage:
                    refused += 1
            code = 0 if 30 < refused < 290 else 2  # the mutants are neither all harmless nor all hopeless
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
