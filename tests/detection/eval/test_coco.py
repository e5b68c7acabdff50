"""The evaluator gives COCO's own numbers, in the file's ids and the photographs' pixels, whoever computes them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detection.data.coco import ClassMap, CocoDetection, coco_layout
from detection.eval.coco import METRICS, CocoEvaluator, ground_truth_as_results
from detection.types import Detections
from shared.errors import DataError, Refusal, UsageError

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")
needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoDetection:
    """Twelve images of 200x150 with objects of all sizes, crowds, and an annotation with the id 0."""
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(90):
        x, y, w, h = (rng.random(4) * (100, 80, 90, 60) + (0, 0, 5, 5)).round(2).tolist()
        annotations.append(
            {
                "id": number,
                "image_id": 100 + number % 11,  # the last image is empty
                "category_id": [3, 18, 90][number % 3],
                "bbox": [x, y, w, h],
                "area": w * h * 0.8,
                "iscrowd": int(number % 13 == 5),
            }
        )
    categories = [{"id": i, "name": name} for i, name in ((3, "cat"), (18, "dog"), (44, "none"), (90, "brush"))]
    images = [{"id": 100 + n, "file_name": f"{n}.png", "width": 200, "height": 150} for n in range(12)]
    for image in images:
        Image.new("RGB", (200, 150)).save(folder / image["file_name"])
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(content))
    return CocoDetection(folder, folder / "instances.json")


def guesses(data: CocoDetection, seed: int = 0, noise: float = 6.0) -> list[tuple[int, Detections]]:
    """Objects found roughly, some twice, some not, some confused, with scores that tie now and then."""
    rng = np.random.default_rng(seed)
    found = []
    for index, image_id in enumerate(data.image_ids):
        target = data.target(index)
        boxes = torch.cat((target["boxes"], target["boxes"][::2], torch.tensor([[1.0, 1, 50, 50]])))
        boxes = boxes + torch.from_numpy(rng.normal(0, noise, boxes.shape)).float()
        boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = torch.cat((target["labels"], target["labels"][::2], torch.tensor([0])))
        swap = torch.from_numpy(rng.random(len(labels)) < 0.1)
        labels = torch.where(swap, torch.from_numpy(rng.integers(0, 4, len(labels))), labels)
        scores = torch.from_numpy(rng.integers(1, 30, len(labels)) / 30).sort(descending=True).values
        found.append((image_id, Detections(boxes=boxes, labels=labels, scores=scores)))
    return found


def evaluated(data: CocoDetection, found: list[tuple[int, Detections]], backend: str = "pycocotools") -> CocoEvaluator:
    evaluator = CocoEvaluator(data, backend)
    for image_id, detections in found:
        evaluator.add(image_id, detections, (1.0, 1.0))
    return evaluator


def by_pycocotools(data: CocoDetection, results: list[dict[str, Any]]) -> list[float]:
    """The documented way: COCO(file), loadRes, COCOeval, with annotation ids from 1 since it takes 0 for unmatched."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content = json.loads(data.table.path.read_text())
    for annotation in content["annotations"]:
        annotation["id"] += 1
    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def test_numbers_are_those_of_pycocotools_on_the_files(data: CocoDetection) -> None:
    evaluator = evaluated(data, guesses(data))
    summary = evaluator.summary()
    assert tuple(summary) == METRICS and list(summary.values()) == by_pycocotools(data, evaluator.results())
    assert 0.05 < summary["box_ap"] < 0.95


@needs_hotcoco
@pytest.mark.parametrize("seed", range(4))
def test_hotcoco_gives_the_same_numbers(data: CocoDetection, seed: int) -> None:
    found = guesses(data, seed, noise=1.5 * seed)
    one, other = (evaluated(data, found, backend) for backend in ("pycocotools", "hotcoco"))
    assert one.summary() == pytest.approx(other.summary(), abs=1e-12)
    assert one.per_class() == pytest.approx(other.per_class(), abs=1e-12)
    assert CocoEvaluator(data).backend == "hotcoco"


@pytest.mark.parametrize("backend", ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)])
def test_no_detections_at_all_are_ap_0(data: CocoDetection, backend: str) -> None:
    empty = Detections(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0))
    for evaluator in (CocoEvaluator(data, backend), evaluated(data, [(100, empty)], backend)):
        assert set(evaluator.summary().values()) == {0.0} or evaluator.summary()["box_ap_large"] == -1
        assert evaluator.summary()["box_ap"] == 0 and evaluator.results() == []


@pytest.mark.parametrize("backend", ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)])
def test_the_ground_truth_scores_1(data: CocoDetection, backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    evaluator = CocoEvaluator(data, backend)
    evaluator.merge([ground_truth_as_results(data)])
    assert evaluator.summary()["box_ap"] == pytest.approx(1, abs=1e-12)
    assert evaluator.per_class() == pytest.approx({"cat": 1, "dog": 1, "brush": 1})
    assert capfd.readouterr() == ("", "")


def test_boxes_return_to_original_pixels_and_source_ids(data: CocoDetection) -> None:
    evaluator = CocoEvaluator(data, "pycocotools")
    found = Detections(boxes=torch.tensor([[10.0, 20, 30, 60]]), labels=torch.tensor([3]), scores=torch.tensor([0.5]))
    evaluator.add(105, found, (150 / 300, 200 / 100))
    assert evaluator.results() == [{"image_id": 105, "category_id": 90, "bbox": [20, 10, 40, 20], "score": 0.5}]
    json.dumps(evaluator.results())


def test_ranks_merge_to_what_one_process_finds(data: CocoDetection) -> None:
    found = guesses(data)
    alone = evaluated(data, found)
    ranks = [evaluated(data, [*found[rank::2], found[rank]]) for rank in range(2)]  # an image added twice counts once
    merged = CocoEvaluator(data, "pycocotools")
    merged.merge([ranks[1].results(), ranks[0].results(), ranks[1].results()])
    assert merged.results() == alone.results() and merged.summary() == alone.summary()


def test_a_later_detection_changes_the_summary(data: CocoDetection) -> None:
    evaluator = CocoEvaluator(data, "pycocotools")
    before = evaluator.summary()["box_ap"]
    evaluator.merge([ground_truth_as_results(data)])
    assert before == 0 and evaluator.summary()["box_ap"] > 0.99


@pytest.mark.parametrize("field", ["boxes", "scores"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_detections_are_refused(data: CocoDetection, field: str, value: float) -> None:
    found = guesses(data)[0][1]
    found[field][0] = value  # pyright: ignore[reportTypedDictNotRequiredAccess, reportGeneralTypeIssues]
    with pytest.raises(Refusal, match="image 100 contain NaN or Inf"):
        CocoEvaluator(data).add(100, found, (1.0, 1.0))


def test_a_strange_image_a_strange_label_and_a_strange_result_are_refused(data: CocoDetection) -> None:
    found = guesses(data)[0][1]
    with pytest.raises(DataError, match=r"image 7 is not in .*instances\.json"):
        CocoEvaluator(data).add(7, found, (1.0, 1.0))
    found["labels"][0] = 4
    with pytest.raises(Refusal, match="labels up to 4, but there are 4 classes"):
        CocoEvaluator(data).add(100, found, (1.0, 1.0))
    good = {"image_id": 100, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    for change in ({"bbox": [1, 2, 3]}, {"bbox": None}, {"score": float("nan")}, {"category_id": "cat"}):
        with pytest.raises(DataError, match="result number 2"):
            CocoEvaluator(data).merge([[good, {**good, **change}]])
    with pytest.raises(UsageError, match="no evaluation backend 'coco'"):
        CocoEvaluator(data, "coco")


def test_binary_mode_maps_the_ground_truth_too(data: CocoDetection) -> None:
    binary = CocoDetection(data.images, data.table.path, classes=ClassMap.binary())
    evaluator = CocoEvaluator(binary, "pycocotools")
    evaluator.merge([ground_truth_as_results(binary)])
    assert evaluator.per_class() == pytest.approx({"object": 1})
    confused = [(i, Detections(boxes=f["boxes"], labels=f["labels"] * 0, scores=f["scores"])) for i, f in guesses(data)]
    assert evaluated(binary, confused).summary()["box_ap"] > 0


def test_other_ids_of_the_same_classes_give_the_same_numbers(data: CocoDetection, tmp_path: Path) -> None:
    content = json.loads(data.table.path.read_text())
    for entry in content["annotations"]:
        entry["category_id"] = 1000 - entry["category_id"]
    for entry in content["categories"]:
        entry["id"] = 1000 - entry["id"]
    (tmp_path / "other.json").write_text(json.dumps(content))
    other = CocoDetection(data.images, tmp_path / "other.json", classes=data.classes)
    found = guesses(data)
    assert evaluated(other, found).summary() == pytest.approx(evaluated(data, found).summary(), abs=1e-12)
    assert evaluated(other, found).per_class() == pytest.approx(evaluated(data, found).per_class(), abs=1e-12)


@needs_real_data
@pytest.mark.parametrize(("name", "split"), [("coco-tiny", "train"), ("coco-tiny", "val"), ("bccd", "val")])
@pytest.mark.parametrize("backend", ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)])
def test_the_ground_truth_of_real_files_scores_1_but_for_objects_of_no_area(
    name: str, split: str, backend: str
) -> None:
    data = CocoDetection(*coco_layout(REAL / name, split))
    evaluator = CocoEvaluator(data, backend)
    evaluator.merge([ground_truth_as_results(data)])
    if name == "coco-tiny":
        assert evaluator.summary()["box_ap"] == pytest.approx(1, abs=1e-12)
        return
    # one of the cells is a point: it counts as missed, which costs its class one of the 101 recall places
    assert evaluator.summary()["box_ap"] == pytest.approx((1 + 1 + 100 / 101) / 3)
