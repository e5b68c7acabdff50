"""`detect doctor --fix` mends sizes, categories and keypoints where it is certain what is right, and no others."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detection.cli import main
from detection.doctor.changes import Changes
from detection.doctor.mended_classes import mend_classes
from detection.doctor.mended_keypoints import UNLABELED, mend_keypoints
from detection.doctor.mended_sizes import Objects, judged, relation, without_size


def load_corpus() -> Any:
    """The page beside this one; tests are no package."""
    if "corpus" not in sys.modules:
        spec = importlib.util.spec_from_file_location("corpus", Path(__file__).with_name("corpus.py"))
        assert spec is not None and spec.loader is not None
        module = sys.modules["corpus"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["corpus"]


corpus = load_corpus()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHORDATE_CACHE", str(tmp_path / "cache"))


def mended(data: Any, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The mended training file, what changes.json says about it, and what was printed."""
    data.write()
    out = data.root.parent / "mended"
    main(["doctor", str(data.root), "--fix", str(out)])
    told = json.loads((out / "changes.json").read_text())
    written = json.loads((out / "instances_train.json").read_text())
    return written, told[str(data.root / "annotations" / "instances_train.json")], capsys.readouterr().out


def resize(data: Any, number: int, size: tuple[int, int]) -> None:
    Image.open(data.photograph(number)).resize(size).save(data.photograph(number))


# --- sizes ----------------------------------------------------------------------------------------


def test_a_size_is_taken_from_the_file_and_boxes_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    resize(data, 3, (100, 80))
    del data.train["images"][4]["height"], data.train["images"][4]["width"]
    boxes = [entry["bbox"] for entry in data.objects]
    written, told, out = mended(data, capsys)
    sizes = {image["id"]: (image["width"], image["height"]) for image in written["images"]}
    assert sizes == {number: (64, 48) for number in (1, 2, 4, 5, 6, 7, 8)} | {3: (100, 80)}
    assert [entry["bbox"] for entry in written["annotations"]] == boxes
    assert told["changes"] == {"image sizes taken from the files": 2} and told["left"] == []
    assert "instances_train.json: 2 image sizes taken from the files" in out


def test_a_photograph_that_may_have_been_resized_is_left_with_its_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    resize(data, 3, (128, 96))
    resize(data, 5, (20, 17))  # its objects reach beyond that
    for entry in data.train["categories"]:
        entry |= corpus.POINTS
    # a little over the edge of image 3, whose size nobody knows: neither is clipped, and neither is a proof
    data.objects[6] |= {"bbox": [2, 7, 64.5, 20], "keypoints": [66.5, 20, 2, 5, 5, 2], "num_keypoints": 2}
    written, told, out = mended(data, capsys)
    assert written["images"] == data.train["images"] and written["annotations"] == data.train["annotations"]
    reasons = {left["why"]: left["examples"] for left in told["left"] if left["kind"] == "image-size"}
    assert sorted(reasons.values()) == [
        ["3.png: is 128x96, listed as 64x48"],
        ["5.png: is 20x17, listed as 64x48"],
    ]
    assert any("beyond the photograph" in why for why in reasons) and any("been resized" in why for why in reasons)
    assert "left to you, image-size: " in out


FAR, NEAR = Objects((60.0, 40.0), frozenset(), 3), Objects((20.0, 20.0), frozenset(), 3)


def doubt(said: dict, actual: dict, objects: dict, turned: frozenset = frozenset()) -> tuple[dict, list[str]]:
    """Sizes that are certain, and the reasons of the others."""
    changes = Changes()
    names = {number: f"{number}.jpg" for number in said}
    new = judged(said, actual, objects, set(turned), names, changes)
    return new, [left.why for left in changes.left]


def test_an_object_beyond_the_listed_size_proves_that_height_and_width_are_exchanged() -> None:
    said, actual = {1: (64, 48), 2: (64, 48)}, {1: (48, 64), 2: (48, 64)}
    assert doubt(said, actual, {1: FAR, 2: NEAR}) == (actual, [])
    new, why = doubt(said, actual, {1: NEAR, 2: NEAR})
    assert new == {} and "exchanged" in why[0]
    other = Objects((30.0, 60.0), frozenset(), 1)  # of the listed size, so that both kinds are in the file
    new, why = doubt(said | {3: (64, 48)}, actual | {3: (48, 64)}, {1: FAR, 2: NEAR, 3: other})
    assert new == {1: (48, 64)} and len(why) == 2


def test_masks_and_images_without_objects_tell_too() -> None:
    said, actual = {1: (24, 32)}, {1: (48, 64)}
    assert relation(said[1], actual[1]) == "scaled"
    assert doubt(said, actual, {1: NEAR})[0] == {}
    assert doubt(said, actual, {1: Objects((0.0, 0.0), frozenset(), 0)})[0] == actual
    assert doubt(said, actual, {1: Objects((20.0, 20.0), frozenset({(48, 64)}), 1)})[0] == actual
    new, why = doubt({1: (50, 50)}, actual, {1: Objects((20.0, 20.0), frozenset({(50, 50)}), 1)})
    assert new == {} and "masks have the size that is listed" in why[0]
    assert doubt({1: (50, 50)}, actual, {1: NEAR}, frozenset({1}))[0] == {}


def test_files_outside_the_folder_are_not_looked_at_for_a_size() -> None:
    names = ["a.jpg", "../b.jpg", "/c.jpg", "d/../../e.jpg", "d/f.jpg", "", None]
    top = {"images": [{"id": number, "file_name": name} for number, name in enumerate(names)] + ["no entry"]}
    assert sorted(without_size(top, list(range(len(names) + 1)), {4})) == [0]


# --- categories -----------------------------------------------------------------------------------


def listing(*categories: tuple[int, str], of: list[int], **more: Any) -> dict[str, Any]:
    entries = [{"id": number, "name": name, **more} for number, name in categories]
    return {"categories": entries, "annotations": [{"id": k, "category_id": number} for k, number in enumerate(of)]}


def classes_of(top: dict[str, Any], other: dict[str, Any] | None = None) -> tuple[Any, list[int], Changes]:
    changes = Changes()
    mend_classes(top, lambda: [] if other is None else other["categories"], changes)
    pairs = [(entry["id"], entry["name"]) for entry in top["categories"]]
    return pairs, [entry["category_id"] for entry in top["annotations"]], changes


def test_an_id_that_is_not_listed_is_listed_as_in_the_other_file() -> None:
    there = listing((1, "kite"), (2, "boat"), of=[])
    pairs, _, changes = classes_of(listing((1, "kite"), of=[1, 2, 2, 7]), there)
    assert pairs == [(1, "kite"), (2, "boat")]
    assert changes.done == {"annotations whose category 'boat' is now listed, as in the other file": 2}
    for other in (listing((1, "boat"), (2, "kite"), of=[]), listing((2, "boat"), of=[]), None):  # numbered otherwise
        assert classes_of(listing((1, "kite"), of=[1, 2]), other)[0] == [(1, "kite")]


def test_a_repeated_id_is_listed_once_where_a_name_or_the_other_file_tells() -> None:
    assert classes_of(listing((1, "kite"), (1, "Kite"), of=[1]))[0] == [(1, "kite")]
    there = listing((1, "kite"), (2, "boat"), of=[])
    assert classes_of(listing((1, "kite"), (1, "boat"), of=[1, 2]), there)[0] == [(1, "kite"), (2, "boat")]
    pairs, _, changes = classes_of(listing((1, "kite"), (1, "boat"), of=[1, 1]), there)
    assert pairs == [(1, "kite"), (1, "boat")] and not changes.done
    assert [(left.kind, left.examples) for left in changes.left] == [("category-id-twice", ("1: 'kite' or 'boat'",))]


def test_two_categories_of_one_name_become_one_unless_they_differ_in_more() -> None:
    pairs, of, changes = classes_of(listing((1, "mouse"), (4, "mouse"), (5, "boat"), of=[1, 4, 5, 4]))
    assert (pairs, of) == ([(1, "mouse"), (5, "boat")], [1, 1, 5, 1])
    assert changes.done == {
        "categories of one name merged": 1,
        "annotations moved to the first category of their name": 2,
    }
    top = listing((1, "mouse"), (4, "mouse"), of=[1, 4])
    top["categories"][1]["supercategory"] = "electronic"
    before = copy.deepcopy(top)
    _, _, changes = classes_of(top)
    assert top == before and changes.left[0].kind == "category-name-twice"


def test_categories_that_are_right_are_not_touched() -> None:
    top = listing((3, "kite"), (9, "boat"), of=[3, 9])
    before = copy.deepcopy(top)
    assert not mend_classes(top, lambda: pytest.fail("the other file was read"), Changes()) and top == before


# --- keypoints ------------------------------------------------------------------------------------


def pointed(numbers: list[Any], count: Any = None, doubtful: frozenset = frozenset()) -> tuple[dict[str, Any], Changes]:
    """The annotation after mending, of a category with two points on an image of 64 x 48."""
    entry = {"id": 7, "image_id": 1, "keypoints": numbers} | ({} if count is None else {"num_keypoints": count})
    top = {
        "images": [{"id": 1, "width": 64, "height": 48}],
        "categories": [{"id": 1, "name": "kite", "keypoints": ["left", "right"]}],
        "annotations": [entry],
    }
    changes = Changes()
    before = json.dumps(top)
    assert mend_keypoints(top, set(doubtful), changes) == (json.dumps(top) != before)
    return top["annotations"][0], changes


@pytest.mark.parametrize(
    ("numbers", "count", "wanted", "counted", "done"),
    [
        ([1, 2, 2, 3, 4, 1], 2, [1, 2, 2, 3, 4, 1], 2, {}),
        ([1, 2, 2, 3, 4, 0], 2, [1, 2, 2, 3, 4, 0], 1, {"numbers of keypoints counted again": 1}),
        ([1, 2, 2, 300, 4, 1], 2, [1, 2, 2, 0, 0, 0], 1, {"keypoints outside their images marked as not labeled": 1}),
        ([1, 2, 2, 64.5, 48.9, 1], 2, [1, 2, 2, 64.5, 48.9, 1], 2, {}),  # a careless drawing
        ([1, 2, 2, 3, 4, 1, 0, 0, 0], 2, [1, 2, 2, 3, 4, 1], 2, {"objects with zeros behind their keypoints cut": 1}),
        ([1, 2, 2], 1, [0] * 6, 0, {UNLABELED: 1}),
        ([1, 2, 2, 3, 4], None, [0] * 6, None, {UNLABELED: 1}),
        ([1, 2, 2, 3, 4, 7], 2, [0] * 6, 0, {UNLABELED: 1}),
        ([1, 2, 2, float("nan"), 4, 1], 2, [0] * 6, 0, {UNLABELED: 1}),
    ],
)
def test_keypoints(numbers: list, count: Any, wanted: list, counted: Any, done: dict[str, int]) -> None:
    entry, changes = pointed(numbers, count)
    assert entry["keypoints"] == wanted and entry.get("num_keypoints") == counted
    assert changes.done == done and not changes.left


def test_an_object_with_all_its_keypoints_outside_is_left() -> None:
    entry, changes = pointed([300, 2, 2, 3, 400, 1], 2)
    assert entry["keypoints"] == [300, 2, 2, 3, 400, 1]
    assert [(left.kind, left.examples) for left in changes.left] == [("keypoint-outside", ("annotation 7",))]


def test_nothing_is_outside_an_image_whose_size_is_doubtful() -> None:
    entry, changes = pointed([1, 2, 2, 300, 4, 1], 2, frozenset({1}))
    assert entry["keypoints"] == [1, 2, 2, 300, 4, 1] and not changes.done and not changes.left


def test_what_is_never_mended_is_left_with_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = corpus.Corpus.make(tmp_path / "coco")
    data.train["categories"][1]["name"] = ""
    shown = mended(data, capsys)[2]
    assert "  left to you, category-entry: " in shown and "correct it" in shown
