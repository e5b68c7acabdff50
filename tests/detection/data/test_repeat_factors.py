"""Repeat factors: the square root of threshold over share, the largest of an image's classes, 1 without any."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.coco import CocoDetection
from detection.data.repeat_factors import note_on_repeats, repeat_factors


@pytest.fixture
def made(tmp_path: Path) -> CocoDetection:
    """Ten images: all but the last two have class 7, the first has class 3 too, the second only crowds of class 3."""
    for k in range(10):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{k}.png")
    pairs = [(k, 7, 0) for k in range(8)] + [(0, 3, 0), (0, 3, 0), (1, 3, 1)]
    what = {
        "images": [{"id": k, "file_name": f"{k}.png", "height": 16, "width": 16} for k in range(10)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [n, 0, 4, 4], "area": 16, "iscrowd": crowd}
            for n, (i, c, crowd) in enumerate(pairs, start=1)
        ],
        "categories": [{"id": 3, "name": "rare"}, {"id": 7, "name": "often"}, {"id": 9, "name": "never"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(what))
    return CocoDetection(tmp_path, tmp_path / "a.json")


def test_by_hand(made: CocoDetection) -> None:
    factors = repeat_factors(made, 0.9)
    often = math.sqrt(0.9 / 0.8)
    assert np.allclose(factors, [3.0, *[often] * 7, 1, 1])  # class 3 is in one image of ten
    assert (repeat_factors(made, 0.05) == 1).all()


def test_what_it_does_to_an_epoch_is_said(made: CocoDetection) -> None:
    sentence = note_on_repeats(repeat_factors(made, 0.4), 0.4)
    assert sentence.startswith("1 image of rare classes comes up to 2.0 times an epoch")
    assert "11 images instead of 10" in sentence
    assert "repeats no image" in note_on_repeats(repeat_factors(made, 0.05), 0.05)
