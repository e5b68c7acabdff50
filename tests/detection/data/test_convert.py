"""From a person's own annotations to COCO files: the same data, found by the usual layout, nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detection.data.annotations.files import coco_layout
from detection.data.annotations.skeleton import Skeleton
from detection.data.coco import CocoDetection
from detection.data.convert import convert
from shared.errors import DataError
from tests.detection.data.annotations.test_custom import BOXES, POINTS, folder


def custom(root: Path) -> Path:
    folder(root / "custom")
    folder(root / "custom", "test", c={"bboxes": BOXES, "keypoints": POINTS})
    return root / "custom"


@pytest.mark.parametrize("dataset", ["coco", "coco_kp"])
def test_what_was_converted_is_the_same_data(tmp_path: Path, dataset: str) -> None:
    told = convert(("custom", "coco"), custom(tmp_path), tmp_path / "out")
    assert told.images == {"train": 2, "val": 1} and told.objects == {"train": 2, "val": 2} and told.keypoints == 3
    for split in ("train", "val"):
        before = CocoDetection(*coco_layout(tmp_path / "custom", split, "custom"), finds=("keypoints",))
        after = CocoDetection(*coco_layout(tmp_path / "out", split, dataset), finds=("keypoints",))
        assert after.ground_truth() == before.ground_truth() and after.skeleton == before.skeleton
        for index in range(len(before)):
            one, other = (data.load(index, np.random.default_rng(0)) for data in (before, after))
            assert torch.equal(one[0], other[0]) and torch.equal(one[1]["keypoints"], other[1]["keypoints"])  # pyright: ignore


def test_photographs_are_linked_and_the_folder_may_move_with_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    convert(("custom", "coco"), custom(tmp_path / "a"), tmp_path / "a/out")
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(CocoDetection(*coco_layout(tmp_path / "b/out", "train"))) == 2
    assert (tmp_path / "b/out/train").is_symlink()


def test_a_skeleton_goes_into_the_files(tmp_path: Path) -> None:
    told = Skeleton.from_words({"keypoints": ["top", "left", "right"], "skeleton": [[1, 2]], "sigmas": 0.2}, "told")
    convert(("custom", "coco"), custom(tmp_path), tmp_path / "out", skeleton=told)
    category = json.loads((tmp_path / "out/annotations/person_keypoints_train.json").read_text())["categories"][0]
    assert category["keypoints"] == ["top", "left", "right"] and category["skeleton"] == [[1, 2]]
    data = CocoDetection(*coco_layout(tmp_path / "out", "val", "coco_kp"), finds=("keypoints",))
    assert data.skeleton == told
    with pytest.raises(DataError, match="has 3 and 5 in the skeleton keypoints per object"):
        convert(("custom", "coco"), tmp_path / "custom", tmp_path / "again", skeleton=Skeleton.numbered(5))
    assert not (tmp_path / "again").exists()


def test_boxes_alone_make_instances_alone_and_training_data_is_enough(tmp_path: Path) -> None:
    folder(tmp_path / "custom", a={"bboxes": BOXES})
    lines = convert(("custom", "coco"), tmp_path / "custom", tmp_path / "out").lines()
    assert [file.name for file in (tmp_path / "out/annotations").iterdir()] == ["instances_train.json"]
    out = tmp_path / "out"
    command = f"detect train --data-path {out}/train --coco-json-path {out}/annotations/instances_train.json"
    assert lines == ["train: 1 image, 2 objects", f"COCO files in {out}, of train alone; {command}"]


def test_nothing_is_overwritten_and_nothing_half_done_is_left(tmp_path: Path) -> None:
    source = custom(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="out already exists"):
        convert(("custom", "coco"), source, tmp_path / "out")
    (source / "test/annotations/c.json").write_text("{")
    with pytest.raises(DataError, match=r"c\.json is not readable JSON"):
        convert(("custom", "coco"), source, tmp_path / "new")
    with pytest.raises(DataError, match="has no train/images with train/annotations"):
        convert(("custom", "coco"), tmp_path / "nowhere", tmp_path / "new")
    (tmp_path / "file").write_text("")
    (source / "test/annotations/c.json").write_text(json.dumps({"bboxes": BOXES, "keypoints": POINTS}))
    with pytest.raises(DataError, match="cannot write .*new"):
        convert(("custom", "coco"), source, tmp_path / "file" / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["custom", "file", "out"]


def test_splits_of_different_keypoints_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "custom")
    folder(tmp_path / "custom", "test", c={"bboxes": BOXES, "keypoints": [POINTS[0][:1], POINTS[1][:1]]})
    with pytest.raises(DataError, match="has 1 and 3 keypoints per object; give all the same number"):
        convert(("custom", "coco"), tmp_path / "custom", tmp_path / "out")
