"""Matching once and accumulating gives the numbers of pycocotools: boxes, masks, keypoints, crowds, all areas."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.data.coco import CocoDetection
from detection.eval.coco import METRICS_OF, CocoEvaluator, of_kind
from detection.eval.lvis import LvisEvaluator
from detection.eval.official import IOU_TYPE, annotations_of
from detection.statistics.accumulate import accumulate
from detection.statistics.bootstrap import sample_of
from detection.statistics.matching import PLACES
from tests.detection.eval.of_lvis import crowded, made, perturbed, written
from tests.detection.eval.of_masks_keypoints import content, guesses

KINDS = ("boxes", "masks", "keypoints")
needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> CocoEvaluator:
    """Twelve images of stars, crowds and keypoints, with equal scores; every object found roughly, some twice."""
    folder, told = tmp_path_factory.mktemp("scenes"), content()
    for image in told["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    (folder / "both.json").write_text(json.dumps(told))
    data = CocoDetection(folder, folder / "both.json", finds=KINDS[1:])
    evaluator = CocoEvaluator(data, "pycocotools", KINDS[1:])
    for image_id, detections in guesses(data):
        evaluator.add(image_id, detections, (1.0, 1.0))
    return evaluator


def curves_by_pycocotools(evaluator: CocoEvaluator, kind: str, copies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AR (A, C) at all thresholds, of a file in which each image comes as often as `copies` (I,) says."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = evaluator.dataset.ground_truth(), annotations_of(kind, evaluator.rows(kind))
    ids = sorted(image["id"] for image in truth["images"])
    sides: list[Any] = [COCO(), COCO()]
    for side, entries in zip(sides, (truth["annotations"], found), strict=True):
        images, annotations = [], []
        for image_id, times in zip(ids, copies.tolist(), strict=True):
            for copy in range(int(times)):
                number = image_id * 100 + copy
                images.append({"id": number, "height": 1, "width": 1})
                annotations += [{**e, "image_id": number} for e in entries if e["image_id"] == image_id]
        for number, entry in enumerate(annotations, start=1):
            entry["id"] = number
            if kind == "masks" and isinstance(entry["segmentation"], list | dict):
                entry["segmentation"] = whole(entry["segmentation"], evaluator.original_size(entry["image_id"] // 100))
        side.dataset = {"images": images, "categories": truth["categories"], "annotations": annotations}
        with contextlib.redirect_stdout(io.StringIO()):
            side.createIndex()
    evaluation = COCOeval(sides[0], sides[1], IOU_TYPE[kind])
    if kind == "keypoints":
        evaluation.params.kpt_oks_sigmas = np.array(evaluator.sigmas)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (evaluation.eval[name][..., -1] for name in ("precision", "recall"))  # (T, R, C, A), (T, C, A)
    return np.where(precision < 0, np.nan, precision).mean((0, 1)).T, np.where(recall < 0, np.nan, recall).mean(0).T


def whole(segmentation: Any, size: tuple[int, int]) -> Any:
    from detection.data.masks.paste import merged

    return {"size": [*size], "counts": merged(segmentation, size)}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_one_give_the_numbers_of_pycocotools(evaluator: CocoEvaluator, kind: str) -> None:
    sample = sample_of(evaluator.matches(kind), evaluator.statistics(kind), draws=1, pairs=1)
    expected = evaluator.summary() | {f"{of_kind(kind)} of {n}": ap for n, ap in evaluator.per_class(kind).items()}
    assert {name for name in METRICS_OF[kind] if not name.endswith(("_ar1", "_ar10"))} <= set(sample.names)
    wanted = [np.nan if expected[name] == -1 else expected[name] for name in sample.names]
    assert sample.values.tolist() == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_a_number_of_copies_of_the_image(evaluator: CocoEvaluator, kind: str) -> None:
    apart = CocoEvaluator(evaluator.dataset, "pycocotools", KINDS[1:])
    for image_id, own in evaluator.found.items():  # without equal scores, whose order differs between copies
        rows = own.rows.copy()
        rows[:, 4] += 1e-6 * image_id - 1e-9 * np.arange(len(rows))
        apart.take({image_id: own._replace(rows=rows)})
    copies = np.bincount(np.random.default_rng(3).integers(0, 12, 12), minlength=12)
    curves = accumulate(apart.matches(kind), copies[:, None].astype(float))
    ap, ar = curves_by_pycocotools(apart, kind, copies)
    np.testing.assert_allclose(curves.precision[: len(ap), :, 0], ap, atol=1e-12)
    np.testing.assert_allclose(curves.recall[: len(ar), :, 0], ar, atol=1e-12)


def test_many_draws_in_single_precision_are_those_of_one_after_the_other(evaluator: CocoEvaluator) -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([np.bincount(rng.integers(0, 12, 12), minlength=12) for _ in range(30)], 1)
    matches = evaluator.matches("boxes")
    together = accumulate(matches, draws.astype(np.float32)).precision
    alone = np.concatenate([accumulate(matches, draws[:, [n]].astype(float)).precision for n in range(30)], 2)
    # a recall of 0.35 is below the place 0.35000000000000003 in double precision
    np.testing.assert_allclose(together, alone, atol=2 / len(PLACES))
    assert np.nanmean(np.abs(together - alone)) < 1e-3


def test_lvis_rules_too(tmp_path: Path) -> None:
    path = written(tmp_path, made(0))
    content = json.loads(path.read_text())
    evaluator = LvisEvaluator(CocoDetection(tmp_path, path, lvis=True, need_images=False))
    evaluator.merge([perturbed(content) + crowded(content, "any", 100) + crowded(content, "unfinished", 5)])
    sample = sample_of(evaluator.matches(), evaluator.statistics(), draws=1, pairs=1)
    expected = evaluator.summary() | {f"ap of {name}": ap for name, ap in evaluator.per_class().items()}
    assert expected.keys() <= set(sample.names)
    wanted = [np.nan if expected.get(name, -1) == -1 else expected[name] for name in sample.names]
    assert sample.values.tolist() == pytest.approx(wanted, abs=1e-12, nan_ok=True)
