"""Pascal VOC: where a box begins, which image an XML means, splits, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detection.data.convert import convert
from detection.data.formats.records import Asked
from shared.errors import DataError
from tests.detection.data.formats.of_formats import boxes, corners, files, photograph, to_coco, xml

WHOLE = corners(1, 1, 64, 48)  # as VOC counts


def voc(root: Path, *objects: dict[str, Any], **more: str) -> Path:
    texts = {"JPEGImages/a.jpg": "", "Annotations/a.xml": xml("a.jpg", *(objects or (WHOLE,)))}
    return files(root, texts | {name.replace("__", "/"): text for name, text in more.items()})


def test_pixels_count_from_one_as_in_voc_and_the_last_one_belongs_to_the_box(tmp_path: Path) -> None:
    found = to_coco("voc", voc(tmp_path / "set", WHOLE, corners(5, 3, 5, 3, name="traffic cone")))
    assert boxes(found) == [("a.jpg", "cell", [0, 0, 64, 48]), ("a.jpg", "traffic cone", [4, 2, 1, 1])]
    assert any("from pixel 1, the last pixel of a box is xmax: no coordinate is below 1" in n for n in found["notes"])


def test_a_coordinate_below_one_tells_that_the_first_pixel_is_zero(tmp_path: Path) -> None:
    source = voc(tmp_path / "set", corners(0, 0, 64, 48), corners(2, 2, 4, 4))
    found = to_coco("voc", source)
    assert [box for _, _, box in boxes(found)] == [[0, 0, 64, 48], [2, 2, 2, 2]]
    assert any("from pixel 0" in note and "a.xml has the coordinate 0" in note for note in found["notes"])
    assert boxes(to_coco("voc", source, first_pixel="1"))[1][2] == [1, 1, 3, 3]


def test_difficult_objects_are_crowds_unless_they_are_to_be_objects(tmp_path: Path) -> None:
    source = voc(tmp_path / "set", WHOLE, corners(2, 2, 9, 9, difficult=1))
    assert [entry["iscrowd"] for entry in to_coco("voc", source)["annotations"]] == [0, 1]
    assert [entry["iscrowd"] for entry in to_coco("voc", source, difficult="object")["annotations"]] == [0, 0]


def test_lists_tell_the_splits_and_what_is_background(tmp_path: Path) -> None:
    source = voc(
        tmp_path / "set",
        Annotations__b_xml="",
        ImageSets__Main__train_txt="",
    )
    for name in ("Annotations/b_xml", "ImageSets/Main/train_txt"):
        (source / name).unlink()
    for seed, name in enumerate("bcd", 1):
        photograph(source / f"JPEGImages/{name}.jpg", seed)
    (source / "Annotations/b.xml").write_text(xml("b.jpg", WHOLE))
    for split, ids in (("train", "a\nc\n"), ("val", "b\n"), ("test", "1\n2\n")):
        (source / f"ImageSets/Main/{split}.txt").write_text(ids)
    found = to_coco("voc", source)
    assert found["splits"] == {"train": 2, "val": 1} and [i["file_name"] for i in found["images"]] == ["a.jpg", "c.jpg"]
    assert "1 image without a label file kept as background, without objects" in found["notes"]
    (source / "ImageSets/Main/val.txt").write_text("b\ne\n")
    with pytest.raises(DataError, match="val.txt has 1 image that is not there, such as e; copy the rest"):
        to_coco("voc", source)


def test_folders_of_splits_and_names_that_differ_from_the_file(tmp_path: Path) -> None:
    told = {"train/a.jpg": "", "train/a.xml": xml("C:\\elsewhere\\a.jpg", WHOLE), "valid/a.jpg": ""}
    source = files(tmp_path / "set", told | {"valid/a.xml": xml("00001", WHOLE)})
    assert to_coco("voc", source)["splits"] == {"train": 1, "val": 1}


def test_a_size_of_zero_is_none_and_a_turned_photograph_is_known_by_its_size(tmp_path: Path) -> None:
    source = voc(tmp_path / "set")
    (source / "Annotations/a.xml").write_text(xml("a.jpg", WHOLE, size=(0, 0)))
    assert to_coco("voc", source)["images"][0]["width"] == 64
    (source / "Annotations/a.xml").write_text(xml("a.jpg", corners(2, 2, 9, 60), size=(48, 64)))
    with pytest.raises(DataError, match="a.jpg: is 64x48, but the annotations say 48x64"):
        to_coco("voc", source)
    photograph(source / "JPEGImages/a.jpg", orientation=8)
    found = to_coco("voc", source)
    assert found["images"][0]["width"] == 48 and any("turned upright by EXIF" in note for note in found["notes"])


def test_outlines_and_turned_boxes(tmp_path: Path) -> None:
    source = voc(tmp_path / "set")
    outline = "".join(f"<x{k}>{x}</x{k}><y{k}>{y}</y{k}>" for k, (x, y) in enumerate([(3, 3), (9, 3), (9, 7)], 1))
    turned = "<robndbox><cx>20</cx><cy>20</cy><w>10</w><h>4</h><angle>1.5707963267948966</angle></robndbox>"
    text = xml("a.jpg", corners(3, 3, 8, 6))
    text = text.replace("</bndbox>", f"</bndbox><polygon>{outline}</polygon>")
    text = text.replace("</annotation>", f"<object><name>cell</name>{turned}</object></annotation>")
    (source / "Annotations/a.xml").write_text(text)
    first, second = to_coco("voc", source, first_pixel="0")["annotations"]
    assert first["segmentation"] == [[3, 3, 9, 3, 9, 7]] and first["bbox"] == [3, 3, 5, 3]
    assert second["bbox"] == pytest.approx([18, 15, 4, 10]) and len(second["segmentation"][0]) == 8


def text_in_place_of(old: str, new: str) -> Callable[[Path], object]:
    file = "Annotations/a.xml"
    return lambda root: (root / file).write_text((root / file).read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (text_in_place_of("<xmin>1</xmin>", "<xmin>left</xmin>"), "object 'cell', xmin has 'left' where a number"),
        (text_in_place_of("<xmin>1</xmin>", ""), "xmin has '' where a number belongs"),
        (text_in_place_of("<xmin>1</xmin>", "<xmin>70</xmin>"), "has the box 70 1 64 48, whose max is below its min"),
        (text_in_place_of("<name>cell</name>", "<name> </name>"), "has an object without a name"),
        (text_in_place_of("bndbox>", "box>"), "object 'cell', has no bndbox"),
        (text_in_place_of("</annotation>", ""), "a.xml is not readable XML .*truncated"),
        (text_in_place_of("annotation>", "recipe>"), "it has <recipe> where <annotation> belongs"),
        (lambda root: (root / "JPEGImages/a.jpg").unlink(), "has 1 label file without an image"),
        (lambda root: (root / "Annotations/b.xml").write_text(xml("a.jpg", WHOLE)), "b.xml both label .*a.jpg"),
        (lambda root: (root / "Annotations/a.xml").unlink(), "has no XML files"),
        (lambda root: photograph(root / "more/a.jpg"), "may mean .*a.jpg or .*a.jpg; give images different names"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    source = voc(tmp_path / "set")
    spoil(source)
    with pytest.raises(DataError, match=sentence) as told:
        convert(("voc", "coco"), source, tmp_path / "out")
    assert "\n" not in str(told.value) and not (tmp_path / "out").exists()


def test_classes_are_sorted_or_in_the_order_that_is_given(tmp_path: Path) -> None:
    source = voc(tmp_path / "set", WHOLE, corners(2, 2, 9, 9, name="ant"))
    assert [c["name"] for c in to_coco("voc", source)["categories"]] == ["ant", "cell"]
    found = to_coco("voc", source, Asked(classes=("cell", "ant", "bee")))
    assert [c["name"] for c in found["categories"]] == ["cell", "ant", "bee"]
    with pytest.raises(
        DataError, match=r"a.xml has the class 'ant', which --class-file has not, did you mean 'ants'\?"
    ):
        to_coco("voc", source, Asked(classes=("cell", "ants")))


def test_what_cvat_and_labelmes_web_tool_write(tmp_path: Path) -> None:
    source = voc(tmp_path / "set", corners(2, 2, 9, 9), SegmentationObject__a_png="")
    (source / "SegmentationObject/a_png").unlink()
    photograph(source / "SegmentationObject/a.png", 9)
    (source / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nzebra:1,0,0::\ncell:::\n"
    )
    found = to_coco("voc", source)
    assert boxes(found) == [("a.jpg", "cell", [2, 2, 7, 7])] and len(found["images"]) == 1
    assert [c["name"] for c in found["categories"]] == ["zebra", "cell"]
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in [(0.5, 3), (9, 3), (9, 7)])
    shape = "<object><name>cell</name><deleted>{}</deleted><polygon>{}</polygon></object>"
    entries = shape.format(0, points) + shape.format(1, points)
    size = "<imagesize><nrows>48</nrows><ncols>64</ncols></imagesize>"
    (source / "Annotations/a.xml").write_text(f"<annotation><filename>a.jpg</filename>{size}{entries}</annotation>")
    assert boxes(to_coco("voc", source)) == [("a.jpg", "cell", [0.5, 3, 8.5, 4])]


def test_boxes_over_the_edge_and_without_area_are_kept_and_said(tmp_path: Path) -> None:
    found = to_coco("voc", voc(tmp_path / "set", WHOLE, corners(50, 3, 70, 9), corners(9, 3, 8, 9)))
    assert [box for _, _, box in boxes(found)][1:] == [[49, 2, 21, 7], [8, 2, 0, 7]]
    assert [note.partition(",")[0] for note in found["notes"][-2:]] == ["1 box over the edge", "1 box without area"]
