"""YOLO's folders: what data.yaml says and what is there, boxes, outlines and keypoints, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from detection.data.annotations.files import coco_layout
from detection.data.coco import CocoDetection
from detection.data.convert import convert
from detection.data.formats.records import Asked
from shared.errors import DataError
from tests.detection.data.formats.of_formats import ROW, boxes, files, photograph, to_coco, yolo

CELL = ("a.jpg", "cell", [24.0, 12.0, 16.0, 24.0])
CONE = ("a.jpg", "traffic cone", [12.0, 6.0, 8.0, 12.0])


def test_boxes_become_pixels_and_an_image_without_labels_is_background(tmp_path: Path) -> None:
    found = to_coco("yolo", yolo(tmp_path / "set"))
    assert boxes(found) == [CELL, CONE] and [image["file_name"] for image in found["images"]] == ["a.jpg", "b.jpg"]
    assert found["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "traffic cone"}]
    assert found["splits"] == {"train": 2, "val": 1}
    assert "1 image without a label file kept as background, without objects" in found["notes"]
    data = CocoDetection(*coco_layout(found["out"], "train"))
    assert len(data) == 2 and (found["out"] / "train").is_symlink()


@pytest.mark.parametrize(
    "text",
    [
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cell', 'traffic cone']\n",  # Roboflow
        "path: /content/datasets/mine\ntrain: train/images\nval: valid/images\nnames: [cell, traffic cone]\n",
        "train: /home/somebody/mine/train/images\nval: /home/somebody/mine/valid/images\nnames: [cell, traffic cone]\n",
        "train: C:\\mine\\train\\images\nval: C:\\mine\\valid\\images\nnames: [cell, traffic cone]\n",
        "train: train.txt\nval: [valid/images]\nnames: [cell, traffic cone]\n",
        "nc: 2\nnames: [cell, traffic cone]\n",
    ],
)
def test_paths_of_other_machines_are_found_below_the_folder(tmp_path: Path, text: str) -> None:
    source = files(
        tmp_path / "set",
        {
            "data.yaml": text,
            "train/images/a.jpg": "",
            "train/labels/a.txt": ROW,
            "valid/images/c.jpg": "",
            "valid/labels/c.txt": ROW,
            "train.txt": "/content/mine/train/images/a.jpg\n",
        },
    )
    found = to_coco("yolo", source)
    assert boxes(found) == [CELL] and found["splits"] == {"train": 1, "val": 1}


def test_validation_on_the_training_images_is_none(tmp_path: Path) -> None:
    source = yolo(tmp_path / "set")
    (source / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cell, traffic cone]\n")
    found = to_coco("yolo", source)
    assert found["splits"] == {"train": 2} and "val left out: data.yaml gives it the images of train" in found["notes"]


def test_folders_without_a_yaml_need_names(tmp_path: Path) -> None:
    source = files(tmp_path / "set", {"a.jpg": "", "a.txt": ROW, "b.jpg": "", "b.txt": ""})
    with pytest.raises(DataError, match=r"has no names of its classes, .*; give --class-file"):
        to_coco("yolo", source)
    assert boxes(to_coco("yolo", source, Asked(classes=("cell",)))) == [CELL]
    (source / "classes.txt").write_text("cell\ntraffic cone\n")
    assert boxes(to_coco("yolo", source)) == [CELL]


def test_folders_of_yolo_as_cvat_writes_them(tmp_path: Path) -> None:
    told = {f"obj_{split}_data/{name}": "" for split, name in (("train", "a.jpg"), ("Validation", "b.jpg"))}
    labels = {
        "obj_train_data/a.txt": ROW,
        "obj_Validation_data/b.txt": ROW,
        "obj.names": "cell\n",
        "train.txt": "data/x\n",
    }
    found = to_coco("yolo", files(tmp_path / "set", told | labels))
    assert boxes(found) == [CELL] and found["splits"] == {"train": 1, "val": 1}


def test_boxes_among_outlines_are_read_and_said(tmp_path: Path) -> None:
    source = yolo(tmp_path / "set", labels__train__b="")
    (source / "labels/train/b.txt").write_text("1 0.25 0.25 0.75 0.25 0.5 0.75\n")
    found = to_coco("yolo", source)
    outline = found["annotations"][2]
    assert outline["segmentation"] == [[16.0, 12.0, 48.0, 12.0, 32.0, 36.0]] and outline["bbox"] == [16, 12, 32, 24]
    assert "segmentation" not in found["annotations"][0]
    assert any(note.startswith("3 lines of boxes among 1 outline: ") for note in found["notes"])


@pytest.mark.parametrize("each", [2, 3])
def test_keypoints(tmp_path: Path, each: int) -> None:
    source = yolo(tmp_path / "set")
    text = (source / "data.yaml").read_text()
    (source / "data.yaml").write_text(f"{text}kpt_shape: [3, {each}]\nflip_idx: [0, 2, 1]\n")
    points = ["0.5 0.5", "0.25 0.25", "0 0"]
    seen = [" 2", " 1", " 0"] if each == 3 else ["", "", ""]
    for file in source.glob("labels/*/*.txt"):
        file.write_text(ROW.strip() + " " + " ".join(p + s for p, s in zip(points, seen, strict=True)) + "\n")
    found = to_coco("yolo", source)
    second = 1 if each == 3 else 2
    assert found["annotations"][0]["keypoints"] == [32, 24, 2, 16, 12, second, 0, 0, 0]
    assert found["categories"][0]["flip_pairs"] == [[2, 3]]
    data = CocoDetection(*coco_layout(found["out"], "train", "coco_kp"), finds=("keypoints",))
    assert data.skeleton is not None and data.skeleton.mirrored == (0, 2, 1)


def test_shares_are_of_the_picture_turned_by_exif_as_other_programs_take_them(tmp_path: Path) -> None:
    source = yolo(tmp_path / "set")
    photograph(source / "images/train/a.jpg", orientation=6)
    found = to_coco("yolo", source)
    assert found["images"][0]["width"] == 48 and boxes(found)[0] == ("a.jpg", "cell", [18.0, 16.0, 12.0, 32.0])
    done = convert(("yolo", "coco"), source, tmp_path / "stored", turn="stored")
    assert "COCO files in" in done.lines()[-1]
    assert '"bbox": [24.0, 12.0, 16.0, 24.0]' in (tmp_path / "stored/annotations/instances_train.json").read_text()


def line(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "labels/train/a.txt").write_text(text)


def yaml(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "data.yaml").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (line("0 0.5 0.5 0.25\n"), "a.txt, line 1, has 4 numbers; a box has five"),
        (line("0 0.5 0.5 0.25 0.5 0.9\n"), "line 1, has 6 numbers: is the last one a confidence"),
        (line(ROW + "cell 0.5 0.5 0.25 0.5\n"), "line 2, has 'cell' where a number belongs"),
        (line("0 0.5 nan 0.25 0.5\n"), "line 1, has 'nan' where a number belongs"),
        (line("2 0.5 0.5 0.25 0.5\n"), "has the class 2, but .*data.yaml names 2, from 0 to 1; add the name"),
        (line("0.5 0.5 0.5 0.25 0.5\n"), "has the class 0.5"),
        (line("0 320 240 64 48\n"), "has 320 where a share of the image from 0 to 1 belongs; divide pixels"),
        (line("0 0.5 0.5 -0.25 0.5\n"), "has -0.25 where a share"),
        (lambda root: (root / "images/train/a.jpg").unlink(), "has 1 label file without an image, .*a.txt; copy the"),
        (lambda root: photograph(root / "images/train/a.png"), "a.jpg and .*a.png both have the labels"),
        (lambda root: (root / "images/val").rename(root / "gone"), "says that val is images/val, which is neither"),
        (lambda root: (root / "images/train/b.jpg").write_bytes(b"no"), "1 of the 2 images of .* cannot be used"),
        (yaml("train: images/train\nval: images/val\nnames: [cell, cell]\n"), "has the name 'cell' twice"),
        (yaml("train: images/train\nval: images/val\nnames: {0: cell, 2: cone}\n"), "do not count 0, 1, 2"),
        (yaml("train: images/train\nval: images/val\nnc: 3\n"), "has no names of its classes"),
        (yaml("train: images/train\nval: images/val\nnames: [a, b]\nkpt_shape: [x, 3]\n"), "has the kpt_shape"),
        (yaml("train: images/train\nval: images/val\nnames: [off, on]\n"), "has the name False, which is no text"),
        (yaml("names: [a, b]\ntrain: [images/train\n"), "cannot read .*data.yaml"),
        (lambda root: [f.write_text("") for f in root.glob("labels/*/*.txt")], "has no objects; give labels"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    source = yolo(tmp_path / "set")
    spoil(source)
    with pytest.raises(DataError, match=sentence) as told:
        convert(("yolo", "coco"), source, tmp_path / "out")
    assert "\n" not in str(told.value) and [path.name for path in tmp_path.iterdir()] == ["set"]


def test_labels_without_an_image_may_be_allowed(tmp_path: Path) -> None:
    source = yolo(tmp_path / "set")
    (source / "images/train/a.jpg").unlink()
    (source / "labels/train/b.txt").write_text(ROW)
    found = to_coco("yolo", source, Asked(allow_missing=1))
    assert [name for name, *_ in boxes(found)] == ["b.jpg"]
    assert any(note.startswith("1 label file without an image left out") for note in found["notes"])
