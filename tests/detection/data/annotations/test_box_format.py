"""Boxes in another format are refused by name and with the way out; odd boxes among others are not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations.box_format import are_shares
from detection.data.coco import CocoDetection, coco_layout
from detection.data.convert import convert
from detection.data.pack import pack
from shared.errors import DataError
from tests.detection.data.of_people import people, people_file, rle

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")


def corners(box: list[float]) -> list[float]:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def rows_first(box: list[float]) -> list[float]:
    return [box[1], box[0], box[1] + box[3], box[0] + box[2]]


def centers(box: list[float]) -> list[float]:
    return [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]]


FORMATS = {"x0 y0 x1 y1": corners, "y0 x0 y1 x1": rows_first, "cx cy width height": centers}


def a_file(count: int, seed: int, *, size: tuple[int, int] = (200, 120)) -> dict[str, Any]:
    """Boxes of any size anywhere in images of width and height `size`, five in each."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 0.8, (2, count)) * np.array(size)[:, None]
    width, height = rng.uniform(0.05, 1, (2, count)) * (size[0] - x, size[1] - y)
    boxes = np.stack((x, y, width, height), axis=1).round(1).tolist()
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": size[0], "height": size[1]} for n in range(-(-count // 5))
        ],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": n, "image_id": n // 5, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)],
    }


def opened(folder: Path, content: dict[str, Any], **options: Any) -> CocoDetection:
    for image in content["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    (folder / "x.json").write_text(json.dumps(content))
    return CocoDetection(folder, folder / "x.json", **options)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [5, 60])
@pytest.mark.parametrize("name", list(FORMATS))
def test_a_whole_file_of_another_format_is_refused_by_name(tmp_path: Path, name: str, count: int, seed: int) -> None:
    content = a_file(count, seed)
    assert len(opened(tmp_path, content)) == count // 5  # as COCO has them
    if name.startswith("cx") and count < 20:
        return  # too few to tell from odd boxes
    for entry in content["annotations"]:
        entry["bbox"] = FORMATS[name](entry["bbox"])
    with pytest.raises(DataError, match=rf"x\.json: the boxes are {name}, such as \[.* outside .*; write each as \["):
        opened(tmp_path, content)


@needs_real_data
@pytest.mark.parametrize("name", ["bccd", "coco-tiny", "coco-keypoints"])
@pytest.mark.parametrize("format_name", list(FORMATS))
def test_real_files_are_told_apart(tmp_path: Path, name: str, format_name: str) -> None:
    images, annotations = coco_layout(REAL / name, "train")
    content = json.loads(annotations.read_text())
    for entry in content["annotations"]:
        entry["bbox"] = FORMATS[format_name](entry["bbox"])
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"the boxes are {format_name}, such as"):
        CocoDetection(images, tmp_path / "x.json")


def test_odd_boxes_among_sound_ones_are_no_other_format(tmp_path: Path) -> None:
    content = a_file(40, 0)
    for entry in content["annotations"][:12]:
        entry["bbox"] = corners(entry["bbox"])
    assert any("outside the image, clipped" in note for note in opened(tmp_path, content).notes)


def test_a_file_written_for_larger_images_is_no_other_format(tmp_path: Path) -> None:
    content = a_file(40, 0)
    for entry in content["annotations"]:
        entry["bbox"] = [2 * side for side in entry["bbox"]]
    assert any("outside the image, clipped" in note for note in opened(tmp_path, content).notes)


@pytest.mark.parametrize("of", [lambda box: box, corners, centers], ids=["sizes", "corners", "centers"])
@pytest.mark.parametrize("count", [1, 40])
def test_shares_are_refused_by_name(tmp_path: Path, of: Any, count: int) -> None:
    content = a_file(count, 1)
    for entry in content["annotations"]:
        entry["bbox"] = [value / side for value, side in zip(of(entry["bbox"]), (200, 120) * 2, strict=True)]
    with pytest.raises(DataError, match=r"the boxes are shares of the image from 0 to 1, such as \[0\..* multiply x"):
        opened(tmp_path, content)


def test_a_box_of_one_pixel_in_the_corner_is_no_share(tmp_path: Path) -> None:
    content = a_file(1, 0)
    content["annotations"][0]["bbox"] = [0, 0, 1, 1]
    assert opened(tmp_path, content).target(0)["boxes"].tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(("field", "name"), [("keypoints", "keypoints"), ("segmentation", "polygons")])
def test_shares_beside_boxes_in_pixels_are_refused_too(tmp_path: Path, field: str, name: str) -> None:
    content = people_file()
    for entry in content["annotations"]:
        entry["segmentation"] = [[0.1, 0.1, 0.9, 0.2, 0.5, 0.9]] if field == "segmentation" else entry["segmentation"]
        entry["keypoints"] = [0.2, 0.3, 2, 0.5, 0.5, 1, 0, 0, 0] if field == "keypoints" else entry["keypoints"]
    with pytest.raises(DataError, match=f"the {name} are shares of the image from 0 to 1"):
        CocoDetection(*people(tmp_path, content), finds=("masks", "keypoints"))


def test_packing_refuses_them_as_well(tmp_path: Path) -> None:
    content = a_file(10, 2)
    opened(tmp_path, content)
    for entry in content["annotations"]:
        entry["bbox"] = corners(entry["bbox"])
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="the boxes are x0 y0 x1 y1"):
        pack(tmp_path, tmp_path / "x.json", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_own_json_of_sizes_or_shares_is_refused_when_opened_and_converted(tmp_path: Path) -> None:
    images, annotations = tmp_path / "own/train/images", tmp_path / "own/train/annotations"
    for folder in (images, annotations):
        folder.mkdir(parents=True)
    content = a_file(10, 3)
    boxes = [entry["bbox"] for entry in content["annotations"]]
    for of, says in (
        (lambda box: box, r"the boxes are x y width height.* write each as \[x, y, x \+ width, y \+ height\]"),
        (lambda box: [v / side for v, side in zip(corners(box), (200, 120) * 2, strict=True)], "the boxes are shares"),
    ):
        for number in range(2):
            Image.new("RGB", (200, 120)).save(images / f"{number}.png")
            told = {"bboxes": [of(box) for box in boxes[5 * number : 5 * number + 5]]}
            (annotations / f"{number}.json").write_text(json.dumps(told))
        with pytest.raises(DataError, match=says):
            CocoDetection(images, annotations)
        with pytest.raises(DataError, match=says):
            convert(("custom", "coco"), tmp_path / "own", tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [(0,), (0, 4), (0, 2, 2)])
def test_no_numbers_are_no_shares(shape: tuple[int, ...]) -> None:
    assert not are_shares(np.zeros(shape))


def test_masks_that_are_all_rle_are_no_polygons_in_shares(tmp_path: Path) -> None:
    content = people_file()
    for entry in content["annotations"]:
        entry["segmentation"] = rle(8, 8, 20)
    images, annotations = people(tmp_path, content)
    assert CocoDetection(images, annotations, finds=("masks",)).table.masks is not None
