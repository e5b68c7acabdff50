"""What a run says about its data before the first step: photographs twice, objects too small or too many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.data.augment.presets import build_augment
from detection.data.coco import CocoDetection
from detection.recipe import DataConfig, DetectRecipe
from detection.training.data_notes import notes_on_photographs, notes_on_queries, notes_on_shared, notes_on_small
from detection.training.datasets import open_data
from shared.errors import DataError
from shared.recipes.recipe import RuntimeConfig


def folder(place: Path, seeds: list[int], box: tuple[int, ...] = (4, 4, 20, 16), boxes: int = 1) -> tuple[Path, Path]:
    """Noise of 64x48 by seed with some equal boxes, and its COCO file."""
    place.mkdir(parents=True)
    for n, seed in enumerate(seeds):
        pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{n}.png")
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(len(seeds))]
    x, y, width, height = box
    annotations: list[dict[str, Any]] = [
        {"id": 1 + n * boxes + k, "image_id": n, "category_id": 1, "bbox": [x + k, y, width, height], "iscrowd": 0}
        for n in range(len(seeds))
        for k in range(boxes)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "noise"}]}
    (place / "instances.json").write_text(json.dumps(content))
    return place, place / "instances.json"


def test_photographs_that_come_twice_are_counted_by_content_not_by_name(tmp_path: Path) -> None:
    train, val = (
        CocoDetection(*folder(tmp_path / "a", [1, 2, 1, 3, 1])),
        CocoDetection(*folder(tmp_path / "b", [7, 3, 2])),
    )
    assert notes_on_photographs(train, None) == [
        "2 training images repeat another one, byte for byte, such as 0.png and 2.png"
    ]
    assert notes_on_photographs(train, val)[1] == (
        "2 of the 3 validation images are also in training, byte for byte, such as 1.png and 2.png; 3.png and 1.png; "
        "metrics on them say little"
    )
    assert notes_on_shared(train, val, "training data of coco") == [
        "2 of the 3 validation images are also in the training data of coco, byte for byte, such as 1.png and 2.png; "
        "3.png and 1.png; metrics on them say little"
    ]
    assert notes_on_photographs(CocoDetection(*folder(tmp_path / "c", [1, 2])), None) == []


def test_equal_beginnings_and_lengths_are_not_equal_photographs(tmp_path: Path) -> None:
    place = folder(tmp_path / "a", [1, 1])
    data = bytearray((tmp_path / "a/1.png").read_bytes())
    data[-20] ^= 1
    (tmp_path / "a/1.png").write_bytes(data)
    assert len(data) > 5000 and notes_on_photographs(CocoDetection(*place), None) == []


@pytest.mark.parametrize(("size", "long", "lost"), [((64, 64), None, 0), ((32, 32), None, 3), ((32, 32), 40, 3)])
def test_objects_that_vanish_in_the_resize_are_counted(
    tmp_path: Path, size: tuple[int, int], long: int | None, lost: int
) -> None:
    augment = build_augment("birder", size=size, max_size=long, train=False)
    data = CocoDetection(*folder(tmp_path / "a", [1, 2, 3], (4, 4, 1, 10)), augment=augment)
    notes = notes_on_small(data)
    assert len(notes) == (lost > 0)
    if notes:
        until = "at most 40" if long else "32"
        assert notes[0].startswith(f"{lost} objects are less than a pixel wide or high after the resize to {until} pix")


def test_images_with_more_objects_than_queries_are_counted(tmp_path: Path) -> None:
    data = CocoDetection(*folder(tmp_path / "a", [1, 2], boxes=9))
    assert notes_on_queries(data, 9) == [] and notes_on_queries(data, None) == []
    assert notes_on_queries(data, 8) == [
        "2 images have more objects than the network's 8 queries, at most 9; the others are never learned, "
        "give --num-queries 9"
    ]


def recipe(train: tuple[Path, Path], val: tuple[Path, Path], bad: float = 0.001) -> DetectRecipe:
    paths = {"data_path": train[0], "coco_json_path": train[1], "val_path": val[0], "coco_val_json_path": val[1]}
    return DetectRecipe(data=DataConfig(**paths), runtime=RuntimeConfig(max_bad_samples=bad))  # type: ignore[arg-type]


def test_a_bad_validation_image_is_refused_before_the_first_step(tmp_path: Path) -> None:
    train, val = folder(tmp_path / "a", [1, 2]), folder(tmp_path / "b", [3, 4])
    assert open_data(recipe(train, val)).val is not None
    (tmp_path / "b/1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of the 2 images .*b/1.png: empty file\); validation needs every image"):
        open_data(recipe(train, val))


def test_bad_training_images_are_noted_if_few_and_refused_if_many(tmp_path: Path) -> None:
    train, val = folder(tmp_path / "a", [1, 2, 3]), folder(tmp_path / "b", [4])
    (tmp_path / "a/1.png").write_bytes(b"")
    notes = open_data(recipe(train, val)).train.notes
    assert len(notes) == 1 and "1 of the 3 images" in notes[0] and notes[0].endswith("they are skipped")
    Image.new("RGB", (48, 64)).save(tmp_path / "a/2.png")
    with pytest.raises(DataError, match=r"2 of the 3 images .*2.png: is 48x64, .* 64x48\); .*--max-bad-samples"):
        open_data(recipe(train, val))
    assert open_data(recipe(train, val, bad=0.7)).train.notes[0].startswith("2 of the 3 images")
