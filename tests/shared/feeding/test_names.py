"""Image files below a folder: one list of endings, nothing hidden, links followed once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from pretrain.data.layout import IMAGES, OTHER_IMAGES
from shared.feeding.image import BadImage, decode_image, image_size, limit_pixels
from shared.feeding.names import DECODED, UNDECODED, images_below, is_image

WRITTEN = {"jpg": "JPEG", "jfif": "JPEG", "tif": "TIFF", "gif": "GIF", "ppm": "PPM", "bmp": "BMP", "avif": "AVIF"}


def test_every_ending_is_either_decoded_or_named_when_it_is_skipped() -> None:
    assert not set(DECODED) & set(UNDECODED) and set(IMAGES) <= set(DECODED)
    assert set(IMAGES) | set(OTHER_IMAGES) == set(DECODED) | set(UNDECODED)
    assert all(is_image(f"a.b.{ending.upper()}") for ending in DECODED) and not is_image(".jpg") and not is_image("jpg")
    for ending, kind in WRITTEN.items():
        assert ending in DECODED
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6)).save(buffer, kind)
        assert decode_image(buffer.getvalue(), upright=True).shape == (3, 6, 8)


def test_images_below_a_folder_are_sorted_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "a/1.gif", "a/notes.txt", "a/3.heic", ".x/4.jpg", "a/._1.jpg", ".x/.y/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/back").symlink_to("..")
    found = images_below(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.images] == ["a/1.gif", "b/2.JPG"]
    assert found.notes == [
        f"3 hidden images in {tmp_path} skipped, such as previews of other programs",
        f"1 image in {tmp_path} skipped: .heic is not read; convert to JPEG",
    ]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_limit_on_pixels_can_be_raised_and_lowered(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (20100, 3)).save(buffer, kind)
    data = buffer.getvalue()
    with pytest.raises(BadImage, match="20100x3 pixels is over the limit of 50 megapixels, 20000 a side; --max-pixels"):
        image_size(data)
    try:
        limit_pixels(60300)
        assert image_size(data) == (3, 20100) and decode_image(data, upright=True).shape == (3, 3, 20100)
        limit_pixels(60299)
        with pytest.raises(BadImage, match="over the limit of 0.060299 megapixels; --max-pixels 60300 allows it"):
            decode_image(data, upright=True)
    finally:
        limit_pixels(None)
