"""Data sets of other tools are recognized by names and first bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.feeding.layouts import layout_of

COCO_TEXT = json.dumps({"info": {}, "images": [], "annotations": [], "categories": []})
LABELME_TEXT = json.dumps({"version": "5", "shapes": [], "imagePath": "a.jpg", "imageData": None})
VOC_TEXT = "<annotation><folder>x</folder><object><name>cat</name></object></annotation>"
CVAT_TEXT = '<?xml version="1.0"?>\n<annotations>\n  <version>1.1</version>\n</annotations>'
OPEN_TEXT = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
YAML_TEXT = "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cell']\n"
LAYOUTS = {
    "YOLO": [
        {"data.yaml": YAML_TEXT, "train/images/a.jpg": "", "train/labels/a.txt": "0 0.5 0.5 0.1 0.1"},
        {"images/train/a.jpg": "", "labels/train/a.txt": "0 0.5 0.5 0.1 0.1\n"},
        {"train/images/a.jpg": "", "train/labels/a.txt": "3 0.5 0.5 0.1 0.1\n"},
        {"a.jpg": "", "a.txt": "0 0.5 0.5 0.1 0.1\n"},
    ],
    "Pascal VOC": [
        {"JPEGImages/a.jpg": "", "Annotations/a.xml": VOC_TEXT, "ImageSets/Main/train.txt": "a\n"},
        {"images/a.jpg": "", "annotations/a.xml": VOC_TEXT},
        {"train/a.jpg": "", "train/a.xml": VOC_TEXT},
    ],
    "CVAT": [{"annotations.xml": CVAT_TEXT, "images/a.jpg": ""}],
    "labelme": [{"a.jpg": "", "a.json": LABELME_TEXT}, {"train/a.jpg": "", "train/a.json": LABELME_TEXT}],
    "COCO": [
        {"train2017/a.jpg": "", "annotations/instances_train2017.json": COCO_TEXT},
        {"train/a.jpg": "", "train/_annotations.coco.json": COCO_TEXT},
        {"images/default/a.jpg": "", "annotations/instances_default.json": COCO_TEXT},
    ],
    "CSV": [{"train/a.jpg": "", "train/_annotations.csv": "filename,width\n"}],
    "Open Images": [{"train-annotations-bbox.csv": OPEN_TEXT, "train/a.jpg": ""}],
    "class folders": [{"cat/a.jpg": "", "dog/b.jpg": ""}, {"train/cat/a.jpg": "", "val/cat/b.jpg": ""}],
    "images": [{"a.jpg": "", "b.png": ""}],
    "shards": [{"train-000000.tar": ""}],
    None: [{}, {"notes.txt": "hello"}, {"a.yaml": "lr: 3\n"}],
}


def made(root: Path, files: dict[str, str]) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(("name", "files"), [(name, files) for name, sets in LAYOUTS.items() for files in sets])
def test_a_layout_is_recognized(name: str | None, files: dict[str, str], tmp_path: Path) -> None:
    assert layout_of(made(tmp_path / "set", files)) == name


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("data.yaml", YAML_TEXT, "YOLO"),
        ("a.txt", "0 0.1 0.2 0.3 0.4\n1 0.1 0.2 0.3 0.4\n", "YOLO"),
        ("a.xml", VOC_TEXT, "Pascal VOC"),
        ("annotations.xml", CVAT_TEXT, "CVAT"),
        ("a.json", LABELME_TEXT, "labelme"),
        ("a.json", COCO_TEXT, "COCO"),
        ("boxes.csv", "a,b", "CSV"),
        ("train-annotations-bbox.csv", OPEN_TEXT, "Open Images"),
        ("recipe.yaml", "epochs: 3\n", None),
        ("images.txt", "cat/a.jpg 0\n", None),
    ],
)
def test_a_file_is_recognized(file: str, text: str, name: str | None, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert layout_of(tmp_path / file) == name


def test_a_path_that_is_not_there_has_no_layout(tmp_path: Path) -> None:
    assert layout_of(tmp_path / "nothing") is None
