"""Photographs turned by EXIF: the size in the annotations tells which way their labels were drawn, everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data.annotations.files import coco_layout
from detection.data.coco import CocoDetection
from detection.data.convert import convert
from detection.data.pack import pack
from detection.data.photographs import chosen
from detection.inference.images import pictures_of, root_of
from shared.errors import DataError, UsageError
from shared.feeding.image import limit_pixels

RNG = np.random.default_rng(0)
RED = [255, 0, 0]
BOX = [2, 1, 8, 6]  # x y w h of the red rectangle on the upright picture
TURNS = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def photograph(path: Path, orientation: int = 1, size: tuple[int, int] = (24, 40)) -> None:
    """A picture of an upright (width, height), with BOX in red, stored as a camera held another way stores it."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    x, y, width, height = BOX
    pixels[y : y + height, x : x + width] = RED
    image, turn = Image.fromarray(pixels), TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image if turn is None else image.transpose(turn)).save(path, exif=exif)


def coco(folder: Path, files: dict[str, tuple[int, int]], **entry: Any) -> tuple[Path, Path]:
    """Image folder and a COCO file with a box in each image, whose size is (width, height) of the dict."""
    images = [
        {"id": n, "file_name": name, "width": w, "height": h, **entry} for n, (name, (w, h)) in enumerate(files.items())
    ]
    boxes = [{"id": n + 1, "image_id": n, "category_id": 1, "bbox": BOX, "iscrowd": 0} for n in range(len(files))]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "red"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder, folder / "instances.json"


def is_on_red(data: CocoDetection, index: int) -> bool:
    image, target = data.load(index, RNG)
    x0, y0, x1, y1 = target["boxes"][0].int().tolist()
    inside = image[:, y0:y1, x0:x1].flatten(1).T
    return bool((inside == torch.tensor(RED)).all()) and int((image[0] == 255).sum()) == len(inside)


def folder_of_turned(folder: Path) -> dict[str, tuple[int, int]]:
    """Three turned photographs and a plain one; the size of each when it is upright."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, orientation in (("a.png", 6), ("b.png", 8), ("c.png", 1), ("d.png", 6)):
        photograph(folder / name, orientation)
    return dict.fromkeys(("a.png", "b.png", "c.png", "d.png"), (24, 40))


def test_where_only_the_turned_size_fits_the_picture_is_turned_and_that_is_said_once(tmp_path: Path) -> None:
    data = CocoDetection(*coco(tmp_path, folder_of_turned(tmp_path)))
    assert all(is_on_red(data, n) for n in range(4))
    assert data.notes == ["3 images are turned upright by EXIF, as the size in the annotations says"]
    assert data.photographs.turned.tolist() == [True, True, False, True] and not data.photographs.bad


def test_where_the_stored_size_fits_the_picture_is_as_stored_whatever_the_flags(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png", 6)
    data = CocoDetection(*coco(tmp_path, {"a.png": (40, 24)}))
    assert data.load(0, RNG)[0].shape == (3, 24, 40) and data.notes == []
    data = CocoDetection(*coco(tmp_path, {"a.png": (40, 24)}), turn="upright")
    assert data.load(0, RNG)[0].shape == (3, 24, 40)
    assert data.notes == ["1 image is read as stored, as the size in the annotations says"]


def test_a_size_that_fits_no_way_is_found_before_any_pixel_is_read(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    photograph(tmp_path / "b.png", 6)
    (tmp_path / "c.png").write_bytes(b"no image")
    data = CocoDetection(*coco(tmp_path, {"a.png": (40, 24), "b.png": (20, 40), "c.png": (9, 9)}))
    assert [data.photographs.bad[n] for n in range(3)] == [
        "a.png: is 24x40, but the annotations say 40x24",
        "b.png: is 40x24, but the annotations say 20x40",
        f"{tmp_path}/c.png: not an image of a known format",
    ]
    with pytest.raises(DataError, match=r"3 of the 3 images .*\(a.png: is 24x40, .*correct them$"):
        data.check_usable("correct them")
    with pytest.raises(DataError, match=r"correct them$"):
        data.check_usable("correct them", share=0.5)
    data.check_usable("correct them", share=1.0)
    assert data.notes[-1].endswith("they are skipped")


@pytest.mark.parametrize(("orientation", "size"), [(3, (24, 40)), (6, (40, 40))])
def test_where_the_size_does_not_tell_the_flags_do_and_the_default_is_as_stored(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    photograph(tmp_path / "a.png", orientation, size)
    place = coco(tmp_path, {"a.png": size})
    for turn, words in (
        ("auto", "read as stored; --upright turns"),
        ("stored", "by --as-stored"),
        ("upright", "turned"),
    ):
        data = CocoDetection(*place, turn=turn)  # type: ignore[arg-type]
        assert is_on_red(data, 0) == (turn == "upright")
        assert len(data.notes) == 1 and data.notes[0].startswith("1 image has an EXIF") and words in data.notes[0]
    assert CocoDetection(*place).fingerprint != CocoDetection(*place, turn="upright").fingerprint


def test_an_entry_that_says_upright_needs_no_flag(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png", 3)
    data = CocoDetection(*coco(tmp_path, {"a.png": (24, 40)}, upright=True))
    assert is_on_red(data, 0) and data.notes == []
    data = CocoDetection(*coco(tmp_path, {"a.png": (24, 40)}, upright=False), turn="upright")
    assert not is_on_red(data, 0)
    with pytest.raises(DataError, match='image 0 has the upright "yes"; it can be true or false'):
        CocoDetection(*coco(tmp_path, {"a.png": (24, 40)}, upright="yes"))


def test_both_flags_contradict_each_other() -> None:
    assert [chosen(upright=u, as_stored=s) for u, s in ((False, False), (True, False), (False, True))] == [
        "auto",
        "upright",
        "stored",
    ]
    with pytest.raises(UsageError, match="contradict each other; give one"):
        chosen(upright=True, as_stored=True)


# -- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [3, 6])
def test_shards_are_turned_as_the_folder_was_without_a_flag(tmp_path: Path, orientation: int) -> None:
    (tmp_path / "in").mkdir()
    photograph(tmp_path / "in/a.png", orientation)
    photograph(tmp_path / "in/b.png")
    place = coco(tmp_path / "in", dict.fromkeys(("a.png", "b.png"), (24, 40)))
    packed = pack(*place, tmp_path / "out", turn="upright")
    assert any("turned" in note for note in packed.notes)
    for _ in range(2):  # once indexed, once read from the index
        data = CocoDetection(tmp_path / "out", None)
        assert is_on_red(data, 0) and is_on_red(data, 1)


def test_packing_tells_which_sizes_disagree(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photograph(tmp_path / "in/a.png")
    packed = pack(*coco(tmp_path / "in", {"a.png": (40, 24)}), tmp_path / "out")
    assert "1 of the 1 images" in packed.notes[-1] and "is 24x40, but the annotations say 40x24" in packed.notes[-1]
    assert list(CocoDetection(tmp_path / "out", None).photographs.bad) == [0]


# -- one JSON for each image ----------------------------------------------------------------------


def custom(root: Path, orientation: int, size: tuple[int, int] = (24, 40), **words: Any) -> Path:
    for name in ("images", "annotations"):
        (root / "train" / name).mkdir(parents=True, exist_ok=True)
    photograph(root / "train/images/a.png", orientation, size)
    x, y, width, height = BOX
    content = {"bboxes": [[x, y, x + width, y + height]], **words}
    (root / "train/annotations/a.json").write_text(json.dumps(content))
    return root


CASES: dict[str, tuple[int, dict[str, Any], str]] = {
    "its size tells": (6, {"width": 24, "height": 40}, "auto"),
    "a box that fits no other way": (6, {"bboxes": [[2, 1, 10, 7], [2, 30, 10, 39]]}, "auto"),
    "the flag": (3, {}, "upright"),
}


@pytest.mark.parametrize("case", CASES)
def test_own_annotations_and_what_is_converted_from_them_are_turned_alike(tmp_path: Path, case: str) -> None:
    orientation, words, turn = CASES[case]
    source = custom(tmp_path / "custom", orientation, **words)
    data = CocoDetection(*coco_layout(source, "train", "custom"), turn=turn)  # type: ignore[arg-type]
    assert is_on_red(data, 0) and data.height_width(0) == (40, 24) and "turned" in data.notes[0]
    told = convert(("custom", "coco"), source, tmp_path / "out", turn=turn)  # type: ignore[arg-type]
    assert any("1 image" in line and "turned" in line for line in told.lines())
    assert is_on_red(CocoDetection(*coco_layout(tmp_path / "out", "train")), 0)


def test_own_annotations_without_a_size_are_as_stored_and_that_is_said(tmp_path: Path) -> None:
    data = CocoDetection(*coco_layout(custom(tmp_path, 6), "train", "custom"))
    assert data.height_width(0) == (24, 40) and not is_on_red(data, 0)
    assert "no size): read as stored; --upright turns them" in data.notes[0]


# -- predict --------------------------------------------------------------------------------------


def test_predict_turns_as_the_size_in_the_coco_file_says_or_refuses(tmp_path: Path) -> None:
    folder, file = coco(tmp_path, folder_of_turned(tmp_path))
    seen = list(pictures_of([str(folder)], file))
    assert [image.pixels.shape for image in seen] == [(3, 40, 24)] * 4 and {image.upright for image in seen} == {None}
    coco(tmp_path, {"a.png": (40, 24), "c.png": (40, 24)})
    with pytest.raises(DataError, match=r"1 of the 2 images .*c.png: is 24x40, .*would be in other pixels"):
        list(pictures_of([str(folder)], file))


def test_predict_skips_what_is_too_large_with_the_flag_in_the_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photograph(tmp_path / "a.png")
    photograph(tmp_path / "b.png", size=(30, 40))
    place = coco(tmp_path, {"a.png": (24, 40), "b.png": (30, 40)})
    try:
        limit_pixels(1000)
        assert [image.path.name for image in pictures_of([str(place[0])], place[1])] == ["a.png"]
        assert "over the limit of 0.001 megapixels; --max-pixels 1200 allows it" in caplog.text
    finally:
        limit_pixels(None)


def test_predict_turns_files_unless_told_not_to_and_says_which(tmp_path: Path) -> None:
    folder_of_turned(tmp_path)
    seen = list(pictures_of([str(tmp_path)], None))
    assert [image.pixels.shape for image in seen] == [(3, 40, 24)] * 4
    assert [image.upright for image in seen] == [True, True, None, True]
    seen = list(pictures_of([str(tmp_path)], None, turn="stored"))
    assert [image.pixels.shape for image in seen] == [(3, 24, 40), (3, 24, 40), (3, 40, 24), (3, 24, 40)]
    assert [image.upright for image in seen] == [False, False, None, False]


def test_predict_reads_links_and_skips_what_is_hidden(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("elsewhere", "folder", "folder/.thumbnails", "folder/.ipynb_checkpoints"):
        (tmp_path / name).mkdir()
    photograph(tmp_path / "elsewhere/a.png")
    (tmp_path / "folder/b.png").symlink_to("../elsewhere/a.png")
    (tmp_path / "folder/sub").symlink_to("../elsewhere")
    (tmp_path / "folder/circle").symlink_to("../folder")
    for name in (".thumbnails/a.png", ".ipynb_checkpoints/a-checkpoint.png", "._b.png"):
        photograph(tmp_path / "folder" / name)
    (tmp_path / "folder/c.HEIC").write_bytes(b"heic")
    with caplog.at_level("INFO"):
        seen = list(pictures_of([str(tmp_path / "folder")], None))
    root = root_of([str(tmp_path / "folder")])
    assert [image.path.relative_to(root).as_posix() for image in seen] == ["b.png", "sub/a.png"]
    assert f"3 hidden images in {tmp_path}/folder skipped" in caplog.text and "1 image in" in caplog.text
    (tmp_path / "empty/.cache").mkdir(parents=True)
    photograph(tmp_path / "empty/.cache/a.png")
    with pytest.raises(DataError, match=r"empty contains no images \(1 hidden image .*\); give a folder"):
        list(pictures_of([str(tmp_path / "empty")], None))
