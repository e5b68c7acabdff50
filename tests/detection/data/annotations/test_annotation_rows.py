"""Annotations as programs write them: ids of any size and spelling, missing areas, `image_id` in other places."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data.annotations.annotation_rows import _checked, _plain
from detection.data.annotations.coco_json import CocoTable, read_coco
from detection.data.coco import CocoDetection
from detection.data.masks.rle import coco_mask
from shared.errors import DataError
from tests.detection.data.of_people import HEIGHT, WIDTH, people, people_file, rle, square

TRIANGLE = [5.0, 5, 25, 5, 5, 25]
TRIANGLE_AREA = int(coco_mask.area(coco_mask.frPyObjects([TRIANGLE], HEIGHT, WIDTH))[0])


def read(folder: Path, content: dict[str, Any], finds: Any = ()) -> CocoTable:
    (folder / "x.json").write_text(json.dumps(content))
    return read_coco(folder / "x.json", finds)


def plain_columns(table: CocoTable) -> list[Any]:
    columns = (table.image_ids, table.sizes, table.image_of, table.boxes, table.category_ids, table.areas, table.crowd)
    return [column.tolist() for column in columns]


@pytest.mark.parametrize("spell", [float, str, lambda number: f" {number} "], ids=["floats", "text", "spaced text"])
def test_ids_and_sizes_in_another_spelling_are_the_same_numbers(tmp_path: Path, spell: Any) -> None:
    content = people_file()
    wanted = read(tmp_path, content, None)
    for image in content["images"]:
        image.update({key: spell(image[key]) for key in ("id", "height", "width")})
    for entry in content["annotations"]:
        entry.update({key: spell(entry[key]) for key in ("id", "image_id", "category_id")})
        if isinstance(entry["segmentation"], dict):
            entry["segmentation"]["size"] = [float(side) for side in entry["segmentation"]["size"]]
    content["categories"][0]["id"] = spell(1)
    found = read(tmp_path, content, None)
    assert plain_columns(found) == plain_columns(wanted) and found.skeletons == wanted.skeletons


@pytest.mark.parametrize("shift", [2**60, -(2**62), 2**63 - 10])
@pytest.mark.parametrize("category", [1, 2**40, -7])
def test_large_and_negative_ids_stay_exact(tmp_path: Path, shift: int, category: int) -> None:
    content = people_file()
    for image in content["images"]:
        image["id"] += shift
    for entry in content["annotations"]:
        entry.update(image_id=entry["image_id"] + shift, category_id=category)
    content["categories"][0]["id"] = category
    truth = CocoDetection(*people_of(tmp_path, content)).ground_truth()
    assert [image["id"] for image in truth["images"]] == [3 + shift, 7 + shift]
    assert [a["image_id"] - shift for a in truth["annotations"]] == [3, 7, 7, 7, 7]
    assert {a["category_id"] for a in truth["annotations"]} == {category}


def people_of(folder: Path, content: dict[str, Any]) -> tuple[Path, Path]:
    """Photographs, beside a file of another content with the same file names."""
    images, _ = people(folder)
    (folder / "x.json").write_text(json.dumps(content))
    return images, folder / "x.json"


@pytest.mark.parametrize(
    ("value", "crowd"),
    [(1, 1), (True, 1), ("1", 1), ("true", 1), (1.0, 1), (0, 0), ("0", 0), ("False", 0), (False, 0), (None, 0)],
)
def test_iscrowd_means_what_it_says(tmp_path: Path, value: Any, crowd: int) -> None:
    content = people_file()
    content["annotations"][0]["iscrowd"] = value
    assert read(tmp_path, content).crowd.sum() == 1 + crowd


@pytest.mark.parametrize("value", [2, "maybe", "", float("nan"), [], -1])
def test_iscrowd_that_says_neither_is_refused(tmp_path: Path, value: Any) -> None:
    content = people_file()
    content["annotations"][0]["iscrowd"] = value
    with pytest.raises(DataError, match=r"annotation 100 has the iscrowd .* where 0 or 1 belongs"):
        read(tmp_path, content)


@pytest.mark.parametrize("change", [{"bbox": [1, 2, True, 4]}, {"area": True}, {"id": True}, {"image_id": False}])
def test_true_and_false_are_no_numbers(tmp_path: Path, change: dict[str, Any]) -> None:
    content = people_file()
    content["annotations"][0].update(change)
    with pytest.raises(DataError, match=f"has the {next(iter(change))} .* belong"):
        read(tmp_path, content)


# -- missing areas --------------------------------------------------------------------------------


@pytest.mark.parametrize("finds", [(), ("masks",), None], ids=["boxes", "masks", "whatever there is"])
@pytest.mark.parametrize("area", [..., None, float("nan")], ids=["absent", "null", "NaN"])
def test_a_missing_area_is_that_of_the_mask_whatever_the_network_learns(tmp_path: Path, finds: Any, area: Any) -> None:
    content = people_file()
    for entry in content["annotations"]:
        entry["area"] = area
    content["annotations"][0]["segmentation"] = [TRIANGLE]
    content["annotations"] = [{k: v for k, v in entry.items() if v is not ...} for entry in content["annotations"]]
    areas = read(tmp_path, content, finds).areas.tolist()
    two_squares = int(coco_mask.area(coco_mask.merge(coco_mask.frPyObjects(list(masks_of(content, 4)), HEIGHT, WIDTH))))
    assert areas == [two_squares, TRIANGLE_AREA, 144, 81, 900] and 150 < TRIANGLE_AREA < 250 and two_squares < 250


def masks_of(content: dict[str, Any], number: int) -> Any:
    return content["annotations"][number]["segmentation"]


def test_without_a_mask_that_can_be_read_or_has_a_pixel_it_is_that_of_the_box(tmp_path: Path) -> None:
    content = people_file()
    odd: list[Any] = [None, [], "abc", [[1, 2]], {"counts": "P~~", "size": [HEIGHT, WIDTH]}, {"counts": "1"}]
    odd += [[square(500, 500, 9)], rle(1, 1, 5) | {"size": [9, 9]}, [[1, 2, 3, 4, 5, float("inf")]]]
    content["annotations"] = [
        {"id": n, "image_id": 7, "category_id": 1, "bbox": [0, 0, 10, 7], "segmentation": mask}
        for n, mask in enumerate([*odd, [TRIANGLE]])
    ]
    assert read(tmp_path, content).areas.tolist() == [70.0] * len(odd) + [TRIANGLE_AREA]
    for entry in content["annotations"]:
        entry["area"] = 11
    assert read(tmp_path, content).areas.tolist() == [11.0] * (len(odd) + 1)


# -- one bad ring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[], [1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]], ids=len)
def test_a_bad_ring_beside_sound_ones_is_left_out_and_told(tmp_path: Path, bad: list[float]) -> None:
    content = people_file()
    wanted = read(tmp_path, content, ("masks",)).masks
    content["annotations"][0]["segmentation"].insert(0, bad)
    content["annotations"][4]["segmentation"].append(bad)
    data = CocoDetection(*people(tmp_path, content), finds=("masks",))
    found = data.table.masks
    assert found is not None and wanted is not None
    size = (HEIGHT, WIDTH)
    assert [found.segmentation(n, size) for n in range(5)] == [wanted.segmentation(n, size) for n in range(5)]
    assert any(note.startswith("2 polygons have too few numbers") for note in data.notes)
    assert data.load(0, np.random.default_rng(0))[1]["masks"].sum() > 100  # pyright: ignore[reportTypedDictNotRequiredAccess]


# -- image_id in other places -------------------------------------------------------------------------


def test_image_id_as_a_key_elsewhere_is_no_annotation(tmp_path: Path) -> None:
    content = people_file()
    wanted = plain_columns(read(tmp_path, content, None))
    stray = {"id": 1, "image_id": 99, "category_id": 5, "bbox": [1, 2, 3, 4]}
    for place in (
        {"info": {"image_id": "cover"}},
        {"info": {"example": content["annotations"][0]}},
        {"captions": [{"id": 1, "image_id": 3, "caption": "two people"}]},
        {"predictions": [stray]},
        {"images": [{**image, "image_id": image["id"]} for image in content["images"]]},
        {"images": [{**image, "image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 1} for image in content["images"]]},
        {"annotations": [{**entry, "attributes": {"image_id": 4}} for entry in content["annotations"]]},
        {"annotations": [{**entry, "parent": stray} for entry in content["annotations"]]},
        {"categories": [{**content["categories"][0], "icon": {"image_id": 2, "bbox": None}}]},
    ):
        assert plain_columns(read(tmp_path, {**content, **place}, None)) == wanted, place


def test_what_the_list_holds_is_checked_also_when_there_are_others(tmp_path: Path) -> None:
    content = people_file()
    content["info"] = {"example": dict(content["annotations"][0])}
    content["annotations"][2]["bbox"] = [1, 2, 3]
    with pytest.raises(DataError, match=r"annotation 102 has the bbox \[1, 2, 3\]"):
        read(tmp_path, content)
    content["annotations"][2] = 7
    with pytest.raises(DataError, match=r"annotation number 3 has no image_id"):
        read(tmp_path, content)


def test_a_gzipped_file_is_the_same_data(tmp_path: Path) -> None:
    images, plain = people(tmp_path)
    packed = tmp_path / "people.json.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    ours, theirs = (CocoDetection(images, path, finds=("masks", "keypoints")) for path in (packed, plain))
    assert ours.ground_truth() == theirs.ground_truth() and ours.fingerprint == theirs.fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("id", True), ("image_id", 3.0), ("category_id", "1"), ("iscrowd", None), ("iscrowd", True)),
        *(("iscrowd", "yes"), ("area", None), ("bbox", (1, 2, 3, 4)), ("bbox", [1, 2, True, 4]), ("id", 2**60)),
    ],
)
def test_what_is_not_plain_is_left_to_the_checks(key: str, value: Any) -> None:
    entry = {"id": 5, "image_id": 3, "category_id": 1, "bbox": [1, 2.5, 3, 4], "area": 7, "iscrowd": 1}
    checked = _checked(entry)
    assert _plain(entry) == (*checked[:3], list(checked[3]), *checked[4:]) == (5, 3, 1, [1, 2.5, 3, 4], 7, True)
    assert _plain({**entry, key: value}) is None
    without = {name: entry[name] for name in entry if name != "iscrowd"}
    assert _plain(without) is not None and _plain(without)[5] is False  # type: ignore[index]
