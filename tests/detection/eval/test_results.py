"""Saved results give the numbers we report when pycocotools reads them itself: loadRes, COCOeval, every kind."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest

from detection.data.coco import CocoDetection
from detection.eval.coco import METRICS_OF, CocoEvaluator, ground_truth_as_results
from detection.eval.results import for_scoring, write_for_scoring

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder")) / "coco-keypoints"
codec: Any = pycocotools.mask
IOU_TYPES = {"boxes": "bbox", "masks": "segm", "keypoints": "keypoints"}


def by_pycocotools(truth: Path, results: Path, kind: str) -> list[float]:
    """The twelve or ten numbers, from two paths and nothing else."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        api: Any = COCO(str(truth))
        evaluation: Any = COCOeval(api, api.loadRes(str(results)), IOU_TYPES[kind])  # type: ignore[arg-type]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


def shaken(data: CocoDetection, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Results near the truth: boxes much larger than their masks, moved masks and keypoints, and false ones."""
    results = ground_truth_as_results(data)
    results += [{**entry, "category_id": results[-1]["category_id"]} for entry in results[::4]]
    for entry in results:
        x, y, w, h = entry["bbox"]
        entry["bbox"] = [x - 0.2 * w, y - 0.1 * h, w * rng.uniform(1, 2), h * rng.uniform(0.8, 1.6)]
        entry["score"] = float(rng.integers(1, 90) / 90)
        if "keypoints" in entry:
            points = np.array(entry["keypoints"], dtype=float).reshape(-1, 3)
            points[:, :2] += rng.normal(0, 0.03 * w, (len(points), 2))
            points[:, 2] = 1
            entry["keypoints"], entry["keypoint_scores"] = points.ravel().tolist(), [0.5] * len(points)
        moved = np.roll(codec.decode(entry["segmentation"]), rng.integers(-5, 6, 2), (0, 1))
        entry["segmentation"] = {**entry["segmentation"], "counts": encoded(moved)}
    return results


def encoded(mask: np.ndarray) -> str:
    return codec.encode(np.asfortranarray(mask))["counts"].decode()


@pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder with coco-keypoints")
@pytest.mark.parametrize(
    ("annotations", "kind"), [("instances", "masks"), ("person_keypoints", "masks"), ("person_keypoints", "keypoints")]
)
def test_pycocotools_reads_from_the_files_what_is_reported(annotations: str, kind: str, tmp_path: Path) -> None:
    finds = ("masks", "keypoints") if annotations == "person_keypoints" else ("masks",)
    truth = REAL / f"annotations/{annotations}_train2017.json"
    results = shaken(
        CocoDetection(REAL / "train2017", truth, finds=finds),
        np.random.default_rng(0),
    )
    dropped = {"masks": ("keypoints", "keypoint_scores"), "keypoints": ("segmentation",)}[kind]
    results = [{name: value for name, value in entry.items() if name not in dropped} for entry in results]
    results = [entry for entry in results if {"masks": "segmentation", "keypoints": "keypoints"}[kind] in entry]
    evaluator = CocoEvaluator(CocoDetection(REAL / "train2017", truth, finds=(kind,)), "auto", (kind,))
    evaluator.merge([results])
    reported = evaluator.summary()
    file, boxes = write_for_scoring(tmp_path / "found.json", evaluator.results())
    assert (file.name, boxes.name) == ("found.json", "found.bbox.json")
    for each, path in ((kind, file), ("boxes", boxes)):
        expected = [reported[name] for name in METRICS_OF[each]]
        assert by_pycocotools(truth, path, each) == pytest.approx(expected, abs=1e-9)
        assert 0.01 < expected[0] < 0.99
    again = CocoEvaluator(evaluator.dataset, "auto", (kind,))
    again.merge([json.loads(file.read_text())])
    assert again.summary() == reported, "our own reading finds the boxes again"
    (tmp_path / "both.json").write_text(json.dumps(results))
    wrong = by_pycocotools(truth, tmp_path / "both.json", kind)
    assert wrong[0] == pytest.approx(reported[METRICS_OF[kind][0]], abs=1e-9)
    assert wrong != pytest.approx([reported[name] for name in METRICS_OF[kind]], abs=1e-3), "areas of the boxes"


def test_results_of_one_kind_stay_as_they_are_and_of_several_get_a_file_each() -> None:
    box = {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}
    assert for_scoring([box]) == {"": [box]} and for_scoring([]) == {"": []}
    both = {**box, "segmentation": {"size": [9, 9], "counts": "abc"}, "keypoints": [1, 2, 1]}
    parts = for_scoring([both, box])
    assert {
        name: [sorted(entry.keys() - {"image_id", "category_id", "score"}) for entry in part]
        for name, part in parts.items()
    } == {"": [["box", "keypoints", "segmentation"]], "bbox": [["bbox"], ["bbox"]], "keypoints": [["keypoints"]]}
