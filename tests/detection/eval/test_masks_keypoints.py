"""AP of masks and keypoints is pycocotools' own, whoever computes it, and the truth scores 1."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from PIL import Image

from detection.data.coco import CocoDetection
from detection.eval.coco import METRICS, METRICS_OF, CocoEvaluator, ground_truth_as_results
from detection.eval.official import Rows, areas_of
from detection.types import Detections
from shared.errors import DataError, Refusal
from tests.detection.eval.of_masks_keypoints import content, guesses

REAL = Path(os.environ.get("CHORDATE_REAL_DATA", "no-such-folder"))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="CHORDATE_REAL_DATA names no folder")
needs_hotcoco = pytest.mark.skipif(importlib.util.find_spec("hotcoco") is None, reason="hotcoco is not installed")
BACKENDS = ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)]
codec: Any = pycocotools.mask
BOTH = ("masks", "keypoints")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoDetection:
    folder, told = tmp_path_factory.mktemp("scenes"), content()
    for image in told["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(folder / image["file_name"])
    (folder / "both.json").write_text(json.dumps(told))
    return CocoDetection(folder, folder / "both.json", finds=BOTH)


def evaluated(data: CocoDetection, found: list[tuple[int, Detections]], backend: str = "pycocotools") -> CocoEvaluator:
    evaluator = CocoEvaluator(data, backend, BOTH)
    for image_id, detections in found:
        evaluator.add(image_id, detections, (1.0, 1.0))
    return evaluator


def by_pycocotools(path: Path, results: list[dict[str, Any]], kind: str, sigmas: Any) -> list[float]:
    """The documented way: COCO(file), loadRes of results that hold this kind alone, COCOeval."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    field, iou_type = {"masks": ("segmentation", "segm"), "keypoints": ("keypoints", "keypoints")}[kind]
    wanted = ("image_id", "category_id", "score", field)
    alone = [{name: copy.deepcopy(entry[name]) for name in wanted} for entry in results if field in entry]
    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO(str(path))
        evaluation: Any = COCOeval(truth, truth.loadRes(alone), iou_type)  # type: ignore[arg-type]
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(number) for number in evaluation.stats]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_are_those_of_pycocotools_on_the_files(data: CocoDetection, backend: str, seed: int) -> None:
    evaluator = evaluated(data, guesses(data, seed, 1.0 + 2 * seed), backend)
    summary, results = evaluator.summary(), json.loads(json.dumps(evaluator.results()))
    assert tuple(summary) == (*METRICS, *METRICS_OF["masks"], *METRICS_OF["keypoints"])
    assert data.skeleton is not None
    for kind in BOTH:
        expected = by_pycocotools(data.table.path, results, kind, data.skeleton.sigmas)
        assert [summary[name] for name in METRICS_OF[kind]] == pytest.approx(expected, abs=1e-9)
    assert 0.05 < summary["mask_ap"] < 0.95 and 0.05 < summary["keypoint_ap"] < 0.95
    alone = CocoEvaluator(data, backend)
    alone.merge([[{k: v for k, v in e.items() if k not in ("segmentation", "keypoints")} for e in results]])
    assert alone.summary() == {name: summary[name] for name in METRICS}


@needs_hotcoco
def test_ap_by_class_is_the_same_from_both_backends(data: CocoDetection) -> None:
    one, other = (evaluated(data, guesses(data), backend) for backend in ("pycocotools", "hotcoco"))
    for kind in ("boxes", *BOTH):
        assert one.per_class(kind) == pytest.approx(other.per_class(kind), abs=1e-9)
        assert set(one.per_class(kind)) == {"cat", "dog"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_truth_scores_1_in_every_kind(data: CocoDetection, backend: str) -> None:
    evaluator = CocoEvaluator(data, backend, BOTH)
    results = json.loads(json.dumps(ground_truth_as_results(data)))
    assert {"segmentation", "keypoints"} <= set(results[0]) and any("keypoints" not in entry for entry in results)
    evaluator.merge([results])
    summary = evaluator.summary()
    assert [summary[name] for name in ("box_ap", "mask_ap", "keypoint_ap")] == pytest.approx([1, 1, 1], abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_found_is_ap_0(data: CocoDetection, backend: str) -> None:
    nothing = Detections(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        scores=torch.zeros(0),
        masks=torch.zeros(0, 28, 28),
        keypoints=torch.zeros(0, 5, 3),
    )
    for evaluator in (CocoEvaluator(data, backend, BOTH), evaluated(data, [(100, nothing)], backend)):
        summary = evaluator.summary()
        assert summary["mask_ap"] == summary["keypoint_ap"] == 0 and evaluator.results() == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_sigmas_decide_how_exact_keypoints_must_be(data: CocoDetection, backend: str) -> None:
    assert data.skeleton is not None
    found, aps = guesses(data), []
    for sigma in (0.02, 0.1, 0.5):
        other = copy.copy(data)
        other.skeleton = data.skeleton.with_sigmas(sigma)
        evaluator = evaluated(other, found, backend)
        expected = by_pycocotools(data.table.path, evaluator.results(), "keypoints", [sigma] * 5)
        assert [*evaluator.summary().values()][-10:] == pytest.approx(expected, abs=1e-9)
        aps.append(evaluator.summary()["keypoint_ap"])
    assert aps[0] < aps[1] - 0.1 < aps[2] - 0.2


def test_everything_returns_to_the_pixels_of_the_photograph(data: CocoDetection) -> None:
    """A half of a box that the network saw at half the height and a quarter of the width."""
    evaluator = CocoEvaluator(data, "pycocotools", BOTH)
    mask = torch.zeros(1, 28, 28)
    mask[:, :, :14] = 1
    found = Detections(
        boxes=torch.tensor([[5.0, 10, 25, 40]]),
        labels=torch.tensor([1]),
        scores=torch.tensor([0.5]),
        masks=mask,
        keypoints=torch.tensor([[[6.0, 11, 0.9]] * 4 + [[7.0, 12, -3]]]),
    )
    evaluator.add(100, found, (2.0, 4.0))
    (entry,) = json.loads(json.dumps(evaluator.results()))
    assert entry["bbox"] == [20, 20, 80, 60] and entry["score"] == 0.5 and entry["category_id"] == 18
    assert entry["keypoints"] == [24, 22, 1] * 4 + [28, 24, 1]
    assert entry["keypoint_scores"] == pytest.approx([0.9] * 4 + [-3])
    decoded = codec.decode(entry["segmentation"])
    assert decoded.shape == (150, 200)
    down, across = np.nonzero(decoded)
    sides = [across.min(), across.max(), down.min(), down.max()]
    assert np.abs(np.array(sides) - (20, 60, 20, 80)).max() <= 2


def test_ranks_and_result_files_merge_to_what_one_process_finds(data: CocoDetection) -> None:
    found = guesses(data)
    alone = evaluated(data, found)
    ranks = [evaluated(data, [*found[rank::2], found[rank]]) for rank in range(2)]
    gathered, read = CocoEvaluator(data, "pycocotools", BOTH), CocoEvaluator(data, "pycocotools", BOTH)
    for rank in reversed(ranks):
        gathered.take(rank.found)
        read.merge([json.loads(json.dumps(rank.results()))])
    assert gathered.results() == read.results() == alone.results()
    assert gathered.summary() == read.summary() == alone.summary()


def test_official_results_without_boxes_are_taken(data: CocoDetection) -> None:
    results = evaluated(data, guesses(data)).results()
    for kind, field in (("masks", "segmentation"), ("keypoints", "keypoints")):
        bare = [{name: e[name] for name in ("image_id", "category_id", "score", field)} for e in results]
        evaluator = CocoEvaluator(data, "pycocotools", (kind,))
        evaluator.merge([bare])
        whole = evaluated(data, guesses(data)).summary()
        assert {n: evaluator.summary()[n] for n in METRICS_OF[kind]} == {n: whole[n] for n in METRICS_OF[kind]}
        assert 0 < evaluator.summary()["box_ap"] < 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"segmentation": {"size": [200, 150], "counts": "T3"}}, "nor an RLE of the 200x150 pixels of image 100"),
        ({"segmentation": {"size": [150, 200], "counts": "T3"}}, "the segmentation of result number 2"),
        ({"segmentation": [[1, 1, 9, 1]]}, "the segmentation of result number 2"),
        ({"segmentation": [1, 1, 9, 1, 9, 9]}, "the segmentation of result number 2"),
        ({"keypoints": [1, 2, 1, 3]}, "the keypoints of result number 2"),
        ({"keypoints": [float("nan"), 2, 1]}, "the keypoints of result number 2"),
        ({"keypoints": "many"}, "the keypoints of result number 2"),
        ({"keypoints": [1, 2, 1] * 4}, r"another number of keypoints \(4 and 5\)"),
    ],
)
def test_results_that_are_none_are_refused(data: CocoDetection, change: dict[str, Any], says: str) -> None:
    good = {"image_id": 100, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5, "keypoints": [1, 2, 1] * 5}
    with pytest.raises(DataError, match=says):
        CocoEvaluator(data, "auto", BOTH).merge([[good, {**good, **change}]])


def test_another_skeleton_and_no_skeleton_are_refused(data: CocoDetection) -> None:
    four = {"image_id": 100, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5, "keypoints": [1, 2, 1] * 4}
    with pytest.raises(DataError, match="detections of 4 keypoints, but the annotations have 5"):
        CocoEvaluator(data, "auto", BOTH).merge([[four]])
    other = copy.copy(data)
    other.skeleton = None
    with pytest.raises(DataError, match=r"both\.json has no keypoint names"):
        CocoEvaluator(other, "auto", BOTH)


def test_nan_keypoints_are_refused(data: CocoDetection) -> None:
    found = guesses(data)[0][1]
    found["keypoints"][0, 0, 0] = float("nan")  # pyright: ignore[reportTypedDictNotRequiredAccess]
    with pytest.raises(Refusal, match="image 100 contain NaN or Inf"):
        CocoEvaluator(data, "auto", BOTH).add(100, found, (1.0, 1.0))


@needs_real_data
@pytest.mark.parametrize(
    ("name", "finds", "backend"),
    [
        ("person_keypoints", BOTH, "pycocotools"),
        pytest.param("person_keypoints", BOTH, "hotcoco", marks=needs_hotcoco),
        pytest.param("instances", BOTH[:1], "hotcoco", marks=needs_hotcoco),
    ],
)
def test_real_files_score_1_on_themselves_and_as_pycocotools_says_when_moved(
    name: str, finds: tuple[str, ...], backend: str
) -> None:
    folder = REAL / "coco-keypoints"
    data = CocoDetection(folder / "train2017", folder / f"annotations/{name}_train2017.json", finds=finds)
    results = ground_truth_as_results(data)
    evaluator = CocoEvaluator(data, backend, finds)
    evaluator.merge([results])
    assert [evaluator.summary()[METRICS_OF[kind][0]] for kind in ("boxes", *finds)] == pytest.approx(
        [1] * (1 + len(finds)), abs=1e-9
    )
    rng = np.random.default_rng(0)
    for entry in results:
        entry["score"] = float(rng.integers(1, 50) / 50)
        if "keypoints" in entry:
            points = np.array(entry["keypoints"], dtype=float).reshape(-1, 3)
            points[:, :2] += rng.normal(0, 0.05 * entry["bbox"][2], (len(points), 2))
            entry["keypoints"] = points.ravel().tolist()
        mask = codec.decode(entry["segmentation"])
        moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
        entry["segmentation"]["counts"] = codec.encode(np.asfortranarray(moved))["counts"].decode()
    evaluator = CocoEvaluator(data, backend, finds)
    evaluator.merge([results])
    summary = evaluator.summary()
    for kind in finds:
        sigmas = None if data.skeleton is None else data.skeleton.sigmas
        expected = by_pycocotools(data.table.path, results, kind, sigmas)
        assert [summary[n] for n in METRICS_OF[kind]] == pytest.approx(expected, abs=1e-9)
        assert 0.1 < expected[0] < 0.99


def test_areas_of_more_than_255_masks() -> None:
    """pycocotools 2.0.11 counts the masks of one call in a byte and raises OverflowError beyond."""
    pixels = np.zeros((8, 8), np.uint8, order="F")
    pixels[2:4, 2:5] = 1
    mask = codec.encode(pixels)
    rows = Rows(np.zeros(600, np.int64), np.zeros((600, 6)), [mask] * 600, np.zeros((0, 0, 3)))
    assert areas_of("masks", rows).tolist() == [6] * 600
