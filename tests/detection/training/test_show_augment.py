"""The sheet of augmented samples: what training would see, drawn with its boxes, the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.cli import main
from detection.training import show_augment
from detection.training.datasets import open_data
from detection.training.resolve import resolve
from shared.feeding.feed import Feed


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO folder: train and val of five noisy pictures with two boxes each."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / "coco" / split).mkdir(parents=True)
        images = [{"id": n, "file_name": f"{n}.png", "height": 48, "width": 64} for n in range(1, 6)]
        for image in images:
            pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "coco" / split / image["file_name"])
        boxes = [
            {"id": n, "image_id": 1 + n // 2, "category_id": 4, "bbox": [5 + n, 5, 20 + 3 * n, 30]} for n in range(10)
        ]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 4, "name": "thing"}]}
        (tmp_path / "coco/annotations").mkdir(exist_ok=True)
        (tmp_path / f"coco/annotations/instances_{split}.json").write_text(json.dumps(content))
    return tmp_path / "coco"


def flags(coco: Path, *more: str) -> list[str]:
    return ["--data-path", str(coco), "--network", "fcos", "--size", "64", "--seed", "3", *more]


def test_a_sheet_shows_what_training_sees_first(coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, Any, Any]] = []
    real = show_augment.draw_detections

    def draw(image: Any, found: Any, names: Any, *, truth: Any, skeleton: Any) -> Image.Image:
        drawn.append((image, truth, names))
        return real(image, found, names, truth=truth, skeleton=skeleton)

    monkeypatch.setattr(show_augment, "draw_detections", draw)
    assert (
        main(["show-augment", *flags(coco, "--aug-type", "ssd"), "--output", str(tmp_path / "s.png"), "--count", "4"])
        == 0
    )
    recipe = resolve(flags(coco, "--aug-type", "ssd")).recipe
    images, targets = next(Feed(open_data(recipe).train, seed=3, batch_size=4).steps(0, 1))[0]
    assert len(drawn) == 4
    for (image, truth, names), expected, target in zip(drawn, images, targets, strict=True):
        assert image.equal(expected) and truth["boxes"].equal(target["boxes"]) and names == ("thing",)


def test_the_same_seed_gives_the_same_sheet_and_another_another(coco: Path, tmp_path: Path) -> None:
    sheets = []
    for number, seed in enumerate(("1", "1", "2")):
        out = tmp_path / "deep" / f"{number}.png"
        assert main(["show-augment", *flags(coco, "--seed", seed), "-o", str(out), "--count", "3"]) == 0
        sheets.append(np.array(Image.open(out)))
    assert np.array_equal(sheets[0], sheets[1]) and not np.array_equal(sheets[0], sheets[2])


def test_a_sheet_holds_as_many_samples_as_there_are_at_most(
    coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["show-augment", *flags(coco, "--aug-type", "lsj"), "-o", str(tmp_path / "s.jpg"), "--count", "99"]) == 0
    )
    told = capsys.readouterr().out
    assert f"5 samples in {tmp_path / 's.jpg'}" in told and told.count(": 64x64, ") == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--count", "0"], "argument --count: the value is 0; it must be from 1 to 1000"),
        (["-o", "sheet.what"], "give an --output that ends in .jpg or .png"),
        (["--aug-type", "hflop"], "did you mean 'hflip'"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    coco: Path, in_folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert main(["show-augment", *flags(coco), *words]) == 2
    assert says in capsys.readouterr().err
