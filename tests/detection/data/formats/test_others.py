"""labelme, CVAT, Open Images and Roboflow: every kind of shape, groups, splits, and what is wrong with them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations.files import coco_layout
from detection.data.coco import CocoDetection
from detection.data.convert import convert
from detection.data.formats.records import Asked
from detection.data.masks.rle import coco_mask
from shared.errors import DataError
from tests.detection.data.formats.of_formats import ROW, boxes, corners, cvat, files, photograph, shapes, to_coco, xml

CELL = ("a.jpg", "cell", [2, 4, 20, 10])
BOX = {"label": "cell", "shape_type": "rectangle", "points": [[22, 14], [2, 4]]}
CVAT_BOX = '<box label="cell" xtl="2" ytl="4" xbr="22" ybr="14" occluded="0"/>'
TABLE = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
OPEN = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"


def shape(kind: str, *points: tuple[float, float], label: str = "cell", **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points], **more}


def labelme(root: Path, *told: dict[str, Any], **more: Any) -> Path:
    return files(root, {"a.jpg": "", "a.json": shapes("..\\photos\\a.jpg", *(told or (BOX,)), **more)})


def of_cvat(root: Path, *told: str, image: str = 'name="a.jpg"', labels: str | None = None) -> Path:
    entry = f'<image id="0" {image} width="64" height="48">{"".join(told or (CVAT_BOX,))}</image>'
    return files(root, {"images/a.jpg": "", "annotations.xml": cvat(entry, *([labels] if labels else []))})


def png(pixels: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def test_labelme_shapes(tmp_path: Path) -> None:
    inside = np.array([[0, 255, 255], [255, 255, 0]], np.uint8)
    told = (
        BOX,
        shape("circle", (30, 20), (34, 23)),
        shape("polygon", (1, 1), (9, 1), (9, 9), label="traffic cone", group_id=1),
        shape("polygon", (20, 20), (29, 20), (29, 30), label="traffic cone", group_id=1),
        shape("mask", (10, 20), (12, 21), mask=png(inside)),
        shape("point", (3, 3)),
        shape("linestrip", (3, 3), (4, 4)),
    )
    found = to_coco("labelme", labelme(tmp_path / "set", *told, imageData="not read, since the image is there"))
    box, circle, cone, mask = found["annotations"]
    assert boxes(found)[0] == CELL and "segmentation" not in box
    assert circle["bbox"] == [25, 15, 10, 10] and circle["area"] == pytest.approx(78.5, rel=0.05)
    assert cone["bbox"] == [1, 1, 28, 29] and len(cone["segmentation"]) == 2
    assert mask["bbox"] == [10, 20, 3, 2] and mask["area"] == 4
    assert (coco_mask.decode(mask["segmentation"])[20:22, 10:13] == (inside > 0)).all()
    assert [note for note in found["notes"] if "left out" in note] == [
        "1 linestrip left out: a COCO file has no such thing",
        "1 point left out: a COCO file has no such thing",
    ]


def test_labelme_splits_other_json_files_and_images_without_one(tmp_path: Path) -> None:
    texts = {
        "train/a.jpg": "",
        "train/a.json": shapes("a.jpg", BOX),
        "val/b.jpg": "",
        "val/b.json": shapes("b.jpg", BOX),
    }
    found = to_coco("labelme", files(tmp_path / "set", {**texts, "train/c.jpg": "", "about.json": "{}"}))
    assert found["splits"] == {"train": 2, "val": 1} and boxes(found) == [CELL]
    assert {"1 other JSON file not read", "1 image without a label file kept as background, without objects"} <= {
        *found["notes"]
    }


@pytest.mark.parametrize(
    ("told", "more", "sentence"),
    [
        ([shape("polygon", (1, 1), (2, 2))], {}, r"a.json, shape 1 \(polygon\), has 2 points; a polygon has 3"),
        ([shape("banana", (1, 1), (2, 2))], {}, "is of a kind that is not known here"),
        ([{**BOX, "points": [["1", 2], [3, 4]]}], {}, r'has \["1", 2\] where a point \[x, y\] belongs'),
        ([{**BOX, "label": None}], {}, "has no label; add it"),
        ([shape("mask", (1, 1), (2, 2), mask="no")], {}, "has a mask that is not a readable PNG"),
        ([BOX], {"imageWidth": 640}, "a.jpg: is 64x48, but the annotations say 640x48"),
    ],
)
def test_labelme_faults(tmp_path: Path, told: list[Any], more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        to_coco("labelme", labelme(tmp_path / "set", *told, **more))


def test_labelme_images_that_are_inside_the_json_alone(tmp_path: Path) -> None:
    source = labelme(tmp_path / "set", BOX, imageData="aGVsbG8=")
    (source / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"has its image inside \(imageData\) alone; write it beside the file first"):
        to_coco("labelme", source)
    (source / "a.json").write_text(shapes("a.jpg", BOX)[:-30])
    with pytest.raises(DataError, match=r"a.json is not readable JSON .*truncated"):
        to_coco("labelme", source)


def test_cvat_shapes(tmp_path: Path) -> None:
    skeleton = (
        "<label><name>cell</name></label><label><name>hand</name><type>skeleton</type></label>"
        "<label><name>thumb</name><type>points</type><parent>hand</parent></label>"
        "<label><name>tip</name><type>points</type><parent>hand</parent></label>"
    )
    told = (
        CVAT_BOX,
        '<box label="cell" xtl="10" ytl="18" xbr="20" ybr="22" rotation="90.0"/>',
        '<polygon label="cell" points="1.5,1;9,1;9,9" group_id="3"/>',
        '<polygon label="cell" points="2,2;5,2;5,5" group_id="3"/>',
        '<mask label="cell" rle="1, 2, 2, 1" left="10" top="20" width="3" height="2"/>',
        '<ellipse label="cell" cx="30" cy="20" rx="10" ry="5"/>',
        '<skeleton label="hand"><points label="tip" outside="0" occluded="1" points="5,6"/>'
        '<points label="thumb" outside="0" occluded="0" points="9,8"/></skeleton>',
        '<polyline label="cell" points="1,1;2,2"/><points label="cell" points="3,3"/>',
    )
    found = to_coco("cvat", of_cvat(tmp_path / "set", *told, labels=skeleton))
    box, turned, two, mask, round_, hand = found["annotations"]
    assert box["bbox"] == [2, 4, 20, 10] and turned["bbox"] == pytest.approx([13, 15, 4, 10])
    assert len(two["segmentation"]) == 2 and two["bbox"] == [1.5, 1, 7.5, 8]
    assert mask["bbox"] == [11, 20, 2, 2] and mask["area"] == 3
    assert (coco_mask.decode(mask["segmentation"])[20:22, 10:13] == [[0, 1, 1], [0, 0, 1]]).all()
    assert round_["bbox"] == pytest.approx([20, 15, 20, 10])
    assert hand["keypoints"] == [9, 8, 2, 5, 6, 1] and hand["bbox"] == [5, 6, 4, 2]
    assert found["categories"][1]["keypoints"] == ["thumb", "tip"]
    assert sum("left out" in note for note in found["notes"]) == 2
    assert any(note.startswith("1 turned box kept as the box around its corners") for note in found["notes"])


def test_a_box_and_outlines_of_one_group_are_one_object_and_two_boxes_are_not(tmp_path: Path) -> None:
    box = '<box label="cell" xtl="{}" ytl="4" xbr="22" ybr="14" group_id="{}"/>'
    outline = '<polygon label="cell" points="3,5;9,5;9,9" group_id="1"/>'
    source = of_cvat(tmp_path / "set", box.format(2, 1), outline, box.format(4, 2), box.format(6, 2))
    (source / "annotations.xml").rename(source / "train.xml")
    photograph(source / "images/b.jpg", 3)
    (source / "val.xml").write_text((source / "train.xml").read_text().replace("a.jpg", "b.jpg"))
    found = to_coco("cvat", source)
    assert [entry["bbox"][0] for entry in found["annotations"]] == [2, 4, 6] and found["splits"] == {
        "train": 1,
        "val": 1,
    }
    assert found["annotations"][0]["segmentation"] == [[3, 5, 9, 5, 9, 9]]


def test_cvat_subsets_and_labels_that_are_not_used_keep_their_place(tmp_path: Path) -> None:
    found = to_coco("cvat", of_cvat(tmp_path / "set", image='name="photos/a.jpg" subset="Validation"'), split="val")
    assert found["splits"] == {"val": 1} and [c["name"] for c in found["categories"]] == ["cell", "traffic cone"]


@pytest.mark.parametrize(
    ("told", "image", "sentence"),
    [
        ('<box label="cell" xtl="a" ytl="4" xbr="22" ybr="14"/>', 'name="a.jpg"', "box 'cell', xtl has 'a' where"),
        ('<box label="cell" xtl="30" ytl="4" xbr="22" ybr="14"/>', 'name="a.jpg"', "has a right side left of its left"),
        (
            '<box label="dog" xtl="2" ytl="4" xbr="22" ybr="14"/>',
            'name="a.jpg"',
            "class 'dog', which the list of labels",
        ),
        ('<polygon label="cell" points="1,1;9"/>', 'name="a.jpg"', "has points that are no pairs x,y"),
        ('<mask label="cell" rle="1,2" left="1" top="2" width="3" height="2"/>', 'name="a.jpg"', "do not fill its"),
        (CVAT_BOX, 'name="b.jpg"', "has 1 image that is not there, such as b.jpg; copy the rest"),
        ("</image><track/><image>", 'name="a.jpg"', "is about a video"),
    ],
)
def test_cvat_faults(tmp_path: Path, told: str, image: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        to_coco("cvat", of_cvat(tmp_path / "set", told, image=image))


def test_open_images(tmp_path: Path) -> None:
    rows = "a,x,/m/1,1,0.25,0.5,0.5,0.75,0,0,0\na,x,/m/2,1,0,1,0,1,0,0,1\nz,x,/m/1,1,0,1,0,1,0,0,0\n"
    texts = {
        "train-annotations-bbox.csv": OPEN + rows,
        "validation-annotations-bbox.csv": OPEN + "b,x,/m/1,1,0,1,0,1,0,0,0\n",
        "class-descriptions-boxable.csv": "/m/1,Cell\n/m/2,Traffic cone\n/m/3,Zebra\n",
        "train/a.jpg": "",
        "validation/b.jpg": "",
    }
    found = to_coco("openimages", files(tmp_path / "set", texts))
    assert boxes(found) == [("a.jpg", "Cell", [16, 24, 16, 12]), ("a.jpg", "Traffic cone", [0, 0, 64, 48])]
    assert [entry["iscrowd"] for entry in found["annotations"]] == [0, 1] and found["splits"] == {"train": 1, "val": 1}
    assert "train: 1 of 2 images of the CSV are there" in found["notes"]
    for bad, sentence in (
        ("a,x,/m/1,1,0.25\n", "line 2, is cut off"),
        ("a,x,/m/1,1,9,10,0,1,0,0,0\n", "it goes from 0"),
    ):
        (tmp_path / "set/train-annotations-bbox.csv").write_text(OPEN + bad)
        with pytest.raises(DataError, match=sentence):
            to_coco("openimages", tmp_path / "set")


def roboflow_coco(root: Path) -> dict[str, Any]:
    entry = {"id": 0, "image_id": 0, "category_id": 1, "bbox": [2, 4, 20, 10], "area": 200, "iscrowd": 0}
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "cell", "supercategory": "cells"},
    ]
    images = [{"id": 0, "file_name": "a.jpg", "height": 48, "width": 64}]
    return {"images": images, "annotations": [entry], "categories": categories}


@pytest.mark.parametrize("kind", ["yolo", "voc", "csv", "coco"])
def test_roboflow_in_every_format(tmp_path: Path, kind: str) -> None:
    row = "0 0.1875 0.1875 0.3125 0.20833333333333334\n"
    texts: dict[str, dict[str, str]] = {
        "yolo": {"data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cell']\n"},
        "voc": {},
        "csv": {},
        "coco": {},
    }
    for split in ("train", "valid"):
        texts["yolo"] |= {f"{split}/images/a.jpg": "", f"{split}/labels/a.txt": row}
        texts["voc"] |= {f"{split}/a.jpg": "", f"{split}/a.xml": xml("a.jpg", corners(3, 5, 22, 14))}
        texts["csv"] |= {f"{split}/a.jpg": "", f"{split}/_annotations.csv": TABLE + "a.jpg,64,48,cell,2,4,22,14\n"}
        texts["coco"] |= {f"{split}/a.jpg": "", f"{split}/_annotations.coco.json": json.dumps(roboflow_coco(tmp_path))}
    found = to_coco("roboflow", files(tmp_path / "set", texts[kind]))
    assert found["splits"] == {"train": 1, "val": 1} and boxes(found) == [CELL]
    assert found["categories"] == [{"id": 1, "name": "cell"}]


def test_roboflow_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has nothing that Roboflow writes"):
        to_coco("roboflow", files(tmp_path / "set", {"a.jpg": ""}))
    files(tmp_path / "set", {"_annotations.csv": TABLE + "a.jpg,64,48,cell,2,4\n"})
    with pytest.raises(DataError, match="line 2, is cut off"):
        to_coco("roboflow", tmp_path / "set")


Make = Callable[[Path], Path]
SAMPLES: dict[str, Make] = {
    "cvat": of_cvat,
    "labelme": labelme,
    "voc": lambda root: files(root, {"train/a.jpg": "", "train/a.xml": xml("a.jpg", corners(3, 5, 22, 14))}),
    "yolo": lambda root: files(root, {"train/images/a.jpg": "", "train/labels/a.txt": ROW, "classes.txt": "cell\n"}),
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_images_may_be_apart_and_are_never_touched(tmp_path: Path, kind: str) -> None:
    source = SAMPLES[kind](tmp_path / "labels")
    image = next(source.rglob("*.jpg"))
    before = (image.read_bytes(), image.stat().st_mtime_ns)
    apart = photograph(tmp_path / "photos" / "a.jpg", 5)
    image.rename(tmp_path / "kept.jpg")
    if kind == "yolo":
        (source / "train/labels/a.txt").rename(source / "a.txt")
    found = to_coco(kind, source, Asked(images=tmp_path / "photos"))
    assert len(found["annotations"]) == 1 and (found["out"] / "train" / "a.jpg").resolve() == apart.resolve()
    assert ((tmp_path / "kept.jpg").read_bytes(), (tmp_path / "kept.jpg").stat().st_mtime_ns) == before
    assert len(CocoDetection(*coco_layout(found["out"], "train"))) == 1


def test_nothing_is_overwritten_and_equal_kinds_are_refused(tmp_path: Path) -> None:
    source = of_cvat(tmp_path / "set")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="out already exists"):
        convert(("cvat", "coco"), source, tmp_path / "out")
    with pytest.raises(DataError, match="inside is in .*set, where nothing is written; give a folder beside it"):
        convert(("cvat", "coco"), source, source / "inside")
    with pytest.raises(ValueError, match="there is nothing to convert"):
        convert(("coco", "coco"), source, tmp_path / "new")
