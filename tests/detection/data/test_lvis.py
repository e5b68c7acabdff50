"""LVIS as a data set: targets name what is known to be absent and what is unfinished, from files and shards alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.data import shards as shards_page
from detection.data.annotations.classes import ClassMap
from detection.data.annotations.coco_json import CocoTable
from detection.data.coco import CocoDetection, coco_layout
from detection.data.pack import pack
from detection.eval.coco import ground_truth_as_results
from detection.eval.lvis import LvisEvaluator
from shared.errors import DataError
from tests.detection.eval.of_lvis import made, written


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A COCO folder with photographs in train2017 and val2017, and LVIS annotations of both."""
    content = made(0)
    for image in content["images"]:
        image["height"], image["width"] = 48, 64
        place = tmp_path / "/".join(image["coco_url"].split("/")[-2:])
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (image["id"] % 255, 0, 0)).save(place)
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 10 for value in annotation["bbox"]]
        annotation["area"] /= 100
    written(tmp_path / "annotations", content)
    return tmp_path


def opened(root: Path, **more: Any) -> CocoDetection:
    return CocoDetection(*coco_layout(root, "val", "lvis"), lvis=True, **more)


def test_images_of_both_folders_are_read(root: Path) -> None:
    data = opened(root)
    assert data.folders == {"train2017": 4, "val2017": 8} and not [note for note in data.notes if "folder" in note]
    reds = {data.image_ids[i]: int(data.load(i, np.random.default_rng(0))[0][0, 0, 0]) for i in range(len(data))}
    assert reds == pytest.approx({i: i % 255 for i in data.image_ids}, abs=3)


def test_targets_name_absent_and_unfinished_classes(root: Path) -> None:
    content, data = made(0), opened(root)
    names = {c["id"]: c["name"] for c in content["categories"]}
    for row, image in enumerate(content["images"]):
        target = data.target(row)
        for field, key in (("absent", "neg_category_ids"), ("unfinished", "not_exhaustive_category_ids")):
            told = [data.classes.names[label] for label in target[field].tolist()]  # pyright: ignore
            assert sorted(told) == sorted(names[i] for i in image[key])


def test_an_object_of_an_absent_class_is_believed(root: Path) -> None:
    file = root / "annotations/lvis_v1_val.json"
    content = json.loads(file.read_text())
    image, there = content["images"][0], content["annotations"][0]["category_id"]
    image["neg_category_ids"].append(there)
    file.write_text(json.dumps(content))
    data = opened(root)
    label = data.classes.source_ids.index(there)
    target = data.target(0)
    assert label in target["labels"].tolist() and label not in target["absent"].tolist()  # pyright: ignore


def test_with_one_class_for_all_nothing_is_absent_where_something_is(root: Path) -> None:
    data = opened(root, classes=ClassMap.binary())
    for row, image in enumerate(made(0)["images"]):
        target = data.target(row)
        assert target["absent"].tolist() == ([] if len(target["labels"]) else [0])  # pyright: ignore
        assert target["unfinished"].tolist() == ([0] if image["not_exhaustive_category_ids"] else [])  # pyright: ignore


def test_the_lists_survive_every_augmentation_of_objects(root: Path) -> None:
    from detection.data.augment.presets import build_augment

    plain, flipped = opened(root), opened(root, augment=build_augment("lsj", level=4, size=(64, 64), train=True))
    for row in range(4):
        _, target = flipped.load(row, np.random.default_rng(row))
        assert target["absent"].tolist() == plain.target(row)["absent"].tolist()  # pyright: ignore


def test_annotations_of_coco_carry_no_lists_and_a_file_of_lvis_must_be_called_one(root: Path) -> None:
    place = coco_layout(root, "val", "lvis")
    as_coco = CocoDetection(*place)
    assert not as_coco.lvis and "absent" not in as_coco.target(0)
    with pytest.raises(DataError, match="is an LVIS file.*add --dataset lvis"):
        CocoDetection(*place, lvis=None)


@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_photographs_in_the_other_folder_are_named(root: Path, split: str) -> None:
    images, annotations = coco_layout(root, "val", "lvis")
    other, count = ("train2017", 4) if split == "val2017" else ("val2017", 8)
    with pytest.raises(
        DataError,
        match=f"{count} of the 12 images of .* are in {other}/, which is not under .*",
    ):
        CocoDetection(images / split, annotations, lvis=True)


def test_annotations_alone_suffice_where_images_are_not_needed(root: Path) -> None:
    whole, alone = (
        opened(root),
        CocoDetection(root / "val2017", root / "annotations/lvis_v1_val.json", lvis=True, need_images=False),
    )
    assert "4 images are not in" in " ".join(alone.notes) and not alone.photographs.turned.any()
    assert alone.ground_truth() == whole.ground_truth()


# -- shards ---------------------------------------------------------------------------------------


def table_of(data: CocoDetection) -> dict[str, Any]:
    table: CocoTable = data.table
    lists = {
        name: [getattr(table, name)[row].tolist() for row in range(len(data))] for name in ("absent", "unfinished")
    }
    return {**lists, "frequency": table.frequency, "image_count": table.image_count, "categories": table.categories}


def test_shards_hold_all_of_it_and_give_the_same_numbers(root: Path, tmp_path: Path) -> None:
    data = opened(root)
    pack(*coco_layout(root, "val", "lvis"), tmp_path / "shards", shard_size=5)
    packed = CocoDetection(tmp_path / "shards", None, lvis=True)
    assert table_of(packed) == table_of(data)
    results = ground_truth_as_results(data)[::2]
    numbers = []
    for each in (data, packed):
        judged = LvisEvaluator(each, "pycocotools")
        judged.merge([results])
        numbers.append(judged.summary())
    assert numbers[0] == numbers[1] and 0 < numbers[0]["box_ap"] < 1
    again = CocoDetection(tmp_path / "shards", None, lvis=True)  # from the index
    assert table_of(again) == table_of(data)


def test_an_index_of_an_earlier_version_is_made_anew(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_page, "VERSION", 1)
    pack(*coco_layout(root, "val", "lvis"), tmp_path / "shards", shard_size=20)
    index = next((tmp_path / "shards").glob("*.boxes.npz"))
    with np.load(index) as stored:
        old = {name: stored[name] for name in stored if not name.startswith(("absent", "unfinished"))}
    np.savez(index, **old)
    monkeypatch.undo()
    assert table_of(CocoDetection(tmp_path / "shards", None, lvis=True)) == table_of(opened(root))
    with np.load(index) as stored:
        assert stored["version"] == shards_page.VERSION > 1


def test_a_later_index_and_shards_of_two_kinds_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, out = coco_layout(root, "val", "lvis"), tmp_path / "shards"
    pack(*place, out, shard_size=6)
    with monkeypatch.context() as patch:
        patch.setattr(shards_page, "VERSION", 1)
        with pytest.raises(DataError, match="a later version wrote it"):
            CocoDetection(out, None)
    content = json.loads(place[1].read_text())
    for image in content["images"]:
        image["id"] += 5000
        image["file_name"] = "/".join(image.pop("coco_url").split("/")[-2:])
        del image["neg_category_ids"]
    for annotation in content["annotations"]:
        annotation["image_id"] += 5000
    pack(root, written(tmp_path, content, "other.json"), tmp_path / "other", shard_size=20)
    (tmp_path / "other/000000.tar").rename(out / "000009.tar")
    with pytest.raises(DataError, match="has shards with neg_category_ids and others without"):
        CocoDetection(out, None)
