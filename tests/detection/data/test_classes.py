"""Classes are matched by name, whatever the ids of a file; results have the ids of the file again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.data.coco import ClassMap, CocoDetection, coco_layout
from detection.eval.coco import CocoEvaluator
from detection.types import Detections
from shared.errors import DataError
from tests.detection.data.of_coco import CLASSES, REAL, coco_file, needs_real_data, written


def class_file(folder: Path, *names: str) -> ClassMap:
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return ClassMap.from_file(folder / "classes.txt")


def test_classes_are_matched_by_name_however_it_is_spelt(tmp_path: Path) -> None:
    content = coco_file()
    content["categories"] = [{"id": 18, "name": "cell phone"}, {"id": 3, "name": "Cat "}]
    data = CocoDetection(*written(tmp_path, content), classes=class_file(tmp_path, "cat", "zebra", "cellphone"))
    assert data.classes.names == ("cat", "zebra", "cellphone")
    assert data.target(0)["labels"].tolist() == [2] and data.target(1)["labels"].tolist() == [0]
    assert [a["category_id"] for a in data.ground_truth()["annotations"]] == [18, 18, 3]


def test_names_that_differ_in_punctuation_alone_stay_apart(tmp_path: Path) -> None:
    content = coco_file()
    content["categories"] = [{"id": 18, "name": "C++"}, {"id": 3, "name": "C#"}]
    data = CocoDetection(*written(tmp_path, content), classes=class_file(tmp_path, "C", "C#", "C++"))
    assert data.target(0)["labels"].tolist() == [2] and data.target(1)["labels"].tolist() == [1]


def test_an_annotated_category_outside_the_class_file_is_named_an_unused_one_is_fine(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"instances.json: category 18 'dog' is not among the 2 classes \(cat, zebra\)"):
        CocoDetection(*written(tmp_path), classes=class_file(tmp_path, "cat", "zebra"))
    content = coco_file()
    content["categories"].append({"id": 4, "name": "unicorn"})
    data = CocoDetection(*written(tmp_path, content), classes=class_file(tmp_path, "cat", "dog"))
    assert data.classes.names == ("cat", "dog")


def test_train_and_val_whose_categories_differ_meet_by_name_or_are_refused(tmp_path: Path) -> None:
    train = CocoDetection(*written(tmp_path / "train"))
    content = coco_file()
    content["categories"] = [{"id": 1, "name": "dog"}, {"id": 90, "name": "cat"}]
    for annotation, category in zip(content["annotations"], (90, 1, 1), strict=True):
        annotation["category_id"] = category
    val = CocoDetection(*written(tmp_path / "val", content), classes=train.classes)
    assert val.target(0)["labels"].tolist() == train.target(0)["labels"].tolist() == [1]
    assert val.classes.source_ids == (90, 1)
    content["categories"][0]["name"] = "wolf"
    with pytest.raises(DataError, match=r"category 1 'wolf' .* use the same classes for training and validation"):
        CocoDetection(*written(tmp_path / "val", content), classes=train.classes)


def test_binary_mode_makes_everything_an_object(tmp_path: Path) -> None:
    data = CocoDetection(*written(tmp_path), classes=ClassMap.binary())
    assert data.classes.names == ("object",) and data.target(0)["labels"].tolist() == [0]
    truth = data.ground_truth()
    assert {a["category_id"] for a in truth["annotations"]} == {1} == {c["id"] for c in truth["categories"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "is empty"), ("cat\ndog\ncat\n", "has the name 'cat' twice"), (None, "cannot read the class file")],
)
def test_a_wrong_class_file_is_explained(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        ClassMap.from_file(tmp_path / "classes.txt")


names = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8, unique=True)


@given(names, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_a_class_map_survives_the_card_and_binds_to_any_file_by_name(names: list[str], random: Any) -> None:
    ids = random.sample(range(100), len(names))
    classes = ClassMap.from_categories(dict(zip(ids, names, strict=True)))
    assert ClassMap.from_dict(json.loads(json.dumps(classes.to_dict()))) == classes
    other = dict(zip(random.sample(range(200), len(names)), names, strict=True))
    bound, labels = classes.bind(other, set(other), Path("other.json"))
    assert bound.names == classes.names and len(set(bound.source_ids)) == len(names)
    for category, label in labels.items():
        assert other[category] == bound.names[label] and bound.source_ids[label] == category


RETIRED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # ids that COCO gave up


def official() -> dict[int, str]:
    """COCO's categories: 80 of the ids 1 to 90."""
    names = iter(ClassMap.from_file(CLASSES / "coco.txt").names)
    return {i: next(names) for i in range(1, 92) if i not in RETIRED}


def test_both_class_files_keep_cocos_ids() -> None:
    dense, spread = ClassMap.from_file(CLASSES / "coco.txt"), ClassMap.from_file(CLASSES / "coco91.txt")
    assert len(dense) == 80 and dense.names[0] == "person" and dense.names[-1] == "toothbrush"
    assert len(spread) == 91 and spread.names[11] == "street sign" and spread.names[89] == "toothbrush"
    assert [spread.names[i - 1] for i in official()] == list(dense.names)
    bound, labels = spread.bind(official(), set(official()), Path("x.json"))
    assert bound.source_ids == tuple(range(1, 92)) and labels == {i: i - 1 for i in official()}
    bound, labels = dense.bind(official(), set(official()), Path("x.json"))
    assert bound.source_ids == tuple(official()) and labels[90] == 79


def test_a_list_of_91_lines_in_birders_spelling_is_understood(tmp_path: Path) -> None:
    """The seed's own file writes "cellphone" where COCO has "cell phone"."""
    names = [name.replace(" ", "") for name in ClassMap.from_file(CLASSES / "coco91.txt").names]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    bound, labels = ClassMap.from_file(tmp_path / "classes.txt").bind(official(), set(official()), Path("x.json"))
    assert bound.source_ids == tuple(range(1, 92)) and labels[90] == 89


@needs_real_data
@pytest.mark.parametrize(("names", "count"), [("coco.txt", 80), ("coco91.txt", 91), (None, 80)])
def test_ids_of_real_coco_are_the_same_at_both_ends(names: str | None, count: int) -> None:
    classes = None if names is None else ClassMap.from_file(CLASSES / names)
    images, annotations = coco_layout(REAL / "coco-tiny", "val")
    data = CocoDetection(images, annotations, classes=classes)
    assert len(data.classes) == count
    wanted = [(a["image_id"], a["category_id"]) for a in json.loads(annotations.read_text())["annotations"]]
    truth = [(a["image_id"], a["category_id"]) for a in data.ground_truth()["annotations"]]
    assert sorted(truth) == sorted(wanted)
    evaluator = CocoEvaluator(data, "pycocotools")
    for index, image_id in enumerate(data.image_ids):
        target = data.target(index)
        evaluator.add(image_id, Detections(**target_of(target), scores=torch.ones(len(target["labels"]))), (1.0, 1.0))
    found = {(row["image_id"], row["category_id"]) for row in evaluator.results()}
    assert found <= set(wanted) and len({category for _, category in found}) > 60
    assert evaluator.summary()["box_ap"] > 0.99


def target_of(target: Any) -> dict[str, Any]:
    return {"boxes": target["boxes"], "labels": target["labels"]}
