"""Fingerprints: nearly equal for changed copies, far apart for other pictures, none for plain ones."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from shared.feeding.fingerprint import (
    COARSE,
    FINE,
    MIRRORED,
    fingerprints,
    over_windows,
    packed,
    small_luminance,
    small_picture,
)
from shared.feeding.image import BadImage, decode_luminance
from tests.shared.feeding.of_pictures import cut, jpeg, picture


def printed(*files: bytes) -> np.ndarray:
    return fingerprints(np.stack([small_picture(file) for file in files]))


def bits(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.bitwise_count(first ^ second).sum())


def test_copies_differ_in_few_bits_and_other_pictures_in_about_half() -> None:
    image = picture(1)
    own, again, small, png, other = printed(
        jpeg(image, 95),
        jpeg(image, 30),
        jpeg(image.resize((80, 60), Image.Resampling.BICUBIC)),
        jpeg(image.resize((111, 170))),
        jpeg(picture(2)),
    )
    assert max(bits(own, copy) for copy in (again, small, png)) <= 12
    assert 70 <= bits(own, other) <= 122


def test_mirrored_pictures_differ_in_known_bits() -> None:
    image = picture(3)
    own, mirrored = printed(jpeg(image), jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert bits(own, mirrored) > 60
    assert bits(own ^ MIRRORED[()], mirrored) <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_looked_at_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = picture(4)
    stored = image.transpose(turn[orientation]) if orientation in turn else image
    own, turned = printed(jpeg(image), jpeg(stored, exif=exif))
    assert bits(own, turned) <= 4
    decoded = small_luminance(decode_luminance(jpeg(stored, exif=exif)), orientation)
    assert bits(own, fingerprints(decoded[None])[0]) <= 12


def test_crops_are_near_over_a_window_and_far_over_the_whole() -> None:
    image = picture(5)
    whole, crop = (small_picture(jpeg(part)) for part in (image, cut(image, 0.1, 0.0, 1.0, 0.9)))
    for looked_for, known in ((whole, crop), (crop, whole)):
        target = fingerprints(known[None])[0]
        looks = packed(over_windows(looked_for[None], FINE))[0]
        distances = np.bitwise_count(looks ^ target).sum(axis=1)
        assert distances[0] > 60  # the whole is the first window
        assert distances.min() <= 36
    assert over_windows(whole[None], COARSE).shape == (1, 72, 192)
    assert looks.shape == (450, 3)


def test_windows_begin_with_the_picture_itself() -> None:
    small = small_picture(jpeg(picture(6)))[None]
    assert (packed(over_windows(small, COARSE))[:, 0] == fingerprints(small)).all()


def test_plain_pictures_have_no_fingerprint() -> None:
    assert not printed(jpeg(Image.new("RGB", (100, 80), (20, 90, 120)))).any()


def test_other_kinds_of_files_are_looked_at_too() -> None:
    image = picture(7)
    for mode in ("CMYK", "L"):
        own, other = printed(jpeg(image), jpeg(image.convert(mode)))
        assert bits(own, other) <= 16, mode


def test_a_file_that_is_no_image_or_cut_short_is_refused() -> None:
    for data in (b"no image", jpeg(picture(8))[:300]):
        with pytest.raises(BadImage):
            small_picture(data)
