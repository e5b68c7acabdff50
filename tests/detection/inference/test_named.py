"""Pictures have the names of their photographs, none takes another's, and a CSV says every name as it is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from detection.inference.named import COLUMNS, picture_name, save_csv


@pytest.mark.parametrize(
    ("name", "picture"),
    [("a.jpg", "a.jpg"), ("B.JPEG", "B.JPEG"), ("cam 1/a.png", "cam 1/a.png.jpg"), ("x/y", "x/y.jpg")],
)
def test_a_picture_has_the_name_of_its_photograph(name: str, picture: str) -> None:
    assert picture_name(name, 3, set()) == picture


def test_no_picture_takes_the_name_of_another() -> None:
    taken: set[str] = set()
    names = ["a.png", "a.png.jpg", "A.PNG", "000002-a.png.jpg", "c/a.png", "c/a.png"]
    found = [picture_name(name, i, taken) for i, name in enumerate([*names, *names], start=1)]
    assert len({name.casefold() for name in found}) == len(found) == len(taken)
    assert found[:2] == ["a.png.jpg", "000002-a.png.jpg"] and all(Path(name).suffix == ".jpg" for name in found)
    assert [Path(name).parent.name for name in found].count("c") == 4


def test_a_csv_says_names_with_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": 'cam,1/"a"\n\udcff.jpg'}]
    found = {"image_id": 7, "category_id": 90, "category_name": "cat, tabby", "bbox": [1.5, 2, 0.25, 3], "score": 0.5}
    assert save_csv(tmp_path / "results.csv", images, [found]) == 1
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        header, row = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert row == [images[0]["file_name"], "90", "cat, tabby", "0.5", "1.5", "2", "1.75", "5"]
