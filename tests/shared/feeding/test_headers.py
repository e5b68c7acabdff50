"""Headers of many files: right in every format, read once, and again when a file changes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shared.feeding.headers
from shared.feeding.headers import Picture, read_headers
from shared.feeding.image import limit_pixels


def photograph(path: Path, size: tuple[int, int] = (40, 30), orientation: int = 1, seed: int = 0, **options) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return path


def test_size_and_orientation_of_every_format_are_in_order(tmp_path: Path) -> None:
    long = b"x" * 9000  # the size comes after it
    endings = ("jpg", "png", "webp", "tif", "jpg", "png")
    paths = [
        photograph(tmp_path / f"{n}.{ending}", (100 + n, 90), 1 + n, n, **({"icc_profile": long} if n > 3 else {}))
        for n, ending in enumerate(endings)
    ]
    found = read_headers([Picture(path) for path in paths])
    assert found.sizes.tolist() == [[90, 100 + n] for n in range(6)] and not found.reasons
    assert found.orientations.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.upright.tolist() == [[90, 100 + n] if n < 4 else [100 + n, 90] for n in range(6)]
    assert found.lengths.tolist() == [path.stat().st_size for path in paths] and len(set(found.marks.tolist())) == 6


def test_files_that_cannot_be_used_have_a_reason_and_keep_the_others(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("<html>not found</html>")
    good = photograph(tmp_path / "good.jpg")
    found = read_headers([Picture(tmp_path / name) for name in ("empty.jpg", "good.jpg", "none.jpg", "text.jpg")])
    assert {row: reason.split(",")[0] for row, reason in found.reasons.items()} == {
        0: "empty file",
        2: "No such file or directory",
        3: "not an image of a known format",
    }
    assert found.sizes[1].tolist() == [30, 40] and good.is_file()


def test_equal_files_have_equal_marks_wherever_they_are(tmp_path: Path) -> None:
    one, other = photograph(tmp_path / "a.jpg", seed=1), photograph(tmp_path / "b.jpg", seed=2)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/c.jpg").write_bytes(one.read_bytes())
    whole = tmp_path / "two.tar"
    whole.write_bytes(b"#" * 100 + other.read_bytes())
    part = Picture(whole, 100, other.stat().st_size)
    marks = read_headers([Picture(one), Picture(other), Picture(tmp_path / "sub/c.jpg"), part]).marks
    assert marks[0] == marks[2] and marks[1] == marks[3] and marks[0] != marks[1]


def test_the_cache_saves_reading_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [photograph(tmp_path / f"{n}.jpg", (40 + n, 30)) for n in range(3)]
    pictures, cache, read = [Picture(path) for path in paths], tmp_path / "cache", []
    usual = shared.feeding.headers._read
    monkeypatch.setattr(shared.feeding.headers, "_read", lambda p, n: (read.append(p.path.name), usual(p, n))[1])
    first = read_headers(pictures, cache)
    assert sorted(read) == ["0.jpg", "1.jpg", "2.jpg"] and len(list(cache.iterdir())) == 1
    again = read_headers(pictures[:2], cache)
    assert len(read) == 3 and np.array_equal(again.sizes, first.sizes[:2])
    assert np.array_equal(again.marks, first.marks[:2])
    photograph(paths[1], (99, 30))
    assert read_headers(pictures, cache).sizes.tolist() == [[30, 40], [30, 99], [30, 42]] and read[3:] == ["1.jpg"]
    status = paths[2].stat()
    paths[2].write_bytes(paths[2].read_bytes())
    os.utime(paths[2], ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # the same length, another time
    assert len(read_headers(pictures, cache).sizes) == 3 and read[4:] == ["2.jpg"]


def test_a_damaged_or_unwritable_cache_is_no_obstacle(tmp_path: Path) -> None:
    picture = Picture(photograph(tmp_path / "a.jpg"))
    (tmp_path / "file").write_text("")
    assert read_headers([picture], tmp_path / "file").sizes.tolist() == [[30, 40]]
    read_headers([picture], tmp_path / "cache")
    place = next((tmp_path / "cache").iterdir())
    for junk in (b"", b"PK\x03\x04junk", place.read_bytes()[:-30]):
        place.write_bytes(junk)
        assert read_headers([picture], tmp_path / "cache").sizes.tolist() == [[30, 40]]


def test_the_limit_is_asked_again_and_not_cached(tmp_path: Path) -> None:
    picture = Picture(photograph(tmp_path / "a.jpg"))
    try:
        limit_pixels(1000)
        found = read_headers([picture], tmp_path / "cache")
        assert "40x30 pixels is over the limit" in found.reasons[0] and "--max-pixels 1200" in found.reasons[0]
    finally:
        limit_pixels(None)
    assert not read_headers([picture], tmp_path / "cache").reasons
