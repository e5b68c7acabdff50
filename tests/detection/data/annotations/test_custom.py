"""A person's own data, one JSON for each photograph: read at once, either way of nesting, every mistake named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data.annotations.custom import read_custom
from detection.data.annotations.files import coco_layout
from detection.data.annotations.skeleton import Skeleton
from detection.data.coco import CocoDetection
from detection.data.pack import pack
from detection.eval.coco import CocoEvaluator
from shared.errors import DataError, UsageError

BOXES = [[10, 10, 20, 20], [30, 5, 55, 35]]
POINTS = [[[12, 13, 2], [18, 19, 1], [0, 0, 0]], [[31, 6, 2], [40, 20, 2], [54, 34.5, 2]]]
PRINTED = """{
    "bboxes": [[100, 100, 200, 200], [300, 300, 400, 400]]
    "keypoints": [[[153, 172, 2], [372, 349, 2]]]
}"""


def folder(root: Path, split: str = "train", **told: Any) -> Path:
    """ROOT/split with a photograph and a JSON for each name; text is written as it is."""
    told = told or {"b": {"bboxes": BOXES, "keypoints": POINTS}, "a": {"bboxes": [], "keypoints": []}}
    for name in ("images", "annotations"):
        (root / split / name).mkdir(parents=True, exist_ok=True)
    for number, (name, content) in enumerate(told.items()):
        text = content if isinstance(content, str) else json.dumps(content)
        (root / split / "annotations" / f"{name}.json").write_text(text)
        ending = ("jpg", "png", "JPG")[number % 3]
        Image.new("RGB", (60, 40), (9, 99, 9)).save(root / split / "images" / f"{name}.{ending}")
    return root / split / "annotations"


def opened(root: Path, split: str = "train", **options: Any) -> CocoDetection:
    return CocoDetection(*coco_layout(root, split, "custom"), **{"finds": ("keypoints",), **options})


# -- read straight away ---------------------------------------------------------------------------


def test_a_folder_is_a_data_set(tmp_path: Path) -> None:
    folder(tmp_path)
    data = opened(tmp_path)
    assert data.image_ids == [1, 2] and [data.path(i).name for i in (0, 1)] == ["a.png", "b.jpg"]
    assert data.classes.names == ("object",) and data.height_width(1) == (40, 60)
    image, target = data.load(1, np.random.default_rng(0))
    assert image.shape == (3, 40, 60) and target["boxes"].tolist() == BOXES and target["labels"].tolist() == [0, 0]
    assert target["keypoints"].tolist() == POINTS  # pyright: ignore
    assert data.skeleton == Skeleton.numbered(3)
    assert data.notes == [
        "the keypoints have no names, so a flip exchanges none; give flip pairs with --keypoints-file"
    ]
    assert len(data.load(0, np.random.default_rng(0))[1]["boxes"]) == 0
    truth = data.ground_truth()["annotations"]
    assert [a["num_keypoints"] for a in truth] == [2, 3] and [a["area"] for a in truth] == [100, 750]
    assert [a["bbox"] for a in truth] == [[10, 10, 10, 10], [30, 5, 25, 30]] and not any(a["iscrowd"] for a in truth)


def test_boxes_alone_are_enough_for_a_network_that_learns_boxes_alone(tmp_path: Path) -> None:
    folder(tmp_path, a={"bboxes": BOXES}, b={"bboxes": BOXES, "keypoints": POINTS})
    assert len(opened(tmp_path, finds=()).target(0)["boxes"]) == 2
    with pytest.raises(DataError, match=r"a\.json has no keypoints; add a list 'keypoints', or train boxes only"):
        opened(tmp_path)
    with pytest.raises(UsageError, match="has boxes and keypoints, no masks"):
        opened(tmp_path, finds=("masks",))


def test_the_manuals_example_is_understood_once_its_comma_is_there(tmp_path: Path) -> None:
    """Two boxes, and one list of two points: one point an object, nested point by point."""
    folder(tmp_path, a=PRINTED.replace("]]\n", "]],\n", 1))
    table = read_custom(tmp_path / "train/annotations", finds=("keypoints",))
    assert table.keypoints is not None and table.keypoints.tolist() == [[[153, 172, 2]], [[372, 349, 2]]]
    folder(tmp_path / "as printed", a=PRINTED)
    with pytest.raises(DataError, match=r"a\.json lacks a comma before 'keypoints' at line 3, column 5; add one after"):
        opened(tmp_path / "as printed")


def test_either_way_of_nesting_is_read_where_lengths_tell(tmp_path: Path) -> None:
    by_point = np.array(POINTS).swapaxes(0, 1).tolist()
    folder(tmp_path / "one", a={"bboxes": BOXES, "keypoints": POINTS})
    folder(tmp_path / "other", a={"bboxes": BOXES, "keypoints": by_point})
    one, other = (opened(tmp_path / name).target(0)["keypoints"] for name in ("one", "other"))  # pyright: ignore
    assert torch.equal(one, other)


def test_as_many_boxes_as_points_are_read_as_the_other_files_are_or_refused(tmp_path: Path) -> None:
    three = [*BOXES, [1, 1, 9, 9]]
    square = np.arange(27).reshape(3, 3, 3)
    square[:, :, 2] = 2
    told = {"bboxes": three, "keypoints": square.tolist()}
    folder(tmp_path / "alone", a=told)
    with pytest.raises(DataError, match=r"a\.json has as many boxes as points, 3, so it is ambiguous"):
        opened(tmp_path / "alone")
    folder(tmp_path / "objects", a=told, b={"bboxes": BOXES, "keypoints": POINTS})
    assert opened(tmp_path / "objects").target(0)["keypoints"].tolist() == square.tolist()  # pyright: ignore
    folder(tmp_path / "points", a=told, b={"bboxes": BOXES, "keypoints": np.array(POINTS).swapaxes(0, 1).tolist()})
    assert opened(tmp_path / "points").target(0)["keypoints"].tolist() == square.swapaxes(0, 1).tolist()  # pyright: ignore
    one = {"bboxes": BOXES[:1], "keypoints": [[[12, 13, 2]]]}
    folder(tmp_path / "single", a=one)
    assert opened(tmp_path / "single").target(0)["keypoints"].tolist() == [[[12, 13, 2]]]  # pyright: ignore


def test_custom_data_is_evaluated_packed_and_given_a_skeleton(tmp_path: Path) -> None:
    folder(tmp_path)
    folder(tmp_path, "test", c={"bboxes": BOXES, "keypoints": POINTS})
    told = Skeleton.from_words({"keypoints": ["top", "left", "right"], "sigmas": 0.2}, "told")
    val = opened(tmp_path, "val", skeleton=told)
    assert not val.notes and val.skeleton == told and val.target(0)["mirrored"] == (0, 2, 1)  # pyright: ignore
    target = val.target(0)
    evaluator = CocoEvaluator(val, "pycocotools")
    found: Any = {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(2)}
    evaluator.add(1, found, (1.0, 1.0))
    assert evaluator.summary()["box_ap"] == pytest.approx(1)
    pack(*coco_layout(tmp_path, "train", "custom"), tmp_path / "shards")
    packed = CocoDetection(tmp_path / "shards", None, finds=("keypoints",))
    assert packed.ground_truth() == opened(tmp_path).ground_truth()


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    folder(tmp_path)
    before = opened(tmp_path).fingerprint
    assert opened(tmp_path).fingerprint == before
    folder(tmp_path, b={"bboxes": BOXES, "keypoints": [POINTS[0], POINTS[0]]})
    (tmp_path / "train/images/b.png").unlink(missing_ok=True)
    assert opened(tmp_path).fingerprint != before


# -- what can be wrong ----------------------------------------------------------------------------


def both(**change: Any) -> dict[str, Any]:
    return {"bboxes": BOXES, "keypoints": POINTS, **change}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", r"is not readable JSON \(.* at line 1, column 2\)"),
        ('{"bboxes": [1 2]}', r"is not readable JSON"),
        ("[]", "has no list 'bboxes'"),
        ({"keypoints": POINTS}, "has no list 'bboxes'"),
        (both(bboxes=[[1, 2, 3]]), r"bboxes is not a list of boxes \[x1, y1, x2, y2\]"),
        (both(bboxes=[[1, 2, 3, "4"], BOXES[0]]), "bboxes is no"),
        (both(bboxes=[[1, 2, 3, float("nan")], BOXES[0]]), "bboxes is not .* finite"),
        (both(bboxes=[BOXES[0], [1, 2, 3]]), "bboxes is no"),
        (both(keypoints=[POINTS[0], POINTS[1][:2]]), "keypoints is not .* of the same length"),
        (both(keypoints=[[[1, 2]] * 3] * 2), "keypoints is no"),
        (both(keypoints=[[[1, 2, True]] * 3] * 2), "keypoints is no"),
        (both(keypoints="none"), "keypoints is no"),
        (both(keypoints=[[[1, 2, 3]] * 3] * 2), "has the visibility 3; it is 0 absent, 1 occluded or 2 visible"),
        (both(keypoints=[[[1, 2, 0.5]] * 3] * 2), "has the visibility 0.5"),
        (both(bboxes=BOXES * 3), "has more boxes than rows of keypoints: 6 boxes, and keypoints of 2 x 3 points"),
        (
            both(keypoints=[POINTS[0]]),
            "has boxes and keypoints that do not match: 2 boxes, and keypoints of 1 x 3 points",
        ),
        (both(keypoints=[[[1, 1, 2]] * 4] * 2), "has 4 keypoints per object, other files have 3"),
    ],
)
def test_a_wrong_file_is_named_and_explained(tmp_path: Path, content: Any, says: str) -> None:
    folder(tmp_path, a=both(), odd=content, z=both())
    with pytest.raises(DataError, match=rf"odd\.json:? ?(.*)({says})"):
        opened(tmp_path)


def test_photographs_and_annotations_go_in_pairs(tmp_path: Path) -> None:
    annotations = folder(tmp_path)
    images = tmp_path / "train/images"
    (annotations / "alone.json").write_text("{}")
    with pytest.raises(DataError, match=r"alone\.json has no image alone\.\* in .*images; add it, or remove"):
        opened(tmp_path)
    (annotations / "alone.json").unlink()
    for name in ("c", "d"):
        Image.new("RGB", (9, 9)).save(images / f"{name}.png")
    with pytest.raises(DataError, match=r"c\.png has no annotation c\.json in .*\(1 more have none\)"):
        opened(tmp_path)
    for name in ("c.png", "d.png"):
        (images / name).unlink()
    Image.new("RGB", (9, 9)).save(images / "b.png")
    with pytest.raises(DataError, match=r"has b\.jpg and b\.png, which would have the same JSON"):
        opened(tmp_path)
    (images / "b.png").unlink()
    (images / "notes.txt").write_text("no photograph")
    assert len(opened(tmp_path)) == 2
    (images / "a.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"a\.png is not a usable image"):
        opened(tmp_path)


def test_a_long_header_before_the_size_is_read_through(tmp_path: Path) -> None:
    folder(tmp_path, a=both())
    exif = Image.Exif()
    exif[0x9286] = "x" * 65_000
    notes: Any = {"comment": b"y" * 60_000}
    Image.new("RGB", (60, 40)).save(tmp_path / "train/images/a.jpg", exif=exif, **notes)
    assert opened(tmp_path).height_width(0) == (40, 60)


def test_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no train/images with train/annotations; put the images"):
        coco_layout(tmp_path, "train", "custom")
    folder(tmp_path)
    with pytest.raises(DataError, match="has no test/images with test/annotations nor val/images"):
        coco_layout(tmp_path, "val", "custom")
    with pytest.raises(UsageError, match="no data set 'coco_kpt', did you mean 'coco_kp'"):
        coco_layout(tmp_path, "train", "coco_kpt")
    with pytest.raises(DataError, match="person_keypoints_train2017.json"):
        coco_layout(tmp_path, "train", "coco_kp")
    for file in (tmp_path / "train").rglob("*.*"):
        file.unlink()
    with pytest.raises(DataError, match="has no images"):
        opened(tmp_path)
