"""AP does not depend on how large ids are, and result files of other programs mean what pycocotools reads in them."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detection.data.coco import CocoDetection
from detection.eval.coco import METRICS, CocoEvaluator, ground_truth_as_results
from detection.inference.trained import evaluate_results
from detection.recipe import DataConfig
from shared.errors import DataError
from tests.detection.data.of_people import people, people_file

HOTCOCO = importlib.util.find_spec("hotcoco") is not None
BACKENDS = ["pycocotools", pytest.param("hotcoco", marks=pytest.mark.skipif(not HOTCOCO, reason="no hotcoco"))]
KINDS = ("masks", "keypoints")


def renumbered(folder: Path, image: Any, category: int) -> CocoDetection:
    """The people, in images of other ids and of another category."""
    content = people_file()
    for entry in content["images"]:
        entry["id"] = image(entry["id"])
    for entry in content["annotations"]:
        entry.update(image_id=image(entry["image_id"]), category_id=category)
    content["categories"][0]["id"] = category
    images, _ = people(folder)
    (folder / "x.json").write_text(json.dumps(content))
    return CocoDetection(images, folder / "x.json", finds=KINDS)


def guesses(data: CocoDetection) -> list[dict[str, Any]]:
    """The truth with worse boxes and two false finds."""
    results = json.loads(json.dumps(ground_truth_as_results(data)))
    for number, entry in enumerate(results):
        entry["score"] = 0.9 - 0.1 * number
        entry["bbox"][0] += number
    stray = {"image_id": data.image_ids[0], "category_id": data.classes.source_ids[0], "bbox": [40, 20, 9, 9]}
    return [*results, {**stray, "score": 0.95}, {**stray, "score": 0.2}]


def summary(data: CocoDetection, results: list[dict[str, Any]], backend: str, kinds: Any = KINDS) -> dict[str, float]:
    evaluator = CocoEvaluator(data, backend, kinds)
    evaluator.merge([results])
    kept = json.loads(json.dumps(evaluator.results()))
    assert {entry["image_id"] for entry in kept} == {int(entry["image_id"]) for entry in results}
    per_class = evaluator.per_class()
    assert list(per_class) == ["person"] and per_class["person"] == pytest.approx(evaluator.summary()["box_ap"])
    return evaluator.summary()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("shift", "category"), [(2**60, 1), (-(2**60), -3), (-7, 0), (2**63 - 9, 2**52 + 1)], ids=str)
def test_ap_is_the_same_whatever_the_ids(tmp_path: Path, backend: str, shift: int, category: int) -> None:
    """As floats, 2**60 + 3 and 2**60 + 7 are one image; pycocotools takes 0 for "no match" in other places."""
    plain = renumbered(tmp_path / "a", lambda number: number, 1)
    wanted = summary(plain, guesses(plain), backend)
    odd = renumbered(tmp_path / "b", lambda number: number + shift, category)
    assert summary(odd, guesses(odd), backend) == wanted and 0.3 < wanted["box_ap"] < 1
    assert summary(odd, json.loads(json.dumps(ground_truth_as_results(odd))), backend)["mask_ap"] == pytest.approx(1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_that_are_text_are_the_numbers_they_say(tmp_path: Path, backend: str) -> None:
    data = renumbered(tmp_path, lambda number: f"{2**60 + number}", 1)
    assert data.image_ids == [2**60 + 3, 2**60 + 7]
    results = guesses(data)
    wanted = summary(data, results, backend)
    as_text = [{**entry, "image_id": str(entry["image_id"]), "category_id": "1"} for entry in results]
    assert summary(data, as_text, backend) == wanted


# -- result files of other programs ---------------------------------------------------------------


def by_pycocotools(path: Path, results: list[dict[str, Any]]) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO(str(path))
        evaluation: Any = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "change",
    [{}, {"segmentation": []}, {"segmentation": []} | {"image_id": float, "category_id": float}, {"category_id": 55}],
    ids=["plain", "empty masks", "ids as floats", "an unlisted category"],
)
def test_boxes_of_others_score_what_pycocotools_says(tmp_path: Path, backend: str, change: dict[str, Any]) -> None:
    data = CocoDetection(*people(tmp_path), finds=KINDS)
    boxes = [{k: e[k] for k in ("image_id", "category_id", "bbox", "score")} for e in guesses(data)]
    for entry in boxes[: len(boxes) // 2]:
        entry.update({key: value(entry[key]) if callable(value) else value for key, value in change.items()})
    evaluator = CocoEvaluator(data, backend)
    evaluator.merge([boxes])
    found = [evaluator.summary()[name] for name in METRICS]
    assert found == pytest.approx(by_pycocotools(data.table.path, boxes), abs=1e-9) and found[0] > 0
    assert all("segmentation" not in entry and type(entry["image_id"]) is int for entry in evaluator.results())


def test_an_unlisted_category_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = CocoDetection(*people(tmp_path))
    results = [{**entry, "category_id": 0} for entry in guesses(data)[:2]] + guesses(data)[2:]
    with caplog.at_level(logging.WARNING):
        CocoEvaluator(data, "pycocotools").merge([results])
    assert "2 of 6 results have a category that" in caplog.text and "such as 0, and are not counted" in caplog.text


def test_empty_fields_are_none_and_polygons_are_masks(tmp_path: Path) -> None:
    data = CocoDetection(*people(tmp_path), finds=KINDS)
    results = json.loads(json.dumps(ground_truth_as_results(data)))
    wanted = summary(data, results, "pycocotools", ("masks",))
    for entry in results:
        entry.update(keypoints=[], bbox=[])
    results[0]["segmentation"] = people_file()["annotations"][4]["segmentation"]
    assert summary(data, results, "pycocotools", ("masks",))["mask_ap"] == pytest.approx(wanted["mask_ap"])


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": 3.5},
        {"category_id": 1.5},
        {"category_id": None},
        {"category_id": True},
        {"image_id": "three"},
        {"score": "0.5"},
        {"score": True},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, 3, "4"]},
        {"bbox": []},
        {"bbox": [1, 2, 3, 10**400]},
        {"bbox": {"x": 1}},
    ],
    ids=str,
)
def test_a_half_an_id_and_words_for_numbers_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    data = CocoDetection(*people(tmp_path))
    good = {"image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}
    with pytest.raises(DataError, match="result number 2 needs an image_id and a category_id that are whole numbers"):
        CocoEvaluator(data).merge([[good, {**good, **change}]])


def test_a_result_file_with_empty_masks_is_one_of_boxes(tmp_path: Path) -> None:
    images, annotations = people(tmp_path)
    data = CocoDetection(images, annotations)
    results = [{**entry, "segmentation": [], "keypoints": []} for entry in ground_truth_as_results(data)]
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8-sig")
    config = DataConfig(data_path=images, coco_json_path=annotations)
    found = evaluate_results(config, str(tmp_path / "results.json"))
    assert tuple(found) == METRICS and found["box_ap"] == pytest.approx(1)


def wide_scenes(folder: Path) -> CocoDetection:
    """Six images of 80x40 with four boxes each, up to their right edges."""
    boxes = [[60, 5, 19, 30], [2, 3, 11, 9], [50, 1, 30, 8], [30.5, 20, 40, 15]]
    images = [{"id": n, "file_name": f"{n}.png", "width": 80, "height": 40} for n in range(1, 7)]
    for image in images:
        Image.new("RGB", (80, 40)).save(folder / image["file_name"])
    entries = [
        {"id": 4 * i + n, "image_id": image["id"], "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, image in enumerate(images)
        for n, box in enumerate(boxes, start=1)
    ]
    content = {"images": images, "annotations": entries, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "wide.json").write_text(json.dumps(content))
    return CocoDetection(folder, folder / "wide.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, y, w, h: [x, y, w, h], None),
        (lambda x, y, w, h: [x - 9, y, w, h + 3], None),  # not clipped
        (lambda x, y, w, h: [x, y, x + w, y + h], "the boxes are x0 y0 x1 y1"),
        (lambda x, y, w, h: [x / 80, y / 40, w / 80, h / 40], "the boxes are shares of the image"),
        (lambda x, y, w, h: [40 - y - h, x, h, w], "turned by 90 degrees"),
    ],
)
def test_results_in_other_pixels_than_the_files_are_refused(tmp_path: Path, change: Any, says: str | None) -> None:
    data = wide_scenes(tmp_path)
    results = [{**entry, "bbox": change(*entry["bbox"])} for entry in ground_truth_as_results(data)]
    evaluator = CocoEvaluator(data, "pycocotools")
    if says is None:
        evaluator.merge([results])
        assert evaluator.summary()["box_ap50"] > 0
    else:
        with pytest.raises(DataError, match=says):
            evaluator.merge([results])
