"""Keypoints of a data set: read, swapped when mirrored, counted, and refused when they do not fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detection.data.annotations.coco_json import read_coco
from detection.data.annotations.skeleton import PERSON, Skeleton
from detection.data.augment import geometry as G
from detection.data.augment.presets import AUGMENTATIONS, build_augment
from detection.data.coco import CocoDetection, coco_layout
from detection.types import Target
from shared.errors import DataError
from tests.detection.data.of_people import WIDTH, people, people_file

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_targets_hold_the_keypoints_of_their_objects_and_how_to_mirror_them(tmp_path: Path) -> None:
    data = CocoDetection(*people(tmp_path), finds=("keypoints",))
    target: Any = data.target(1)
    assert target["keypoints"].tolist()[0] == [[10, 6, 2], [6, 10, 1], [14, 10, 2]]
    assert target["keypoints"].shape == (3, 3, 3) and target["keypoints"].dtype == torch.float32
    assert target["mirrored"] == (0, 2, 1) and "masks" not in target
    assert data.skeleton == Skeleton.from_words(people_file()["categories"][0], "people")
    assert CocoDetection(*people(tmp_path)).skeleton is None


def test_mirroring_swaps_the_sides(tmp_path: Path) -> None:
    data = CocoDetection(*people(tmp_path), finds=("keypoints",))
    image, target = data.load(1, rng())
    once: Any = G.hflip(image, target)[1]
    assert once["keypoints"][0].tolist() == [[WIDTH - 10, 6, 2], [WIDTH - 14, 10, 2], [WIDTH - 6, 10, 1]]
    twice: Any = G.hflip(*G.hflip(image, target))[1]
    assert torch.equal(twice["keypoints"], target["keypoints"]) and twice["mirrored"] == (0, 2, 1)  # pyright: ignore


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_after_any_augmentation_a_left_hand_is_on_its_side_of_the_face(name: str) -> None:
    """Two hands at either side of a nose, which is drawn left of the left one: in a mirror image, too."""
    seen = 0
    for key in range(30):
        boxes = torch.tensor([[20.0, 20, 80, 80]])
        points = torch.tensor([[[50.0, 50, 2], [30, 50, 2], [70, 50, 2]]])
        target = Target(boxes=boxes, labels=torch.tensor([0]), keypoints=points, mirrored=(0, 2, 1))
        image = torch.zeros((3, 100, 100), dtype=torch.uint8)
        _, moved = build_augment(name, level=3, size=(96, 96))(image, target, rng(key))
        for nose, left, right in moved["keypoints"].tolist():  # pyright: ignore
            if left[2] and right[2]:
                assert left[0] < nose[0] < right[0]
                seen += 1
    assert seen > 8


def test_ground_truth_holds_keypoints_and_their_number_exactly_as_written(tmp_path: Path) -> None:
    content = people_file()
    content["annotations"][0]["keypoints"] = [10.1, 6.03, 2, 1 / 3, 10, 1, 0, 0, 0]
    truth = CocoDetection(*people(tmp_path, content), finds=("keypoints",)).ground_truth()["annotations"]
    assert truth[1]["keypoints"] == [10.1, 6.03, 2, 1 / 3, 10, 1, 0, 0, 0] and truth[1]["num_keypoints"] == 2
    assert [a["num_keypoints"] for a in truth] == [3, 2, 1, 0, 0] and "segmentation" not in truth[0]


def test_an_annotation_without_keypoints_has_none_labeled(tmp_path: Path) -> None:
    content = people_file()
    del content["annotations"][1]["keypoints"]
    content["annotations"][2]["keypoints"] = []
    target: Any = CocoDetection(*people(tmp_path, content), finds=("keypoints",)).target(1)
    assert target["keypoints"].sum(dim=(1, 2)).tolist() == [10 + 6 + 2 + 6 + 10 + 1 + 14 + 10 + 2, 0, 0]


def test_a_file_that_does_not_name_its_keypoints_numbers_them(tmp_path: Path) -> None:
    content = people_file()
    del content["categories"][0]["keypoints"]
    skeleton = CocoDetection(*people(tmp_path, content), finds=("keypoints",)).skeleton
    assert skeleton == Skeleton.numbered(3)


def test_another_skeleton_may_be_told_if_it_fits(tmp_path: Path) -> None:
    told = Skeleton.numbered(3).with_sigmas(0.3)
    data = CocoDetection(*people(tmp_path), finds=("keypoints",), skeleton=told)
    assert data.skeleton == told and data.target(0)["mirrored"] == (0, 1, 2)  # pyright: ignore
    with pytest.raises(DataError, match="has 3 keypoints per object, but the skeleton has 5; give one that matches"):
        CocoDetection(*people(tmp_path), finds=("keypoints",), skeleton=Skeleton.numbered(5))


# -- enough of them -------------------------------------------------------------------------------


def test_images_with_too_few_keypoints_are_left_out_for_training_and_told(tmp_path: Path) -> None:
    content = people_file()
    content["annotations"][-1]["keypoints"] = [0] * 9
    place = people(tmp_path, content)
    assert len(CocoDetection(*place, finds=("keypoints",))) == 2
    data = CocoDetection(*place, finds=("keypoints",), min_keypoints=None)
    assert data.image_ids == [7] and data.notes[1:] == ["1 image has fewer than 1 labeled keypoints, skipped"]
    assert len(CocoDetection(*place, finds=("keypoints",), min_keypoints=4)) == 1
    with pytest.raises(DataError, match="has no image left to use"):
        CocoDetection(*place, finds=("keypoints",), min_keypoints=5)
    assert len(CocoDetection(*place, min_keypoints=None)) == 2  # nobody asked for keypoints


def test_cocos_person_needs_ten(tmp_path: Path) -> None:
    content = people_file()
    content["categories"] = [{"id": 1, "name": "person", "keypoints": list(PERSON)}]
    for entry, labeled in zip(content["annotations"], (9, 1, 0, 17, 9), strict=True):
        entry["keypoints"] = [3, 3, 2] * labeled + [0] * 3 * (17 - labeled)
    data = CocoDetection(*people(tmp_path, content), finds=("keypoints",), min_keypoints=None)
    assert data.image_ids == [7] and data.notes[1:] == ["1 image has fewer than 10 labeled keypoints, skipped"]


@needs_real_data
def test_real_people_are_chosen_as_torchvision_chooses_them() -> None:
    import json

    images, annotations = coco_layout(REAL / "coco-keypoints", "train", "coco_kp")
    told = json.loads(annotations.read_text())
    labeled: dict[int, int] = {}
    for entry in told["annotations"]:
        seen = sum(v > 0 for v in entry["keypoints"][2::3])
        labeled[entry["image_id"]] = labeled.get(entry["image_id"], 0) + seen
    data = CocoDetection(images, annotations, finds=("keypoints",), min_keypoints=None, drop_empty=True)
    assert set(data.image_ids) == {image for image, count in labeled.items() if count >= 10}
    assert 10 < len(data) < 80 and data.skeleton is not None and data.skeleton.is_person
    truth = {a["id"]: a for a in told["annotations"]}
    by_box = {(a["image_id"], *a["bbox"]): a for a in truth.values()}
    for entry in data.ground_truth()["annotations"]:
        theirs = by_box[entry["image_id"], *entry["bbox"]]
        assert entry["keypoints"] == theirs["keypoints"] and entry["num_keypoints"] == theirs["num_keypoints"]


# -- what can be wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keypoints", "says"),
    [
        ([1, 1, 2, 3], "annotation 101 has 4 keypoint numbers, not triples x y visibility"),
        ([1, 1, 2] * 4, "annotation 101 has 4 keypoints where its category 'person' names 3"),
        ([1, 1, float("nan")] * 3, "annotation 101 has keypoints that are not finite"),
        ([1, 1, 3] * 3, "annotation 101 has the keypoint visibility 3 where 0, 1 or 2 belongs"),
        ([1, 1, "2"] * 3, "annotation 101 has the keypoints .* where numbers x y visibility belong"),
        ([[1, 1, 2]] * 3, "annotation 101 has the keypoints .* where numbers"),
        (7, "annotation 101 has the keypoints 7 where numbers"),
    ],
)
def test_wrong_keypoints_are_named_with_file_and_id(tmp_path: Path, keypoints: Any, says: str) -> None:
    content = people_file()
    content["annotations"][1]["keypoints"] = keypoints
    with pytest.raises(DataError, match=rf"people\.json: {says}"):
        read_coco(people(tmp_path, content)[1], ("keypoints",))


def test_annotations_that_disagree_on_the_number_are_refused_without_names_too(tmp_path: Path) -> None:
    content = people_file()
    del content["categories"][0]["keypoints"]
    content["annotations"][2]["keypoints"] = [1, 1, 2]
    with pytest.raises(DataError, match="annotation 102 has 1 keypoints where the annotations before it have 3"):
        read_coco(people(tmp_path, content)[1], ("keypoints",))


def test_a_file_without_any_keypoints_is_refused_with_the_way_out(tmp_path: Path) -> None:
    content = people_file()
    for entry in content["annotations"]:
        del entry["keypoints"]
    for names in (content["categories"], [{"id": 1, "name": "person"}]):
        with pytest.raises(DataError, match=r"people\.json has no keypoints; give .* person_keypoints"):
            read_coco(people(tmp_path, {**content, "categories": names})[1], ("keypoints",))


def test_two_skeletons_in_one_file_are_refused(tmp_path: Path) -> None:
    content = people_file()
    content["categories"].append({"id": 2, "name": "dog", "keypoints": ["nose", "tail"]})
    with pytest.raises(DataError, match="different keypoints, but a network has one skeleton"):
        read_coco(people(tmp_path, content)[1], ("keypoints",))
    content["categories"][1]["keypoints"] = ["nose", "nose"]
    with pytest.raises(DataError, match="category 'dog' has two keypoints with the same name"):
        read_coco(people(tmp_path, content)[1], ("keypoints",))
