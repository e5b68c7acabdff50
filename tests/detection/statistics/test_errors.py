"""The kinds of errors and their costs are TIDE's, as hotcoco computes them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.eval.matched import similarity_of
from detection.eval.official import Numbering, _hotcoco
from detection.statistics.errors import KINDS, Errors, average_precision, errors_of
from tests.detection.statistics.of_scenes import CLASSES, SIDE, Detector, found_by, scenes

needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")
THEIRS = dict(zip(KINDS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))


def evaluator_of(folder: Path, seed: int) -> CocoEvaluator:
    """Forty scenes, some of whose objects are crowds, and a poor detector."""
    rng = np.random.default_rng(seed)
    seen = scenes(rng, 40)
    finds, boxes, *_ = found_by(Detector(noise=0.15, confused=0.3), seen, rng)
    objects = zip(*(column.tolist() for column in seen.objects[:4]), seen.boxes.tolist(), strict=True)
    content = {
        "images": [{"id": n, "file_name": "a.png", "width": 2 * SIDE, "height": 2 * SIDE} for n in range(40)],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(CLASSES + 1)],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "area": area, "iscrowd": int(crowd), "bbox": box}
            for n, (i, c, area, crowd, box) in enumerate(objects, start=1)
        ],
    }
    (folder / "a.png").write_bytes(b"")
    (folder / "truth.json").write_text(json.dumps(content))
    evaluator = CocoEvaluator(CocoDetection(folder, folder / "truth.json"), "pycocotools")
    columns = (finds.images.tolist(), finds.categories.tolist(), finds.scores.tolist(), boxes.tolist())
    keys = ("image_id", "category_id", "score", "bbox")
    evaluator.merge([[dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]])
    return evaluator


def errors(evaluator: CocoEvaluator) -> Errors:
    data, found = evaluator.dataset, evaluator.rows("boxes")
    return errors_of(evaluator.matches(), similarity_of("boxes", data, found), data.table.crowd)


@needs_hotcoco
@pytest.mark.parametrize("seed", [0, 1])
def test_kinds_and_costs_are_those_of_hotcoco(seed: int, tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, seed)
    mine = errors(evaluator)
    truth = evaluator.dataset.ground_truth()
    numbering = Numbering.of(truth)
    numbering.renumber(truth)
    evaluation = _hotcoco(truth)("boxes", numbering.rows(evaluator.rows("boxes")))
    evaluation.evaluate()
    theirs = evaluation.tide_errors()
    assert dict(zip(KINDS, mine.counts.tolist(), strict=True)) == {k: theirs["counts"][v] for k, v in THEIRS.items()}
    assert min(theirs["counts"].values()) > 0
    assert mine.ap == pytest.approx(theirs["ap_base"], abs=1e-12)
    assert mine.costs.tolist() == pytest.approx([theirs["delta_ap"][v] for v in THEIRS.values()], abs=1e-12)


def test_every_detection_is_right_or_ignored_or_of_one_kind(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, 2)
    mine, matches = errors(evaluator), evaluator.matches()
    counted = np.bincount(mine.kind[mine.kind >= 0], minlength=5)
    assert counted.tolist() == mine.counts[:5].tolist()
    assert mine.missed.sum() == mine.counts[5]
    assert mine.ap == pytest.approx(evaluator.summary()["box_ap50"], abs=1e-12)
    assert len(mine.kind) == len(matches.rows) == sum(len(own.rows) for own in evaluator.found.values())


def test_average_precision_of_nothing_is_nothing() -> None:
    nothing = np.zeros(0, dtype=bool)
    assert average_precision(nothing, nothing, 3) == 0
    assert average_precision(np.array([True, False]), np.array([False, True]), 1) == pytest.approx(1)
