"""Classes are matched by name without case and blanks, and nothing else; what that leaves open is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detection.data.annotations.classes import ClassMap, class_notes
from detection.data.coco import CocoDetection
from shared.errors import DataError
from tests.detection.data.of_people import people, people_file

PAIRS = [
    ("marker+", "marker-"),
    ("<5", ">5"),
    ("1.0", "10"),
    ("C", "C#"),
    ("a/b", "ab"),
    ("cell-phone", "cell phone"),
    ("no_entry", "no entry"),
    ("+", "-"),
    ("x²", "x2"),
]


def of_categories(folder: Path, *names: str, classes: ClassMap | None = None) -> CocoDetection:
    """Five people, each of another category in turn."""
    content = people_file()
    content["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
    for number, entry in enumerate(content["annotations"]):
        entry.update(category_id=number % len(names) + 1, iscrowd=0)
    images, _ = people(folder)
    (folder / "x.json").write_text(json.dumps(content))
    return CocoDetection(images, folder / "x.json", classes)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_names_that_differ_in_more_than_case_and_blanks_are_different_classes(
    tmp_path: Path, one: str, other: str
) -> None:
    both = ClassMap((one, other), (1, 2))
    assert both.find(one) == 0 and both.find(other) == 1
    assert ClassMap((one,), (1,)).find(other) is None and ClassMap((other,), (1,)).find(one) is None
    train = of_categories(tmp_path / "train", one)
    with pytest.raises(DataError, match="is not among the 1 classes"):
        of_categories(tmp_path / "val", other, classes=train.classes)
    swapped = of_categories(tmp_path / "val", other, one, classes=both)
    assert swapped.classes.source_ids == (2, 1) and not swapped.notes


@pytest.mark.parametrize("other", ["Cell phone", "cellphone", " CELL  PHONE\t", "cell\u00a0phone"])
def test_case_and_blanks_are_folded_and_the_match_is_told(tmp_path: Path, other: str) -> None:
    train = of_categories(tmp_path / "train", "cell phone")
    val = of_categories(tmp_path / "val", other, classes=train.classes)
    assert val.labels.tolist() == [0] * 5
    assert val.notes == [f"names are matched without case and blanks: '{other}' as 'cell phone'"]


def test_classes_that_differ_in_case_or_blanks_alone_stay_apart_and_are_told(tmp_path: Path) -> None:
    data = of_categories(tmp_path, "Cat", "cat", "dog", "cat ")
    assert data.classes.names == ("Cat", "cat", "dog", "cat ") and len(set(data.labels.tolist())) == 4
    (note,) = data.notes
    assert note.startswith("classes differ in case or blanks alone: 'Cat' and 'cat' and 'cat '; give them one name")
    again = of_categories(tmp_path / "val", "cat ", "Cat", classes=data.classes)
    assert set(again.labels.tolist()) == {0, 3}
    with pytest.raises(DataError, match="'CAT' is not among the 4 classes"):
        of_categories(tmp_path / "other", "CAT", classes=data.classes)


def test_classes_without_an_object_are_told_of_the_current_class_map_alone(tmp_path: Path) -> None:
    names = ClassMap(("ant", "bee", "cow", "dog", "elk", "fox", "gnu"), tuple(range(1, 8)))
    data = of_categories(tmp_path, "cow", classes=names)
    assert data.notes == ["6 of 7 classes have no object: ant, bee, dog, elk, fox and 1 more"]
    data.relabel(ClassMap(("cow", "emu"), (1, 2)))
    assert data.notes == ["1 of 2 classes has no object: emu"]
    data.relabel(ClassMap.binary())
    assert not data.notes


def test_a_class_of_crowds_alone_has_no_object(tmp_path: Path) -> None:
    content = people_file()
    content["categories"].append({"id": 2, "name": "group"})
    content["annotations"][3]["category_id"] = 2  # the crowd
    assert CocoDetection(*people(tmp_path, content)).notes[-1] == "1 of 2 classes has no object: group"


def test_binary_mode_has_nothing_to_tell() -> None:
    assert class_notes(ClassMap.binary(), {1: "Cat", 2: "cat"}, {0}) == []
