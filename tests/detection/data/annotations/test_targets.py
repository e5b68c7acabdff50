"""What training leaves out, and what cannot be, is told; a refusal says why nothing is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detection.data.coco import CocoDetection
from shared.errors import DataError
from tests.detection.data.of_people import people, people_file


def notes(folder: Path, areas: list[Any]) -> list[str]:
    """Notes about areas of the four people, whose boxes have 100, 144, 81 and 645.75 pixels; the crowd is ignored."""
    content = people_file()
    entries = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    for entry, area in zip(entries, areas, strict=True):
        entry["area"] = area
    return [note for note in CocoDetection(*people(folder, content)).notes if "area" in note]


@pytest.mark.parametrize(
    ("areas", "says"),
    [
        ([0, 0, 0, 0], "all 4 areas are 0, whatever the box"),
        ([1, 1, 1, 1], "all 4 areas are 1, whatever the box"),
        ([-1, -1, -1, -1], "all 4 areas are -1, whatever the box"),
        ([50, 0, -1, 600], "2 of 4 areas are 0 or less"),
        ([50, 144, 9000, 600], "1 of 4 areas is larger than the box"),
        ([0, 144, 9000, 600], "1 of 4 areas is 0 or less and 1 of 4 areas is larger than the box"),
    ],
)
def test_areas_that_cannot_be_are_told(tmp_path: Path, areas: list[float], says: str) -> None:
    (note,) = notes(tmp_path, areas)
    assert note.startswith(f"{says}: AP of small, medium and large objects") and "remove 'area' from the file" in note


@pytest.mark.parametrize("areas", [[50, 144, 81, 600], [None] * 4, [100, 144, 90, 700], [12, 12, 12, 13]])
def test_areas_that_can_be_are_not(tmp_path: Path, areas: list[float | None]) -> None:
    assert notes(tmp_path, areas) == []


def test_a_tiny_area_for_boxes_of_one_size_is_told(tmp_path: Path) -> None:
    content = people_file()
    for entry in content["annotations"]:
        entry.update(bbox=[5, 5, 12, 12], area=1, segmentation=[], iscrowd=0)
    (note,) = [note for note in CocoDetection(*people(tmp_path, content)).notes if "area" in note]
    assert "areas are 1, whatever the box" in note


def test_crowds_are_told_in_the_notes(tmp_path: Path) -> None:
    assert CocoDetection(*people(tmp_path)).notes == [
        "1 annotation is a crowd (iscrowd), not trained on and not counted in evaluation"
    ]


def test_a_file_of_crowds_and_thin_boxes_is_refused_with_their_counts(tmp_path: Path) -> None:
    content = people_file()
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    says = r"people\.json has no usable boxes: 5 annotations are crowds \(iscrowd\).*; set iscrowd to 0 if each is one"
    with pytest.raises(DataError, match=says):
        CocoDetection(*people(tmp_path, content))
    content["annotations"][0].update(iscrowd=0, bbox=[5, 5, 0.5, 9])
    with pytest.raises(DataError, match=r"no usable boxes: 1 box is narrower than 1 pixel, dropped; 4 annotations are"):
        CocoDetection(*people(tmp_path, content))
