"""Looking for pictures among many fingerprints: planted copies are found, others are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.feeding.fingerprint import fingerprints, small_picture
from shared.weights import lookalikes
from shared.weights.lookalikes import Index, limit_of, look_for
from tests.shared.feeding.of_pictures import cut, jpeg, picture

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "/nowhere"))


def digests(prints: np.ndarray) -> np.ndarray:
    return np.column_stack([np.arange(1, len(prints) + 1, dtype=np.uint64), prints])


def small(*files: bytes) -> np.ndarray:
    return np.stack([small_picture(file) for file in files])


def test_planted_copies_are_found_among_others_and_nothing_else() -> None:
    images = [picture(seed) for seed in range(6)]
    copies = [
        jpeg(images[0], 20),
        jpeg(images[1].resize((90, 200))),
        jpeg(images[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        jpeg(cut(images[3], 0.05, 0.05, 0.95, 0.95)),
    ]
    made = np.random.default_rng(0).integers(0, 2**64, (20_000, 3), dtype=np.uint64)
    rows = [17, 4_000, 12_345, 19_999]
    made[rows] = fingerprints(small(*copies))
    found = look_for(small(*map(jpeg, images)), digests(made))
    limit = limit_of(len(images), len(made))
    assert found.rows[:4].tolist() == rows
    assert (found.distances[:4] <= limit).all() and (found.distances[4:] > limit).all()


def test_a_plain_picture_is_like_no_other_and_none_is_like_it() -> None:
    plain = jpeg(Image.new("RGB", (80, 80), (9, 9, 9)))
    found = look_for(small(plain, jpeg(picture(1))), digests(fingerprints(small(plain, plain))))
    assert found.rows.tolist() == [-1, -1]


def test_many_rows_with_the_same_bits_are_compared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookalikes, "AT_ONCE", 10)
    prints = np.repeat(fingerprints(small(jpeg(picture(1)))), 50, axis=0)
    index = Index(digests(prints))
    key = np.array([int(prints[0, 0]) & ((1 << index.bits) - 1), 0])
    pieces = list(index.with_keys(key))
    assert sorted(np.concatenate([rows for _, rows in pieces]).tolist()) == list(range(50))
    assert look_for(small(jpeg(picture(1))), digests(prints)).distances.tolist() == [0]


def test_the_limit_falls_as_more_pairs_are_compared() -> None:
    assert [limit_of(*pairs) for pairs in ((1, 1), (440, 440), (5_000, 20_000), (5_000, 14_000_000))] == [
        40,
        40,
        32,
        21,
    ]
    assert limit_of(10**6, 10**9) == 16


def photographs() -> list[Path]:
    return sorted(
        file
        for folder in ("imagenet-sample", "coco-tiny", "coco-keypoints")
        for file in (REAL / folder).rglob("*")
        if file.suffix.lower() in (".jpg", ".jpeg")
    )


CHANGES: dict[str, tuple[float, Callable[[Image.Image], Image.Image]]] = {
    "mirrored and half as large": (
        1.0,
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((image.width // 2, image.height // 2)),
    ),
    "cropped": (0.9, lambda image: cut(image, 0.1, 0.0, 1.0, 0.9)),
}


@pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder with photographs")
@pytest.mark.parametrize("change", CHANGES)
def test_changed_photographs_are_found_and_no_other_is_taken_for_them(change: str) -> None:
    files = photographs()[::4]
    rate, changed = CHANGES[change]
    known = digests(fingerprints(small(*(file.read_bytes() for file in files))))
    copies = small(*(jpeg(changed(Image.open(file).convert("RGB")), 60) for file in files))
    found = look_for(copies, known)
    near = found.distances <= limit_of(len(files), len(files))
    assert (found.rows[near] == np.flatnonzero(near)).all(), "another photograph was taken for the same"
    assert near.mean() >= rate
