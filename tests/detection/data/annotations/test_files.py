"""Where photographs lie: as the file says, as Objects365 is unpacked, or nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations.files import coco_layout, find_photographs
from detection.data.coco import CocoDetection
from shared.errors import DataError
from tests.detection.data.of_objects365 import NAMES, objects365


@pytest.mark.parametrize("keep", [3, 1, 0], ids=["as the JSON says", "in their patch", "in one folder"])
def test_objects365_is_found_however_it_was_unpacked(tmp_path: Path, keep: int) -> None:
    annotations = objects365(tmp_path)
    for number, name in enumerate(NAMES):
        place = tmp_path / "images" / Path(*Path(name).parts[-1 - keep :])
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 100, 0, 0)).save(place)
    data = CocoDetection(tmp_path / "images", annotations)
    assert len(data) == len(NAMES)
    reds = [int(data.load(i, np.random.default_rng(0))[0][0, 0, 0]) for i in range(len(NAMES))]
    assert reds == pytest.approx([0, 100, 200], abs=3)
    told = [note for note in data.notes if "another folder" in note]
    assert told == ([] if keep == 3 else ["3 images are in another folder than the annotations say"])


def test_where_a_name_lies_twice_the_place_it_names_goes_first(tmp_path: Path) -> None:
    annotations = objects365(tmp_path)
    for place in (NAMES[0], f"patch0/{Path(NAMES[0]).name}", NAMES[1], NAMES[2]):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(tmp_path / place)
    data = CocoDetection(tmp_path, annotations)
    assert data.path(0) == tmp_path / NAMES[0]


def test_where_it_was_unpacked_does_not_change_the_fingerprint(tmp_path: Path) -> None:
    prints = []
    for folder, keep in (("a", 3), ("b", 0)):
        annotations = objects365(tmp_path)
        for name in NAMES:
            place = tmp_path / folder / Path(*Path(name).parts[-1 - keep :])
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30)).save(place)
        prints.append(CocoDetection(tmp_path / folder, annotations).fingerprint)
    assert prints[0] == prints[1]


def test_two_images_are_never_taken_for_the_one_file_that_lies_there(tmp_path: Path) -> None:
    content = json.loads(objects365(tmp_path).read_text())
    content["images"][1]["file_name"] = "images/v2/patch16/" + Path(NAMES[0]).name
    (tmp_path / "odd.json").write_text(json.dumps(content))
    for name in (NAMES[0], NAMES[2]):
        Image.new("RGB", (40, 30)).save(tmp_path / Path(name).name)
    with pytest.raises(DataError, match=r"2 of the 3 images"):
        CocoDetection(tmp_path, tmp_path / "odd.json")


def test_the_first_ten_misses_are_named_and_no_more(tmp_path: Path) -> None:
    content = json.loads(objects365(tmp_path).read_text())
    content["images"] = [{**content["images"][0], "id": n, "file_name": f"patch1/{n}.jpg"} for n in range(1, 15)]
    (tmp_path / "gone.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"14 of the 14 images .* such as patch1/1\.jpg, .*, patch1/10\.jpg; "):
        CocoDetection(tmp_path, tmp_path / "gone.json")


def test_the_list_that_comes_with_the_recipes_names_images_as_the_json_does(tmp_path: Path) -> None:
    content = json.loads(objects365(tmp_path).read_text())
    lines = (Path(__file__).parents[4] / "recipes/classes/objects365_ignore.txt").read_text().split()
    content["images"] += [{**content["images"][0], "id": 90 + n, "file_name": name} for n, name in enumerate(lines)]
    (tmp_path / "more.json").write_text(json.dumps(content))
    for name in NAMES:
        Image.new("RGB", (40, 30)).save(tmp_path / Path(name).name)
    (tmp_path / "ignore.txt").write_text("\n".join(lines))
    data = CocoDetection(tmp_path, tmp_path / "more.json", ignore_file=tmp_path / "ignore.txt")
    assert len(lines) == 3 and len(data) == 3 and data.notes[0].startswith("3 images are listed in")


def test_dirty_names_are_kept_and_matched(tmp_path: Path) -> None:
    """Trailing spaces and case, as in the JSON; a class file has neither."""
    from detection.data.annotations.classes import ClassMap

    (tmp_path / "classes.txt").write_text("formula 1\ncigar/cigarette\nmoniter/tv\n")
    for name in NAMES:
        Image.new("RGB", (40, 30)).save(tmp_path / Path(name).name)
    data = CocoDetection(tmp_path, objects365(tmp_path), classes=ClassMap.from_file(tmp_path / "classes.txt"))
    assert [data.target(i)["labels"].tolist() for i in range(3)] == [[1], [0], [2]]
    assert CocoDetection(tmp_path, objects365(tmp_path)).classes.names[0] == "Cigar/Cigarette "


def test_finding_asks_each_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from detection.data.annotations.coco_json import read_coco

    annotations = objects365(tmp_path)
    for name in NAMES:
        Image.new("RGB", (40, 30)).save(tmp_path / Path(name).name)
    asked: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (asked.append(str(path)), real(path))[1])
    find_photographs(read_coco(annotations), tmp_path, 0)
    assert asked == [f"{tmp_path}"] or len(asked) == len(set(asked)) == 1


# -- names as Windows writes them -------------------------------------------------------------------


def windows(folder: Path, change: dict[str, str]) -> CocoDetection:
    content = json.loads(objects365(folder).read_text())
    for image in content["images"]:
        image["file_name"] = change.get(image["file_name"], image["file_name"].replace("/", "\\"))
    (folder / "windows.json").write_text(json.dumps(content))
    return CocoDetection(folder / "images", folder / "windows.json")


@pytest.mark.parametrize("keep", [3, 1, 0], ids=["as the JSON says", "in their patch", "in one folder"])
def test_backslashes_between_folders_are_slashes(tmp_path: Path, keep: int) -> None:
    for number, name in enumerate(NAMES):
        place = tmp_path / "images" / Path(*Path(name).parts[-1 - keep :])
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (number * 100, 0, 0)).save(place)
    data = windows(tmp_path, {})
    reds = [int(data.load(i, np.random.default_rng(0))[0][0, 0, 0]) for i in range(len(NAMES))]
    assert reds == pytest.approx([0, 100, 200], abs=3)
    told = [note for note in data.notes if "folder" in note]
    moved = ["3 images are in another folder than the annotations say"]
    assert told == (["3 file names have \\ between folders, read as /"] if keep == 3 else moved)


def test_a_backslash_that_belongs_to_a_name_stays(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, name in enumerate(("odd\\name.jpg", *(Path(name).name for name in NAMES[1:]))):
        Image.new("RGB", (40, 30), (number * 100, 0, 0)).save(tmp_path / "images" / name)
    data = windows(tmp_path, {NAMES[0]: "odd\\name.jpg"})
    assert data.path(0).name == "odd\\name.jpg" and data.load(0, np.random.default_rng(0))[0][0, 0, 0] < 3


@pytest.mark.parametrize("name", ["..\\a.jpg", "a\\..\\..\\b.jpg", "\\etc\\passwd"])
def test_backslashes_do_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="it must stay in"):
        windows(tmp_path, {NAMES[0]: name})


def test_photographs_that_are_links_are_photographs(tmp_path: Path) -> None:
    annotations = objects365(tmp_path)
    (tmp_path / "images").mkdir()
    for name in NAMES:
        Image.new("RGB", (40, 30)).save(tmp_path / Path(name).name)
        (tmp_path / "images" / Path(name).name).symlink_to(tmp_path / Path(name).name)
    data = CocoDetection(tmp_path / "images", annotations)
    assert len(data) == 3 and data.load(2, np.random.default_rng(0))[0].shape == (3, 30, 40)


@pytest.mark.parametrize("name", ["train2017", "train"])
def test_a_coco_folder_with_gzipped_annotations_is_found(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "annotations").mkdir()
    packed = tmp_path / f"annotations/instances_{name}.json.gz"
    packed.touch()
    assert coco_layout(tmp_path, "train") == (tmp_path / name, packed)
    plain = packed.with_suffix("")
    plain.touch()
    assert coco_layout(tmp_path, "train") == (tmp_path / name, plain)
