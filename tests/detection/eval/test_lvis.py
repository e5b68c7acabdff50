"""AP by LVIS's rules: the numbers of its own evaluator, by either backend, to the last digit."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.data.annotations.classes import ClassMap
from detection.data.coco import CocoDetection
from detection.data.masks.paste import codec
from detection.eval.coco import CocoEvaluator, ground_truth_as_results
from detection.eval.evaluators import evaluator_of
from detection.eval.federated import best_of
from detection.eval.lvis import FIXED, METRICS, LvisEvaluator
from shared.errors import DataError, UsageError
from tests.detection.eval.of_lvis import (
    REAL,
    Results,
    crowded,
    made,
    needs_real_file,
    official,
    perturbed,
    shuffled_images,
    true_boxes,
    written,
)

needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")
BACKENDS = ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)]
ON_TOP = (1.5, 2.0)  # scores above all others


def opened(path: Path, finds: tuple[str, ...] = ()) -> CocoDetection:
    return CocoDetection(path.parent, path, finds=finds, lvis=True, need_images=False)


def evaluator(path: Path, results: Results, backend: str = "pycocotools", **more: Any) -> LvisEvaluator:
    found = LvisEvaluator(opened(path, more.get("finds", ())), backend, **more)
    found.merge([results])
    return found


def flat(content: dict[str, Any]) -> Results:
    """Boxes of no width, of two negative sides, and outside their image."""
    boxes = ([5, 5, 0, 20], [40, 60, -20, -30], [900, 700, 30, 30])
    found = [{**r, "bbox": boxes[n % 3], "score": 2.0} for n, r in enumerate(true_boxes(content))]
    return perturbed(content) + found


SETS: dict[str, Callable[[dict[str, Any]], Results]] = {
    "the truth": true_boxes,
    "found roughly, with equal scores": perturbed,
    "random boxes": lambda content: crowded(content, "any", 200),
    "400 more of any category": lambda content: perturbed(content) + crowded(content, "any"),
    "400 more of known categories": lambda content: perturbed(content) + crowded(content, "known"),
    "250 of unknown categories on top": lambda content: true_boxes(content) + crowded(content, "unknown", 250),
    "absent categories on top": lambda content: true_boxes(content) + crowded(content, "absent", 5, score=ON_TOP),
    "unfinished ones on top": lambda content: perturbed(content) + crowded(content, "unfinished", 5, score=ON_TOP),
    "one score": lambda content: [{**r, "score": 0.5} for r in crowded(content, "any", 350) + perturbed(content)],
    "boxes of no size": flat,
    "unlisted categories": lambda content: perturbed(content) + [{**r, "category_id": 1} for r in true_boxes(content)],
}


def emptied(content: dict[str, Any]) -> dict[str, Any]:
    """Objects without an area, the only ones of their category in some images, and crowds."""
    for number, annotation in enumerate(content["annotations"]):
        annotation |= {"area": 0} if number % 4 == 1 else {}
        annotation |= {"iscrowd": 1} if number % 4 == 2 else {}
    return content


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lvis")
    contents = {"plain": made(0), "emptied": emptied(made(1))}
    return {name: written(folder, content, f"{name}.json") for name, content in contents.items()}


@pytest.mark.parametrize("truth", ["plain", "emptied"])
@pytest.mark.parametrize("name", list(SETS))
def test_the_numbers_are_those_of_lvis_by_both_backends(truth: str, name: str, files: dict[str, Path]) -> None:
    results = SETS[name](json.loads(files[truth].read_text()))
    expected = official(files[truth], results)
    for backend in ("pycocotools", "hotcoco") if importlib.util.find_spec("hotcoco") else ("pycocotools",):
        summary = evaluator(files[truth], results, backend).summary()
        assert tuple(summary) == METRICS
        assert list(summary.values()) == pytest.approx(expected, abs=1e-9), backend


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_follow_the_same_rules(backend: str, files: dict[str, Path]) -> None:
    content, rng = json.loads(files["plain"].read_text()), np.random.default_rng(0)
    results = []
    for annotation in content["annotations"] * 2:
        moved = [[float(v) for v in np.array(annotation["segmentation"][0]) + rng.normal(0, 5)]]
        mask = codec.merge(codec.frPyObjects(moved, 480, 640))
        segmentation = {"size": [480, 640], "counts": mask["counts"].decode()}
        score = float(rng.integers(1, 9) / 9)
        entry = {"image_id": annotation["image_id"], "category_id": annotation["category_id"], "score": score}
        results.append(entry | {"segmentation": segmentation})
    expected = official(files["plain"], results, kind="segm")
    summary = evaluator(files["plain"], results, backend, finds=("masks",)).summary()
    ours = {name: value for name, value in summary.items() if name.startswith("mask")}
    assert [name.replace("mask", "box", 1) for name in ours] == list(METRICS)
    assert list(ours.values()) == pytest.approx(expected, abs=1e-9) and 0.1 < expected[0] < 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_found_is_0_and_a_group_without_objects_is_undefined(backend: str, tmp_path: Path) -> None:
    content = made(0)
    for category in content["categories"]:
        category["frequency"] = "c" if category["frequency"] == "r" else category["frequency"]
    summary = evaluator(written(tmp_path, content), [], backend).summary()
    assert summary.pop("box_ap_rare") == -1 and set(summary.values()) == {0.0}


def test_frequencies_follow_the_counts_where_the_file_gives_no_letters(tmp_path: Path) -> None:
    content = made(0)
    for category in content["categories"]:
        category["image_count"] = {"r": 10, "c": 100, "f": 101}[category.pop("frequency")]
    results = perturbed(content)
    counted = evaluator(written(tmp_path, content), results).summary()
    assert counted == evaluator(written(tmp_path, made(0), "letters.json"), results).summary()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_order_of_images_in_results_and_file_changes_nothing(backend: str, tmp_path: Path) -> None:
    content = made(2)
    results = perturbed(content) + crowded(content, "known", 310)
    before = evaluator(written(tmp_path, content), results, backend).summary()
    again = {**content, "images": content["images"][::-1], "annotations": content["annotations"][::-1]}
    after = evaluator(written(tmp_path, again, "again.json"), shuffled_images(results), backend).summary()
    assert after == pytest.approx(before, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ap_fixed_limits_each_category_over_all_images_and_no_image(
    backend: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = json.loads(files["plain"].read_text())
    results = perturbed(content) + crowded(content, "known", 400)
    monkeypatch.setattr("detection.eval.federated.PER_CATEGORY", 150)
    best: Results = []
    for category in {r["category_id"] for r in results}:
        own = [r for r in results if r["category_id"] == category]
        best += sorted(own, key=lambda r: -r["score"])[:150]
    expected = official(files["plain"], best, max_dets=-1)[0]
    summary = evaluator(files["plain"], results, backend, fixed=True).summary()
    assert summary[FIXED] == pytest.approx(expected, abs=1e-9)
    assert next(iter(summary)) == "box_ap" and summary["box_ap"] != summary[FIXED]
    assert FIXED not in evaluator(files["plain"], results, backend).summary()


def test_the_best_of_a_group_are_the_first_of_equal_ones() -> None:
    groups, scores = np.array([7, 7, 3, 7, 3, 7]), np.array([0.5, 0.9, 0.1, 0.5, 0.2, 0.5])
    assert best_of(groups, scores, 2).tolist() == [True, True, True, False, True, False]
    assert best_of(groups, scores, 4).all()


def test_ap_by_class_is_that_of_the_classes_with_objects(files: dict[str, Path]) -> None:
    content = json.loads(files["plain"].read_text())
    judged = evaluator(files["plain"], true_boxes(content))
    used = {a["category_id"] for a in content["annotations"]}
    names = {c["name"] for c in content["categories"] if c["id"] in used}
    assert judged.per_class() == pytest.approx(dict.fromkeys(names, 1.0)) and len(names) < len(content["categories"])


def test_a_detection_added_later_changes_the_summary(files: dict[str, Path]) -> None:
    judged = evaluator(files["plain"], [])
    before = judged.summary()["box_ap"]
    judged.merge([ground_truth_as_results(judged.dataset)])
    assert (before, judged.summary()["box_ap"]) == (0, pytest.approx(1))


def test_the_data_decides_whose_rules_are_followed(files: dict[str, Path]) -> None:
    as_coco = CocoDetection(files["plain"].parent, files["plain"], need_images=False)
    assert type(evaluator_of(as_coco)) is CocoEvaluator
    assert type(evaluator_of(opened(files["plain"]))) is LvisEvaluator


def test_coco_annotations_keypoints_and_one_class_for_all_are_refused(files: dict[str, Path]) -> None:
    as_coco = CocoDetection(files["plain"].parent, files["plain"], need_images=False)
    with pytest.raises(UsageError, match="has no keypoints"):
        LvisEvaluator(as_coco, finds=("keypoints",))
    one = CocoDetection(files["plain"].parent, files["plain"], ClassMap.binary(), lvis=True, need_images=False)
    with pytest.raises(UsageError, match="--class-agnostic gives recall"):
        LvisEvaluator(one)
    with pytest.raises(DataError, match="is not an LVIS file"):
        content = made(0)
        for image in content["images"]:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        opened(written(files["plain"].parent, content, "lists.json"))


# -- the 100 images of LVIS's own example ---------------------------------------------------------


def scored(results: Results, backend: str) -> float:
    return evaluator(REAL, results, backend).summary()["box_ap"]


@pytest.mark.slow
@needs_real_file
@pytest.mark.parametrize("backend", BACKENDS)
def test_measured_numbers_of_the_real_file(backend: str) -> None:
    """Found by lvis 0.5.3, hotcoco 1.3.0 and pycocotools 2.0.11 alike."""
    content = json.loads(REAL.read_text())
    truth = true_boxes(content)
    assert len(truth) == 977
    absent = [
        {"image_id": image["id"], "category_id": category, "bbox": [10, 10, 50, 50], "score": 2.0}
        for image in content["images"]
        for category in image["neg_category_ids"]
    ]
    assert scored(truth, backend) == pytest.approx(1, abs=5e-7)
    assert len(truth + absent) == 1919 and scored(truth + absent, backend) == pytest.approx(0.745848, abs=5e-7)
    unfinished = crowded(content, "unfinished", 5, score=ON_TOP)
    assert scored(truth + unfinished, backend) == pytest.approx(1, abs=5e-7)  # ignored, on top of everything
    assert scored(crowded(content, "unknown", 200), backend) == 0 == scored([], backend)


@pytest.mark.slow
@needs_real_file
@pytest.mark.parametrize("name", ["found roughly, with equal scores", "400 more of any category", "one score"])
def test_the_numbers_on_the_real_file_are_those_of_lvis(name: str) -> None:
    content = json.loads(REAL.read_text())
    results = SETS[name](content)
    expected = official(REAL, results)
    for backend in ("pycocotools", "hotcoco") if importlib.util.find_spec("hotcoco") else ("pycocotools",):
        assert list(evaluator(REAL, results, backend).summary().values()) == pytest.approx(expected, abs=1e-9), backend
