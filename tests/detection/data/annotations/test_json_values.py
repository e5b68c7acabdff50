"""Whole numbers and truth values in any spelling that is clear; files plain or gzipped."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from detection.data.annotations.json_values import read_json_bytes, truth_value, whole_number, without_json
from shared.errors import DataError


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7),
        (-7, -7),
        (7.0, 7),
        (-0.0, 0),
        ("7", 7),
        (" -0012 ", -12),
        ("+3", 3),
        (2**62 + 1, 2**62 + 1),
        (str(2**62 + 1), 2**62 + 1),
        (float(2**53), 2**53),
        (2.0**60, None),  # a float of that size no longer says which whole number it was
        (7.5, None),
        ("7.5", None),
        ("7.0", None),
        ("0x7", None),
        ("1_000", None),
        ("٣", None),
        ("", None),
        (True, None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        ([7], None),
    ],
)
def test_a_whole_number_is_read_or_not(value: Any, number: int | None) -> None:
    found = whole_number(value)
    assert found == number and (found is None or type(found) is int)


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        *((value, True) for value in (True, 1, 1.0, "1", "true", "True ", "YES")),
        *((value, False) for value in (False, 0, 0.0, -0.0, "0", "false", "FALSE", " no")),
        *((value, None) for value in (2, -1, 0.5, float("nan"), "", "maybe", "2", None, [], {}, [1])),
    ],
)
def test_a_truth_value_means_what_it_says_or_nothing(value: Any, truth: bool | None) -> None:
    assert truth_value(value) is truth


def test_a_gzipped_file_is_unpacked_whatever_its_name_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"images": []}' * 100)
    for name, raw in (("a.json", b"{}"), ("b.json.gz", packed), ("c.json", packed)):
        (tmp_path / name).write_bytes(raw)
    assert read_json_bytes(tmp_path / "a.json", "the annotations", "a JSON") == b"{}"
    assert read_json_bytes(tmp_path / "b.json.gz", "", "") == read_json_bytes(tmp_path / "c.json", "", "")
    (tmp_path / "b.json.gz").write_bytes(packed[:-12])
    with pytest.raises(DataError, match=r"b\.json\.gz cannot be unpacked"):
        read_json_bytes(tmp_path / "b.json.gz", "", "")


def test_the_folder_of_pngs_has_the_name_of_the_json_gzipped_or_not() -> None:
    assert without_json(Path("x/val.2017.json")) == without_json(Path("x/val.2017.json.gz")) == Path("x/val.2017")
