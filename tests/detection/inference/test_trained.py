"""Masks and keypoints are evaluated, written as COCO results, and evaluate to the same numbers from the file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from PIL import Image

from backbones import backbone
from detection.data.annotations.coco_json import read_coco
from detection.data.annotations.skeleton import Skeleton
from detection.data.coco import CocoDetection
from detection.eval.coco import CocoEvaluator
from detection.inference import trained
from detection.inference.predict import predict
from detection.nets import detector
from detection.recipe import DataConfig
from detection.training import task
from detection.training.task import DetectTask
from shared.errors import DataError, UsageError
from shared.feeding.feed import in_order
from shared.feeding.pixels import pixel_stats
from shared.weights.card import Exported
from shared.weights.store import Store

codec: Any = pycocotools.mask
TINY = {"width": 16, "hidden": 16, "max_detections": 6, "min_score": 0.0}
NETWORKS = {
    "mask_rcnn": TINY | {"mask_width": 8, "mask_depth": 1},
    "keypoint_rcnn": TINY | {"keypoint_width": 8, "keypoint_depth": 1, "num_keypoints": 3},
}
SKELETON = Skeleton(("head", "left", "right"), ((0, 1), (0, 2)), (0, 2, 1), (0.1, 0.1, 0.1))


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of 48x64 with two triangles each, and keypoints at the three corners of each."""
    folder, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    images = [{"id": 10 + n, "file_name": f"{n}.png", "height": 48, "width": 64} for n in range(4)]
    annotations = []
    for number in range(8):
        x, y, side = (int(v) for v in rng.integers((2, 2, 16), (30, 18, 26)))
        corners = [x, y, x + side, y + side, x, y + side]
        points = [value for i in range(3) for value in (*corners[2 * i : 2 * i + 2], 2)]
        annotation = {"id": number + 1, "image_id": 10 + number // 2, "category_id": 7, "bbox": [x, y, side, side]}
        annotation |= {"area": side**2 / 2, "iscrowd": 0, "segmentation": [corners]}
        annotations.append(annotation | {"keypoints": points, "num_keypoints": 3})
    for image in images:
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / "photos" / image["file_name"])
    categories = [{"id": 7, "name": "kite", "keypoints": list(SKELETON.names), "skeleton": [[1, 2], [1, 3]]}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "whole.json").write_text(json.dumps(content))
    boxes = [{k: v for k, v in a.items() if "s" not in k[:1] and "keypoints" not in k} for a in annotations]
    bare = {**content, "annotations": boxes, "categories": [{"id": 7, "name": "kite"}]}
    (folder / "boxes.json").write_text(json.dumps(bare))
    return folder


def told(coco: Path, name: str = "whole", **more: Any) -> DataConfig:
    return DataConfig(data_path=coco / "photos", coco_json_path=coco / f"{name}.json", **more)


@pytest.fixture
def opened(store: Store, card: Callable[..., Any]) -> Callable[[str], trained.Trained]:
    """Name of a network -> an export with random weights, opened."""

    def build(network: str) -> trained.Trained:
        net = detector.build(network, backbone.build("test_resnet"), 1, **NETWORKS[network])
        args = {"network": network, "network_args": NETWORKS[network], "backbone": "test_resnet", "backbone_args": {}}
        classes: dict[str, Any] = {"names": ["kite"], "source_ids": [7]}
        if network == "keypoint_rcnn":
            classes["skeleton"] = SKELETON.to_dict()
        recipe = {"size": [64, 64], "max_size": None, "multiscale": False, "aug_type": "hflip"}
        arch = f"{network}-test_resnet"
        folder = store.put(net, card(arch=arch, kind="detector", args=args, classes=classes, recipe=recipe))
        found = next(e for e in store.all() if folder is not None and e.card.arch == arch)
        return trained.Trained(found, torch.device("cpu"))

    return build


@pytest.mark.parametrize(
    ("network", "words", "size"),
    [
        ("detr", {"resize_rule": "torchvision"}, (749, 1333)),
        ("detr", {"resize_rule": "detr"}, (750, 1333)),
        ("detr", {"resize_rule": None}, (750, 1333)),
        ("detr", {}, (749, 1333)),
        ("fcos", {"resize_rule": None}, (749, 1333)),
    ],
)
def test_weights_are_used_with_the_resize_of_their_card_and_older_ones_with_the_one_they_had(
    network: str, words: dict[str, Any], size: tuple[int, int], card: Callable[..., Any]
) -> None:
    own = trained.Trained.__new__(trained.Trained)
    recipe = {"size": [800, 800], "max_size": 1333, "multiscale": False, "aug_type": "hflip", **words}
    own.recipe, own.exported = recipe, Exported(Path(), card(kind="detector", args={"network": network}))
    nothing: Any = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    image, _ = own.resize()(torch.zeros(3, 360, 640, dtype=torch.uint8), nothing, np.random.default_rng(0))
    assert image.shape[1:] == size


def scored(metrics: dict[str, float]) -> set[str]:
    return {name.split("_")[0] for name in metrics if " of " not in name}


@pytest.mark.parametrize(("network", "kind"), [("mask_rcnn", "mask"), ("keypoint_rcnn", "keypoint")])
def test_what_a_network_finds_is_scored_and_scores_the_same_from_its_file(
    network: str, kind: str, coco: Path, opened: Callable[[str], trained.Trained], tmp_path: Path
) -> None:
    again, how = opened(network), {"batch_size": 2, "workers": 0, "size": None}
    metrics = trained.evaluate(told(coco), again, save=tmp_path / "found.json", **how)
    assert scored(metrics) == {"box", kind} and f"{kind} ap of kite" in metrics and "ap of kite" in metrics
    entry = json.loads((tmp_path / "found.json").read_text())[0]
    assert ("segmentation" in entry, len(entry.get("keypoints", []))) == ((True, 0) if kind == "mask" else (False, 9))
    from_file = trained.evaluate_results(told(coco), str(tmp_path / "found.json"))
    assert from_file == {name: value for name, value in metrics.items() if " of " not in name}


@pytest.mark.parametrize("network", [*NETWORKS])
def test_predictions_hold_them_and_become_labels_that_training_reads(
    network: str, coco: Path, opened: Callable[[str], trained.Trained], tmp_path: Path
) -> None:
    how = {"annotations": None, "min_score": 0.0, "size": None, "max_size": None, "annotate": True}
    again = opened(network)
    found = again.task.detect

    def detect(pictures: list[torch.Tensor], targets: Any = ()) -> list[Any]:
        """Random weights give empty masks; shift the probabilities above 0.5."""
        return [
            {**one, **{name: one[name].abs() + 0.6 for name in ("masks",) if name in one}} for one in found(pictures)
        ]

    again.task.detect = detect  # type: ignore[method-assign]
    predict(again, [str(coco / "photos")], tmp_path / "out", **how)
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results and all(entry["category_id"] == 7 for entry in results)
    labels = read_coco(tmp_path / "out/annotations.json", again.finds)
    listed = json.loads((tmp_path / "out/images.json").read_text())
    if network == "mask_rcnn":
        decoded = codec.decode(results[0]["segmentation"])
        *_, w, h = results[0]["bbox"]
        assert decoded.shape == (48, 64) and decoded.sum() == pytest.approx(w * h, rel=0.3, abs=20)
        assert labels.masks is not None
    else:
        assert labels.skeleton == SKELETON and listed["categories"][0]["keypoints"] == list(SKELETON.names)
    assert Image.open(tmp_path / "out/0.png.jpg").size == (640, 480)


def test_the_truth_scores_1_in_all_that_the_annotations_hold(coco: Path) -> None:
    whole, boxes = (trained.evaluate_results(told(coco, name), "truth") for name in ("whole", "boxes"))
    assert [whole[name] for name in ("box_ap", "mask_ap", "keypoint_ap")] == pytest.approx([1, 1, 1])
    assert scored(boxes) == {"box"} and boxes["box_ap"] == pytest.approx(1)


def test_what_only_one_of_results_and_annotations_holds_is_not_scored(
    coco: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    box = {"image_id": 10, "category_id": 7, "bbox": [2, 2, 9, 9], "score": 0.5}
    (tmp_path / "boxes.json").write_text(json.dumps([box]))
    assert scored(trained.evaluate_results(told(coco), str(tmp_path / "boxes.json"))) == {"box"}
    (tmp_path / "points.json").write_text(json.dumps([box | {"keypoints": [3, 3, 1] * 3}]))
    assert scored(trained.evaluate_results(told(coco), str(tmp_path / "points.json"))) == {"box", "keypoint"}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert scored(trained.evaluate_results(told(coco, "boxes"), str(tmp_path / "points.json"))) == {"box"}
    assert "boxes.json has no keypoints, so those of" in caplog.text


def test_sigmas_are_told_as_a_number_as_many_or_as_a_file(coco: Path, tmp_path: Path) -> None:
    results = [
        {"image_id": a["image_id"], "category_id": 7, "bbox": a["bbox"], "score": 0.5}
        | {"keypoints": [v + 2 * (i % 3 < 2) for i, v in enumerate(a["keypoints"])]}
        for a in json.loads((coco / "whole.json").read_text())["annotations"]
    ]
    (tmp_path / "near.json").write_text(json.dumps(results))
    (tmp_path / "sigmas.txt").write_text("0.5\n0.5\n0.5\n")

    def ap(*sigmas: str) -> float:
        return trained.evaluate_results(told(coco, oks_sigmas=sigmas), str(tmp_path / "near.json"))["keypoint_ap"]

    assert ap("0.02") < ap() < ap("0.5") == ap("0.5", "0.5", "0.5") == ap(str(tmp_path / "sigmas.txt"))
    with pytest.raises(DataError, match="gives 2 sigmas for 3 keypoints"):
        ap("0.1", "0.2")
    with pytest.raises(UsageError, match="--oks-sigmas needs keypoints"):
        trained.evaluate_results(told(coco, "boxes", oks_sigmas=("0.1",)), "truth")


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON"])
def test_a_file_that_holds_no_results_is_refused(content: str, coco: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(DataError, match=r"odd\.json cannot be read as COCO results"):
        trained.evaluate_results(told(coco), str(tmp_path / "odd.json"))


@pytest.mark.parametrize("network", [*NETWORKS])
def test_two_ranks_find_what_one_process_finds(network: str, coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = detector.build(network, backbone.build("test_resnet"), 1, **NETWORKS[network])
    data = CocoDetection(
        coco / "photos", coco / "whole.json", finds=("masks",) if network == "mask_rcnn" else ("keypoints",)
    )
    work = DetectTask(net.eval(), pixel_stats("imagenet"), lambda: CocoEvaluator(data, "pycocotools", data.finds))
    alone = work.evaluated(in_order(data, 1))
    parts = [work.evaluated(in_order(data, 1, rank=rank, world=2)).found for rank in range(2)]
    assert all(0 < len(part) < 4 for part in parts)
    monkeypatch.setattr(task.dist, "world", lambda: 2)
    monkeypatch.setattr(task.dist, "gather", lambda own: [own, copy.deepcopy(parts[1])])
    both = work.evaluated(in_order(data, 1, rank=0, world=2))
    assert both.results() == alone.results() and both.summary() == alone.summary() and len(both.found) == 4


@pytest.mark.parametrize(
    ("recipe", "native", "device", "expected"),
    [
        ({}, True, "cuda", None),
        ({"amp": False}, True, "cpu", None),
        ({"amp": True, "amp_dtype": "float16"}, False, "cuda", torch.float16),
        ({"amp": True, "amp_dtype": "bfloat16"}, False, "cuda:1", torch.bfloat16),
        ({"amp": True, "amp_dtype": "float16"}, True, "cpu", torch.bfloat16),
        ({"amp": True, "amp_dtype": "bfloat16"}, False, "cpu", None),
    ],
)
def test_a_detector_is_evaluated_in_the_precision_it_was_trained_in(
    recipe: dict[str, Any], native: bool, device: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detection.inference.trained.has_native_bfloat16", lambda: native)
    monkeypatch.setattr("shared.devices.device.has_native_bfloat16", lambda: native)
    own: Any = SimpleNamespace(recipe=recipe, device=torch.device(device))
    assert trained.Trained.precision(own) is expected
