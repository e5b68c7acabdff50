"""COCO -> another format -> COCO gives the same numbers, and other readers read what was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from detection.cli import main
from detection.data.convert import convert
from detection.data.formats.joining import joined, parted
from detection.data.masks.rle import coco_mask, from_pixels
from shared.errors import DataError
from tests.detection.data.formats.of_formats import HEIGHT, WIDTH, photograph, to_coco

CATEGORIES = [{"id": 3, "name": "cell"}, {"id": 7, "name": "traffic cone"}, {"id": 8, "name": "b\u00e4r"}]
POINTS = {"keypoints": ["left_end", "right_end"], "skeleton": [[1, 2]]}


def coco(root: Path, *, masks: bool = False, points: bool = False, crowd: bool = False) -> Path:
    """Two splits of random boxes, with polygons, RLE and keypoints on request; one image has nothing."""
    rng = np.random.default_rng(7)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", 3), ("val", 2)):
        images, annotations = [], []
        for number in range(1, count + 1):
            photograph(root / split / f"{split} {number}.jpg", number + 10 * count)
            images.append({"id": number, "file_name": f"{split} {number}.jpg", "height": HEIGHT, "width": WIDTH})
            for _ in range(5 if number > 1 or split == "val" else 0):
                annotations.append({"id": len(annotations) + 1, "image_id": number, **thing(rng, masks, points)})
        if crowd:
            annotations[0]["iscrowd"] = 1
        categories = [{**category, **(POINTS if points else {})} for category in CATEGORIES]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def thing(rng: np.random.Generator, masks: bool, points: bool) -> dict[str, Any]:
    x, y = (round(float(v), 2) for v in rng.uniform(1, 30, 2))
    w, h = (round(float(v), 2) for v in rng.uniform(4, 15, 2))
    words: dict[str, Any] = {
        "category_id": int(rng.choice([3, 7, 8])),
        "bbox": [x, y, w, h],
        "iscrowd": 0,
        "area": w * h,
    }
    if masks:
        ring = [x, y, x + w, y, x + w, y + h, x, y + h]
        words["segmentation"] = [[round(v, 2) for v in ring]]
        words["segmentation"] += [[2.25, 40.5, 6.75, 40.5, 5.5, 45.25]] if rng.random() < 0.5 else []
        if rng.random() < 0.3:
            pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
            pixels[5:15, 5:20] = 1
            pixels[8:10, 9:12] = rng.integers(0, 2)
            words["bbox"], words["segmentation"] = from_pixels(pixels)
        words.pop("area")
    if points:
        words |= {"keypoints": [x, y, 2, round(x + 3.3, 2), y, int(rng.integers(0, 3))], "num_keypoints": 2}
        if words["keypoints"][5] == 0:
            words["keypoints"][3:] = [0, 0, 0]
    return words


def there_and_back(kind: str, root: Path, split: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    convert(("coco", kind), root, root.parent / f"as {kind}", options=({}, options))
    back = to_coco(kind, root.parent / f"as {kind}", split=split)
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text()), back


def by_image(content: dict[str, Any], key: str) -> list[tuple[str, int, Any]]:
    names = {image["id"]: image["file_name"] for image in content["images"]}
    return [(names[entry["image_id"]], entry["category_id"], entry.get(key)) for entry in content["annotations"]]


def mask_of(segmentation: Any) -> np.ndarray:
    if isinstance(segmentation, list):
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, HEIGHT, WIDTH)))
    return coco_mask.decode(segmentation)


@pytest.mark.parametrize("split", ["train", "val"])
def test_yolo_boxes_and_ids_come_back(tmp_path: Path, split: str) -> None:
    before, after = there_and_back("yolo", coco(tmp_path / "set"), split)
    assert by_image(before, "bbox") == by_image(after, "bbox") and after["categories"] == before["categories"]
    assert [i["file_name"] for i in before["images"]] == [i["file_name"] for i in after["images"]]


def test_yolo_outlines_come_back_pixel_for_pixel(tmp_path: Path) -> None:
    before, after = there_and_back("yolo", coco(tmp_path / "set", masks=True), "train")
    assert len(before["annotations"]) == len(after["annotations"])
    for one, other in zip(before["annotations"], after["annotations"], strict=True):
        assert (mask_of(one["segmentation"]) == mask_of(other["segmentation"])).all()
        assert one["category_id"] == other["category_id"]


def test_yolo_keypoints_come_back_with_their_names(tmp_path: Path) -> None:
    before, after = there_and_back("yolo", coco(tmp_path / "set", points=True), "val")
    assert by_image(before, "keypoints") == by_image(after, "keypoints")
    assert by_image(before, "bbox") == by_image(after, "bbox") and after["categories"] == before["categories"]


def test_voc_boxes_and_crowds_come_back(tmp_path: Path) -> None:
    before, after = there_and_back("voc", coco(tmp_path / "set", crowd=True), "val")
    names = {category["id"]: category["name"] for category in before["categories"]}
    for entry in before["annotations"]:
        entry["category_id"] = list(names).index(entry["category_id"]) + 1
    assert by_image(before, "bbox") == by_image(after, "bbox") and by_image(before, "iscrowd") == by_image(
        after, "iscrowd"
    )
    assert [category["name"] for category in after["categories"]] == list(names.values())


def test_voc_in_whole_pixels(tmp_path: Path) -> None:
    before, after = there_and_back("voc", coco(tmp_path / "set"), "val", whole_pixels=True)
    for (_, _, one), (_, _, other) in zip(by_image(before, "bbox"), by_image(after, "bbox"), strict=True):
        assert all(float(side).is_integer() for side in other) and np.abs(np.array(one) - other).max() <= 1


def test_crowds_and_kinds_of_labels_of_yolo(tmp_path: Path) -> None:
    source = coco(tmp_path / "set", masks=True, crowd=True)
    told = convert(("coco", "yolo"), source, tmp_path / "boxes", options=({}, {"labels": "boxes"})).lines()
    assert "2 crowds left out, which YOLO has not" in told
    rows = (tmp_path / "boxes/labels/val/val 1.txt").read_text().splitlines()
    assert len(rows) == 4 and all(len(row.split()) == 5 for row in rows)
    with pytest.raises(ValueError, match="--labels keypoints: the data have none; there are masks and boxes"):
        convert(("coco", "yolo"), source, tmp_path / "points", options=({}, {"labels": "keypoints"}))
    about = yaml.safe_load((tmp_path / "boxes/data.yaml").read_text())
    assert about["names"] == {0: "cell", 1: "traffic cone", 2: "b\u00e4r"} and about["coco_ids"] == [3, 7, 8]
    assert (tmp_path / "boxes/images/val/val 1.jpg").resolve() == source / "val/val 1.jpg"


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_a_written_folder_may_move_with_its_images_and_equal_names_are_kept_apart(tmp_path: Path, kind: str) -> None:
    source = coco(tmp_path / "a/set")
    for split in ("train", "val"):
        file = source / f"annotations/instances_{split}.json"
        file.write_text(file.read_text().replace(f"{split} ", "image "))
        for photo in (source / split).iterdir():
            photo.rename(photo.with_name(photo.name.replace(split, "image")))
    convert(("coco", kind), source, tmp_path / "a/out")
    (tmp_path / "a").rename(tmp_path / "b")
    found = to_coco(kind, tmp_path / "b/out")
    assert found["splits"] == {"train": 3, "val": 2} and len(found["annotations"]) == 10
    assert not any(os.path.islink(p) and not p.exists() for p in (tmp_path / "b").rglob("*"))


def test_other_readers_read_the_same_boxes(tmp_path: Path) -> None:
    hotcoco, supervision = pytest.importorskip("hotcoco"), pytest.importorskip("supervision")
    source = coco(tmp_path / "set")
    convert(("coco", "yolo"), source, tmp_path / "yolo")
    convert(("coco", "voc"), source, tmp_path / "voc")
    truth = json.loads((source / "annotations/instances_val.json").read_text())
    told = sorted((Path(name).stem, *np.round(box, 2)) for name, _, box in by_image(truth, "bbox"))
    labels = tmp_path / "yolo/labels/val"
    (labels / "data.yaml").write_text((tmp_path / "yolo/data.yaml").read_text())
    theirs = hotcoco.COCO.from_yolo(str(labels), images_dir=str(source / "val")).dataset
    assert sorted((name, *np.round(box, 2)) for name, _, box in by_image(theirs, "bbox")) == told
    theirs = hotcoco.COCO.from_voc(str(tmp_path / "voc")).dataset
    named = [(Path(name).stem, box) for name, _, box in by_image(theirs, "bbox") if name.startswith("val")]
    assert sorted((name, *np.round(box, 2)) for name, box in named) == told
    images, about = str(tmp_path / "yolo/images/val"), str(tmp_path / "yolo/data.yaml")
    read = supervision.DetectionDataset.from_yolo(images, str(labels), about)
    corners = sorted(
        (Path(name).stem, *np.round([x0, y0, x1 - x0, y1 - y0], 2).tolist())
        for name, found in read.annotations.items()
        for x0, y0, x1, y1 in found.xyxy.astype(np.float64)
    )
    assert np.allclose([row[1:] for row in corners], [row[1:] for row in told], atol=0.011)
    assert [row[0] for row in corners] == [row[0] for row in told]


@pytest.mark.parametrize(
    "rings",
    [
        [[0, 0, 4, 0, 4, 4]],
        [[0, 0, 4, 0, 4, 4], [8, 8, 9, 8, 9, 9]],
        [[0, 0, 4, 0, 4, 4], [8, 8, 9, 8, 9, 9], [1, 7, 2, 7, 2, 8]],
    ],
)
def test_rings_are_joined_and_parted(rings: list[list[float]]) -> None:
    def pixels(rings: list[list[float]]) -> np.ndarray:
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, 12, 12)))

    whole = joined(rings)
    assert len(parted(whole)) == len(rings) and (pixels(parted(whole)) == pixels(rings)).all()
    assert parted([0, 0, 4, 0, 0, 0, 4, 4]) == [[0, 0, 4, 0, 0, 0, 4, 4]]


def test_the_command_as_a_person_types_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = coco(tmp_path / "set")
    assert main(["convert", "coco", "yolo", "--data-path", str(source), "--output", str(tmp_path / "yolo")]) == 0
    assert "YOLO labels (boxes) in" in capsys.readouterr().out
    for command in (["train", "--network", "fcos", "--data-path"], ["doctor"]):
        assert main([*command, str(tmp_path / "yolo")]) == DataError.exit_code
        told = capsys.readouterr().err
        typed = told.partition("run `detect ")[2].partition("`")[0].split()
        assert typed[:3] == ["convert", "yolo", "coco"], told
    assert main(typed) == 0 and main(["doctor", typed[-1]]) == 0
    assert main(["convert", "yolo", "coco", str(tmp_path / "yolo"), typed[-1]]) == DataError.exit_code
    assert "already exists" in capsys.readouterr().err
    assert main(["convert", "yolo", "coco", "--first-pixel", "0", str(tmp_path / "yolo"), "out"]) == 2
    assert "--first-pixel is an option of voc, not of reader 'yolo'" in capsys.readouterr().err
    assert main(["convert", "yolo", "coco", str(tmp_path / "yolo")]) == 2
    assert "OUT is missing; give it as a word" in capsys.readouterr().err


def test_a_conversion_needs_no_torch(tmp_path: Path) -> None:
    source = coco(tmp_path / "set")
    words = ["convert", "coco", "yolo", str(source), str(tmp_path / "out")]
    code = f"import sys; from detection.cli import main; main({words!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stdout
