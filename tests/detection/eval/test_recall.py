"""Recall of boxes whatever their class: the numbers of COCOeval with useCats=0."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detection.data.coco import CocoDetection
from detection.eval.evaluators import evaluator_of
from detection.eval.lvis import LvisEvaluator
from detection.eval.recall import METRICS, RecallEvaluator, ranks_of
from detection.types import Detections
from tests.detection.eval.of_lvis import Results, crowded, made, perturbed, true_boxes, written


def opened(folder: Path, content: dict[str, Any], *, lvis: bool = True) -> CocoDetection:
    return CocoDetection(folder, written(folder, content), lvis=lvis, need_images=False)


def judged(data: CocoDetection, results: Results) -> RecallEvaluator:
    evaluator = RecallEvaluator(data)
    evaluator.merge([results])
    return evaluator


def unequal(results: Results) -> Results:
    """The results with no two equal scores, which pycocotools would order by category and we by the file."""
    return [{**r, "score": r["score"] + n * 1e-7} for n, r in enumerate(results)]


def by_pycocotools(content: dict[str, Any], results: Results) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()
        annotations = [{"iscrowd": 0, **annotation} for annotation in content["annotations"]]
        truth.dataset = {**content, "annotations": annotations}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes([dict(r) for r in results]), "bbox")
        evaluation.params.useCats, evaluation.params.maxDets = 0, [100, 300, 1000]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"][:, 0]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (3, 2)]
    return [float(np.mean(recall[:, area, limit])) for area, limit in pairs]


@pytest.mark.parametrize("seed", range(3))
def test_recall_is_that_of_pycocotools_without_categories(seed: int, tmp_path: Path) -> None:
    content = made(seed, images=6)
    results = unequal(crowded(content, "any", 1100, seed=seed) + perturbed(content, seed))
    twins = [{**annotation, "id": annotation["id"] + 1000} for annotation in content["annotations"][::5]]
    content["annotations"] += twins  # two objects at one place: equal overlaps
    summary = judged(opened(tmp_path, content), results).summary()
    assert tuple(summary) == METRICS
    assert list(summary.values()) == pytest.approx(by_pycocotools(content, results), abs=1e-12)
    assert 0 < summary["box_ar100"] < summary["box_ar300"] <= summary["box_ar1000"] < 1


def test_crowds_of_coco_are_left_out_and_those_of_lvis_count(tmp_path: Path) -> None:
    content = made(1, images=5)
    for annotation in content["annotations"][::3]:
        annotation["iscrowd"] = 1
    results = unequal(perturbed(content) + crowded(content, "any", 150))
    coco, lvis = (judged(opened(tmp_path, content, lvis=lvis), results).summary() for lvis in (False, True))
    assert list(coco.values()) == pytest.approx(by_pycocotools(content, results), abs=1e-12)
    for annotation in content["annotations"]:
        annotation.pop("iscrowd", None)
    assert list(lvis.values()) == pytest.approx(by_pycocotools(content, results), abs=1e-12) and coco != lvis


def test_objects_of_unfinished_categories_count_and_those_without_an_area_do_not(tmp_path: Path) -> None:
    content = made(0)
    for image in content["images"]:
        present = {a["category_id"] for a in content["annotations"] if a["image_id"] == image["id"]}
        image["not_exhaustive_category_ids"] = sorted(present)
    assert set(judged(opened(tmp_path, content), true_boxes(content)).summary().values()) == {1.0}
    content["annotations"][0]["area"] = 0
    assert judged(opened(tmp_path, content), true_boxes(content)[1:]).summary()["box_ar100"] == 1


def test_a_wrong_class_is_no_mistake_here(tmp_path: Path) -> None:
    content = made(0)
    category = content["categories"][0]["id"]
    results = [{**r, "category_id": category} for r in true_boxes(content)]
    evaluator = judged(opened(tmp_path, content), results)
    assert evaluator.summary()["box_ar100"] == 1 and set(evaluator.per_class().values()) == {1.0}
    ap = LvisEvaluator(opened(tmp_path, content))
    ap.merge([results])
    assert ap.summary()["box_ap"] < 0.5


def test_recall_by_class_is_of_the_objects_of_that_class(tmp_path: Path) -> None:
    content = made(0)
    missed = content["annotations"][0]["category_id"]
    results = [r for r in true_boxes(content) if r["category_id"] != missed]
    found = judged(opened(tmp_path, content), results).per_class()
    name = next(c["name"] for c in content["categories"] if c["id"] == missed)
    assert found.pop(name) < 0.5 and set(found.values()) == {1.0}


def test_nothing_found_is_0_and_no_objects_are_undefined(tmp_path: Path) -> None:
    content = made(0)
    for annotation in content["annotations"]:
        annotation["area"] = 100
    summary = judged(opened(tmp_path, content), []).summary()
    assert [summary[name] for name in METRICS] == [0, 0, 0, 0, -1, -1]


def test_the_network_s_detections_are_collected_like_coco_s(tmp_path: Path) -> None:
    data = opened(tmp_path, made(0))
    evaluator = evaluator_of(data, class_agnostic=True)
    assert isinstance(evaluator, RecallEvaluator) and evaluator.summary()["box_ar100"] == 0
    for row, image_id in enumerate(data.image_ids):
        boxes = data.target(row)["boxes"] / 2
        evaluator.add(
            image_id,
            Detections(boxes=boxes, labels=torch.zeros(len(boxes)).long(), scores=torch.ones(len(boxes))),
            (2, 2),
        )
    assert evaluator.summary()["box_ar100"] == pytest.approx(1)
    other = RecallEvaluator(data)
    other.take(evaluator.found)
    assert other.summary() == evaluator.summary()


def test_each_detection_finds_one_object_the_one_it_overlaps_most() -> None:
    objects = np.array([[0.0, 0, 10, 10], [4, 0, 10, 10]])
    found = np.array([[3.0, 0, 10, 10, 0.9, 1], [0, 0, 10, 10, 0.8, 1], [100, 100, 5, 5, 1.0, 1]])
    ranks = ranks_of(objects, found)  # the second by score, of rank 1, is nearest to the second object
    assert ranks[0].tolist() == [2, 1] and ranks[-1].tolist() == [2, 1000]
