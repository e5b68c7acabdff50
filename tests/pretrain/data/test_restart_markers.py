"""Of a JPEG with restart markers only the rows of a crop are decoded, and every pixel is that of the full decode."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

import pretrain.data.restart_markers
from pretrain.data.restart_markers import cut, decoded_rows, decoded_view, jpegtran, marked, rows_of
from pretrain.data.shards import ShardSet, find_shards
from pretrain.packing.pack import pack
from pretrain.views.crops import Compose, Framed, HorizontalFlip, RandomResizedCrop, ResizeCenterCrop
from shared.errors import UsageError
from shared.feeding.image import BadImage, decode_image
from shared.feeding.plan import rng_for

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "nowhere")) / "imagenet-sample"
needs_jpegtran = pytest.mark.skipif(shutil.which("jpegtran") is None, reason="needs the program jpegtran")
needs_photographs = pytest.mark.skipif(not REAL.is_dir(), reason="needs CHORDATE_REAL_DATA with imagenet-sample")

KINDS = {  # how color is stored -> what Pillow calls it, pixel rows of a row of blocks, of context
    "4:4:4": (0, 8, 0),
    "4:2:2": (1, 8, 0),
    "4:2:0": (2, 16, 1),
    "gray": (None, 8, 0),
}


def jpeg(kind: str = "4:2:0", size: tuple[int, int] = (75, 131), **options) -> bytes:
    """Noise in color, (width, height), with markers unless the options say otherwise."""
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image, to = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)), io.BytesIO()
    if kind == "gray":
        image = image.convert("L")
    else:
        options["subsampling"] = KINDS[kind][0]
    image.save(to, "JPEG", **{"quality": 85, "restart_marker_rows": 1, **options})
    return to.getvalue()


def plain(**options) -> bytes:
    return jpeg(restart_marker_rows=0, **options)


def exif(orientation: int, order: str = "II") -> bytes:
    told = Image.Exif()
    told.endian = "<" if order == "II" else ">"
    told[0x010F], told[0x0112] = "maker", orientation
    return told.tobytes()


def crops(height: int, step: int = 1) -> list[tuple[int, int]]:
    return [(top, bottom) for top in range(0, height, step) for bottom in range(top + 1, height + 1, step)]


VIEWS = {
    "crop": RandomResizedCrop(32),
    "crop and flip": Compose([RandomResizedCrop(32), HorizontalFlip(0.5)]),
    "center": Compose([ResizeCenterCrop((20, 48), share=0.7)]),
}
OTHER_VIEWS = {
    "flip first": Compose([HorizontalFlip(0.5), RandomResizedCrop(32)]),
    "nothing": Compose([]),
    "a function": lambda image, rng: image[:, :9, :9] + rng.integers(9),
}


# -- the rows of a crop -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_any_rows_decode_as_in_the_whole_image(kind, rows):
    data = jpeg(kind, restart_marker_rows=rows)
    whole, found = decode_image(data, upright=True), rows_of(data)
    assert found is not None and found[:4] == (131, 75, KINDS[kind][1] * rows, KINDS[kind][2])
    less = 0
    for top, bottom in crops(131, 3):
        image, first = decoded_rows(data, found, top, bottom)
        assert torch.equal(image[:, top - first : bottom - first], whole[:, top:bottom])
        less += image.shape[1] < 131
    assert less > 0.5 * len(crops(131, 3))


def test_no_more_rows_are_decoded_than_the_crop_and_its_context_need():
    data = jpeg("4:2:0")
    rows = rows_of(data)
    assert rows is not None
    for (top, bottom), (first, height) in {
        (17, 31): (16, 16),
        (16, 31): (0, 32),  # the first row of blocks for the color of the first pixel row
        (17, 32): (16, 32),
        (0, 1): (0, 16),
        (130, 131): (128, 3),
        (128, 131): (112, 19),
    }.items():
        image, begin = decoded_rows(data, rows, top, bottom)
        assert (begin, image.shape[1]) == (first, height)
    assert cut(data, rows, 16, 130) is None  # all of it
    piece, _ = cut(data, rows, 33, 47) or (b"", 0)
    assert 0 < len(piece) < 0.4 * len(data)


def test_without_the_context_color_at_the_border_would_be_wrong():
    data = jpeg("4:2:0")
    rows, whole = rows_of(data), decode_image(data, upright=True)
    assert rows is not None
    image, first = decoded_rows(data, rows._replace(context=0), 16, 31)
    assert first == 16 and not torch.equal(image[:, 0], whole[:, 16])


def test_more_than_eight_rows_number_their_markers_anew():
    data = jpeg("4:4:4", (16, 8 * 40))
    rows, whole = rows_of(data), decode_image(data, upright=True)
    assert rows is not None
    for row in range(40):
        piece, first = cut(data, rows, 8 * row, 8 * row + 8) or (bytearray(), -1)
        assert first == 8 * row and torch.equal(decode_image(piece, upright=True), whole[:, first : first + 8])
    piece, _ = cut(data, rows, 8 * 5, 8 * 30) or (bytearray(), 0)
    assert piece.count(b"\xff\xd0") == 3 and torch.equal(decode_image(piece, upright=True), whole[:, 40:240])
    assert Image.open(io.BytesIO(piece)).convert("RGB").size == (16, 200)  # for other decoders, too


# -- views ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*VIEWS, *OTHER_VIEWS])
def test_a_view_sees_what_it_would_in_the_whole_image_and_draws_the_same_numbers(name, kind):
    view = (VIEWS | OTHER_VIEWS)[name]
    for data in (jpeg(kind), plain(kind=kind), bytearray(jpeg(kind))):
        for n in range(6):
            mine, usual = rng_for(0, 0, n), rng_for(0, 0, n)
            assert torch.equal(decoded_view(data, view, mine), view(decode_image(data, upright=True), usual))
            assert mine.integers(2**62) == usual.integers(2**62)


@pytest.mark.parametrize("name", VIEWS)
def test_views_that_crop_have_only_their_rows_decoded_and_others_everything(name, monkeypatch):
    heights = []

    def decode(data, *, upright):
        image = decode_image(data, upright=upright)
        heights.append(image.shape[1])
        return image

    monkeypatch.setattr(pretrain.data.restart_markers, "decode_image", decode)
    for n in range(12):
        decoded_view(jpeg(), VIEWS[name], rng_for(0, 0, n))
    assert len(heights) == 12 and np.mean(heights) < 125 and min(heights) < 131
    heights.clear()
    decoded_view(plain(), VIEWS[name], rng_for(0, 0, 0))
    for view in OTHER_VIEWS.values():
        decoded_view(jpeg(), view, rng_for(0, 0, 0))
    assert heights == [131] * (1 + len(OTHER_VIEWS))


def test_a_framed_view_is_its_box_and_what_is_done_inside_it():
    image = decode_image(jpeg(), upright=True)
    for view in VIEWS.values():
        assert isinstance(view, Framed)
        rng = rng_for(0, 0, 3)
        box = view.box(131, 75, rng)
        assert box is not None and torch.equal(view.inside(image, box, rng), view(image, rng_for(0, 0, 3)))
    assert not isinstance(HorizontalFlip(), Framed)


# -- files that are not taken apart -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["II", "MM"])
def test_an_image_to_be_turned_is_decoded_whole_and_turned(order):
    view = VIEWS["crop"]
    for orientation in range(1, 10):
        data = jpeg(exif=exif(orientation, order))
        assert (rows_of(data) is not None) == (orientation == 1)
        whole = decode_image(data, upright=True)
        assert whole.shape[1:] == ((75, 131) if 5 <= orientation <= 8 else (131, 75))
        assert torch.equal(decoded_view(data, view, rng_for(0, 0, 1)), view(whole, rng_for(0, 0, 1)))


def other_files() -> Iterator[bytes]:
    yield from (plain(), jpeg(progressive=True), b"", b"\xff\xd8\xff", bytes(100))
    image = Image.new("CMYK", (75, 131), (3, 200, 70, 9))
    for kind, options in (("JPEG", {"restart_marker_rows": 1}), ("TIFF", {})):
        image.save(to := io.BytesIO(), kind, **options)
        yield to.getvalue()
    image.convert("RGB").save(to := io.BytesIO(), "PNG")
    yield to.getvalue()
    yield jpeg().replace(b"\xff\xdd\x00\x04\x00\x05", b"\xff\xdd\x00\x04\x00\x07")  # markers inside rows
    yield jpeg()[:150]


def test_other_files_are_left_to_the_usual_way():
    assert [rows_of(data) for data in other_files()] == [None] * 10


def test_markers_that_are_not_where_the_header_says_lead_to_the_usual_way():
    data = jpeg()
    rows = rows_of(data)
    assert rows is not None
    at = data.index(b"\xff\xd2", rows.begin)
    assert cut(data[:at] + data[at + 2 :], rows, 0, 5) is None
    assert cut(data[:at] + data[at : at + 2] + data[at:], rows, 0, 5) is None


@given(st.data())
def test_damage_anywhere_is_a_bad_image_or_an_image_and_nothing_else(data):
    damaged = bytearray(jpeg(data.draw(st.sampled_from(list(KINDS))), exif=exif(1)))
    for _ in range(data.draw(st.integers(1, 5))):
        # mostly in the header, where the meaning is
        at = data.draw(st.one_of(st.integers(0, 700), st.integers(0, len(damaged) - 1)))
        damaged[at] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))]
    try:
        view = decoded_view(damaged, VIEWS["crop"], rng_for(0, 0, data.draw(st.integers(0, 9))))
        assert view.shape == (3, 32, 32)
    except BadImage:
        pass


# -- writing markers --------------------------------------------------------------------------------------------------


@needs_jpegtran
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
@pytest.mark.parametrize("kind", KINDS)
def test_markers_are_written_without_loss(kind, options):
    data = plain(kind=kind, icc_profile=b"profile" * 20, exif=exif(1), comment=b"hello", **options)
    done = marked(data, jpegtran())
    rows = rows_of(done)
    assert rows is not None and rows[:4] == (131, 75, *KINDS[kind][1:]) and done != data
    assert torch.equal(decode_image(done, upright=True), decode_image(data, upright=True))
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(done))
    assert after.info["icc_profile"] == before.info["icc_profile"] == b"profile" * 20
    assert after.getexif()[0x010F] == "maker" and after.info["comment"] == b"hello"
    assert marked(done, jpegtran()) == done


@needs_jpegtran
def test_color_at_half_height_alone_has_its_context_too(tmp_path):
    (tmp_path / "a.jpg").write_bytes(plain(kind="4:2:2"))
    data = subprocess.run(
        [jpegtran(), "-rotate", "90", "-trim", tmp_path / "a.jpg"], capture_output=True, check=True
    ).stdout
    data = marked(data, jpegtran())
    rows, whole = rows_of(data), decode_image(data, upright=True)
    assert rows is not None and (rows.tall, rows.context) == (16, 1)
    for top, bottom in crops(rows.height):
        image, first = decoded_rows(data, rows, top, bottom)
        assert torch.equal(image[:, top - first : bottom - first], whole[:, top:bottom])


@needs_jpegtran
def test_files_with_nothing_to_gain_come_back_as_they_were():
    whole = plain()
    for data in (
        *(data for data in other_files() if data[:3] != b"\xff\xd8\xff"),
        plain(exif=exif(6)),
        plain(size=(75, 16)),
        whole[: len(whole) // 2],
        jpeg(),
    ):
        assert marked(data, jpegtran()) == data


def test_without_the_program_it_is_said_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="jpegtran, which is not installed; install it .*libjpeg-turbo-progs"):
        jpegtran()


@needs_jpegtran
def test_shards_with_markers_give_the_samples_of_those_without(tmp_path):
    for n in range(12):
        (tmp_path / "in" / str(n % 3)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / str(n % 3) / f"{n}.jpg").write_bytes(plain(size=(40 + n, 120)))
    (tmp_path / "in" / "0" / "turned.jpg").write_bytes(plain(exif=exif(6)))
    Image.new("RGB", (50, 50), (9, 99, 9)).save(tmp_path / "in" / "1" / "other.png")
    assert pack(tmp_path / "in", tmp_path / "plain").marked == 0
    assert pack(tmp_path / "in", tmp_path / "marked", restart_markers=True).marked == 12
    view = VIEWS["crop and flip"]
    sets = [ShardSet(find_shards(tmp_path / name, "train"), view) for name in ("plain", "marked")]
    for n in range(14):
        for epoch in range(3):
            (a, label), (b, other) = (data.load(n, rng_for(0, epoch, n)) for data in sets)
            assert torch.equal(a, b) and label == other
    # images that have to be written anew get markers on the way
    shrunk = pack(tmp_path / "in", tmp_path / "shrunk", restart_markers=True, short_side=32)
    assert shrunk.shrunk == 14 and shrunk.marked == 13


@needs_jpegtran
@needs_photographs
def test_hundreds_of_crops_of_photographs_are_equal_to_the_bit():
    crop = RandomResizedCrop(32)
    view, different, less = Compose([crop, HorizontalFlip(0.5)]), 0, 0
    for n, path in enumerate(sorted(REAL.glob("*.JPEG"))[::2]):
        data = path.read_bytes()
        done, whole = marked(data, jpegtran()), decode_image(data, upright=True)
        rows = rows_of(done)
        if rows is None:
            continue
        for epoch in range(3):
            seen = decoded_view(done, view, rng_for(0, epoch, n))
            different += not torch.equal(seen, view(whole, rng_for(0, epoch, n)))
            top, _, height, _ = crop.box(rows.height, rows.width, rng_for(0, epoch, n))
            less += cut(done, rows, top, top + height) is not None
    assert different == 0 and less > 200
