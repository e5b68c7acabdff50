"""Masks as columns: nothing of the file is lost, little memory is taken, and odd ones are refused by name."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.data.annotations.coco_json import read_coco
from detection.data.masks.outlines import OutlineRows
from detection.data.masks.rle import coco_mask as mask
from detection.data.masks.rle import compressed, run_lengths
from shared.errors import DataError
from shared.feeding.columns import compact, ends, exact, stretches, together
from tests.detection.data.of_people import HEIGHT, WIDTH, people, people_file, rle, square


def changed(folder: Path, number: int, **change: Any) -> Path:
    """The file of people with one annotation told otherwise; `...` takes a word away."""
    content = people_file()
    entry = {**content["annotations"][number], **change}
    content["annotations"][number] = {key: value for key, value in entry.items() if value is not ...}
    return people(folder, content)[1]


# -- nothing is lost ------------------------------------------------------------------------------


def test_masks_come_back_as_the_file_has_them_sorted_by_image(tmp_path: Path) -> None:
    masks = read_coco(people(tmp_path)[1], ("masks",)).masks
    assert masks is not None and len(masks) == 5
    told = people_file()["annotations"]
    assert masks.segmentation(0, (HEIGHT, WIDTH)) == told[4]["segmentation"]
    assert masks.segmentation(1, (HEIGHT, WIDTH)) == told[0]["segmentation"]
    assert masks.segmentation(2, (HEIGHT, WIDTH)) == told[1]["segmentation"] == rle(30, 8, 12)
    for number, entry in ((3, told[2]), (4, told[3])):  # a list of counts becomes a string of the same pixels
        assert masks.code(number) == mask.frPyObjects(entry["segmentation"], HEIGHT, WIDTH)["counts"]
    assert masks.numbers.dtype == np.float32 and masks.polygons(2) == []


def test_masks_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = changed(tmp_path, 0, segmentation="nonsense", keypoints="nonsense")
    table = read_coco(path)
    assert table.masks is None and table.keypoints is None and table.skeleton is None


numbers = st.floats(-90_000, 90_000) | st.integers(-900, 900) | st.integers(-(10**6), 10**6).map(lambda n: n / 100)
rings = st.lists(st.lists(numbers, min_size=3, max_size=9).map(lambda half: half + half[::-1]), min_size=1, max_size=3)


@given(st.lists(rings, min_size=1, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_polygons_of_any_numbers_survive_keeping_and_selecting(polygons: list[list[list[float]]], data: Any) -> None:
    rows = OutlineRows()
    for polygon in polygons:
        rows.take(polygon)
    sizes = np.full((len(polygons), 2), 50)
    outlines = rows.outlines(sizes, lambda wrong, say: None)
    picked = np.array(data.draw(st.lists(st.integers(0, len(polygons) - 1), max_size=10)), dtype=np.int64)
    some = outlines.select(picked)
    assert [some.segmentation(n, (50, 50)) for n in range(len(picked))] == [polygons[n] for n in picked]
    extents = outlines.extents()
    for polygon, (x0, y0, x1, y1) in zip(polygons, extents.tolist(), strict=True):
        flat = np.concatenate([np.array(ring).reshape(-1, 2) for ring in polygon])
        assert np.allclose((x0, y0, x1, y1), [*flat.min(0), *flat.max(0)], rtol=1e-6)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.lists(st.integers(0, 39), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_run_lengths_are_read_as_pycocotools_writes_them(counts: list[int], cuts: list[int]) -> None:
    """Several codes at once, of several lengths, the first run possibly empty."""
    several = [[0, *counts], counts, *(counts[: cut + 1] for cut in cuts)]
    codes = [compressed(each, (sum(each), 1)) for each in several]
    found, first = run_lengths(np.frombuffer(b"".join(codes), np.uint8), ends(np.array([len(code) for code in codes])))
    assert [found[a:b].tolist() for a, b in pairwise(first)] == several
    assert all(
        code == mask.frPyObjects({"size": [sum(e), 1], "counts": e}, sum(e), 1)["counts"]
        for code, e in zip(codes, several, strict=True)
    )


def test_areas_of_polygons_and_rle_are_those_of_their_pixels(tmp_path: Path) -> None:
    masks = read_coco(people(tmp_path)[1], ("masks",)).masks
    assert masks is not None
    assert masks.areas() == pytest.approx([36 + 12.5**2, 100, 144, 81, 900])


@given(st.lists(st.floats(-1e5, 1e5) | st.integers(-(10**6), 10**6).map(lambda n: n / 1000), max_size=30))
def test_compact_numbers_are_exact_whatever_they_were(values: list[float]) -> None:
    told = np.array(values, dtype=np.float64)
    assert np.array_equal(exact(compact(told)), told)
    assert np.array_equal(together([compact(told), compact(np.array([0.1]))])[: len(told)], told) or (
        compact(told).dtype == np.float32
    )


def test_compact_and_other_columns_meet_without_a_loss() -> None:
    met = together([compact(np.array([0.1, 7.25])), np.array([1 / 3])])
    assert met.tolist() == [0.1, 7.25, 1 / 3]
    assert stretches(np.arange(10), np.array([7, 0]), np.array([3, 2])).tolist() == [7, 8, 9, 0, 1]


def test_a_polygon_takes_four_bytes_a_number_and_its_annotation_few_more(tmp_path: Path) -> None:
    content = people_file()
    polygon = [round(n * 0.37, 2) for n in range(60)]
    content["annotations"] = [{**content["annotations"][0], "id": n, "segmentation": [polygon]} for n in range(2000)]
    (tmp_path / "many.json").write_text(json.dumps(content))
    masks = read_coco(tmp_path / "many.json", ("masks",)).masks
    assert masks is not None
    assert sum(v.nbytes for v in vars(masks).values()) / 2000 < 60 * 4 + 40


# -- what can be wrong ----------------------------------------------------------------------------

WHAT = "polygons .* or an RLE"


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        (..., "annotation 101 has no segmentation, which a network with masks needs; give .* or use a network"),
        (None, "annotation 101 has no segmentation"),
        ([], "annotation 101 has no segmentation"),
        ([[1, 2, 3, 4, 5, 6, 7]], "annotation 101 has a polygon of 7 numbers; a polygon is at least 6"),
        ([[1, 2], [1, 2, 3, 4]], "annotation 101 has a polygon of 2 numbers"),
        ([[1, 2, 3, 4]], "annotation 101 has a polygon of 4 numbers"),
        ([[]], "annotation 101 has a polygon of 0 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "annotation 101 has a polygon with nan; its numbers are finite pixels"),
        ([square(0, 0, 9), [1, 2, 3, 4, 5, float("inf")]], "annotation 101 has a polygon with inf"),
        ([[1, 2, 3, 4, 5, 1e300]], r"annotation 101 has a polygon with 1e\+300"),
        ([1, 2, 3, 4, 5, 6], rf"annotation 101 has the segmentation \[1, 2, .* where {WHAT}"),
        ([[1, 2, 3, 4, 5, "6"]], rf"annotation 101 has the segmentation .* where {WHAT}"),
        ("abc", rf"annotation 101 has the segmentation .* where {WHAT}"),
        (7, rf"annotation 101 has the segmentation 7 where {WHAT}"),
        ({"counts": "abc"}, rf"annotation 101 has the segmentation .* where {WHAT}"),
        ({"counts": [], "size": [HEIGHT, WIDTH]}, rf"annotation 101 has the segmentation .* where {WHAT}"),
        ({"counts": [-1, 2401], "size": [HEIGHT, WIDTH]}, rf"annotation 101 has the segmentation .* where {WHAT}"),
        ({"counts": [2400.0], "size": [HEIGHT, WIDTH]}, rf"annotation 101 has the segmentation .* where {WHAT}"),
        ({"counts": "é", "size": [HEIGHT, WIDTH]}, rf"annotation 101 has the segmentation .* where {WHAT}"),
        (
            {"counts": [10, 10], "size": [HEIGHT, WIDTH]},
            "annotation 101 has an RLE that does not add up to 60x40 pixels",
        ),
        ({"counts": [3000], "size": [HEIGHT, WIDTH]}, "annotation 101 has an RLE that does not add up"),
        ({**rle(1, 1, 5), "size": [WIDTH, HEIGHT]}, "annotation 101 has an RLE of 40x60 pixels in an image of 60x40"),
        ({**rle(1, 1, 5), "size": [HEIGHT, 61]}, "annotation 101 has an RLE of 61x40 pixels in an image of 60x40"),
        ({**rle(1, 1, 5), "counts": rle(1, 1, 5)["counts"][:-1]}, "annotation 101 has an RLE that does not add up"),
        ({**rle(1, 1, 5), "counts": rle(1, 1, 5)["counts"] + "P"}, "annotation 101 has an RLE that does not add up"),
        ({**rle(1, 1, 5), "counts": " ~~"}, "annotation 101 has an RLE that does not add up"),
        ({**rle(1, 1, 5), "counts": "P[R"}, "annotation 101 has an RLE that does not add up"),  # 2400, and more to come
        ({**rle(1, 1, 5), "counts": "P[RPPPPP0"}, "annotation 101 has an RLE that does not add up"),  # 2400 at length
        ({**rle(1, 1, 5), "counts": "o" * 40}, "annotation 101 has an RLE that does not add up"),
    ],
)
def test_a_wrong_mask_is_named_with_file_and_id(tmp_path: Path, segmentation: Any, says: str) -> None:
    with pytest.raises(DataError, match=rf"people\.json: {says}"):
        read_coco(changed(tmp_path, 1, segmentation=segmentation), ("masks",))


@given(st.text(alphabet=[chr(c) for c in range(40, 120)], max_size=30))
@settings(max_examples=300, deadline=None)
def test_no_code_gets_past_the_door_that_pycocotools_cannot_read(code: str) -> None:
    """pycocotools itself reads beyond its memory, or ends the process, for some of these."""
    rows, refused = OutlineRows(), []
    if not code:
        return
    rows.take({"counts": code, "size": [4, 5]})
    outlines = rows.outlines(
        np.array([[4, 5]]), lambda wrong, say: refused.extend(say(0) for _ in range(int(wrong[0])))
    )
    if not refused:
        decoded = mask.decode({"counts": outlines.code(0), "size": [4, 5]})  # pyright: ignore
        assert decoded.sum() == outlines.areas()[0]


def test_a_code_of_one_run_is_read(tmp_path: Path) -> None:
    """What the two long spellings above are of."""
    masks = read_coco(changed(tmp_path, 1, segmentation={**rle(1, 1, 5), "counts": "P[2"}), ("masks",)).masks
    assert masks is not None and masks.code(2) == compressed([HEIGHT * WIDTH], (HEIGHT, WIDTH))


def test_what_is_there_is_taken_when_nothing_is_demanded(tmp_path: Path) -> None:
    """As `detect pack` does."""
    table = read_coco(changed(tmp_path, 1, segmentation=[], keypoints=...), None)
    assert table.masks is not None and table.keypoints is not None
    assert table.masks.segmentation(2, (HEIGHT, WIDTH)) == [] and not table.keypoints[2].any()
    content = people_file()
    for entry in content["annotations"]:
        del entry["segmentation"], entry["keypoints"]
    table = read_coco(people(tmp_path, content)[1], None)
    assert table.masks is None and table.keypoints is None


@pytest.mark.parametrize("rings", [[[1, 2, 3, 4, 5, 6], [1, "x", 3]], [[1, 2, 3, 4, 5, 6], None], [7], [[1, 2, None]]])
def test_polygons_that_cannot_be_read_leave_nothing_behind(rings: Any) -> None:
    rows = OutlineRows()
    rows.take([[0, 0, 9, 0, 9, 9]])
    with pytest.raises((TypeError, ValueError)):
        rows.take(rings)
    rows.take([])
    rows.take([[1, 1, 8, 1, 8, 8], [2, 2, 3, 2, 3, 3.5]])
    found = rows.outlines(np.full((3, 2), 10), lambda *_: None)
    assert found.segmentation(0, (10, 10)) == [[0, 0, 9, 0, 9, 9]]
    assert found.segmentation(2, (10, 10)) == [[1, 1, 8, 1, 8, 8], [2, 2, 3, 2, 3, 3.5]]
    assert rows.there().tolist() == [True, False, True]
