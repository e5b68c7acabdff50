"""What was trained is measured and shown as it was trained: same numbers, source ids, pixels of the photographs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TRAIN = (
    "detect train --network fcos --backbone test_resnet --width 64 --depth 1 --batch-size 4 --epochs 4 "
    "--aug-type hflip --opt adamw --lr 0.002 --clip-grad-norm 5 --device cpu -j 0 --pictures 0 "
    "--seed 1 --name run "
)


def metrics_of(path: Path, last: dict[str, float]) -> dict[str, float]:
    told = json.loads(path.read_text())
    return {name: told[name] for name in last}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["--size 64", "--size 64 --max-size 72", "--size 96 80 --model-ema"])
def test_evaluating_again_gives_the_number_training_ended_with(
    sizes: str, coco: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    assert run(TRAIN + f"{sizes} --data-path {coco}").code == 0
    last = left("run").result()["metrics"]
    assert last["box_ar100"] > 0
    for how in ("--weights runs/run", "--weights run", "--weights fcos-test_resnet/run --batch-size 1"):
        ended = run(f"detect eval {how} --data-path {coco} --device cpu --json again.json --save found.json")
        assert ended.code == 0, ended.err
        again = metrics_of(tmp_path / "again.json", last)
        assert again == (
            pytest.approx(last, abs=0.02) if "--batch-size" in how else last
        )  # other batches round otherwise
        assert re.search(rf"^box_ap +{again['box_ap']:.4f}$", ended.out, re.MULTILINE)
    assert run(f"detect eval --results found.json --data-path {coco} --json file.json").code == 0
    assert metrics_of(tmp_path / "file.json", last) == pytest.approx(last, abs=1e-12)
    assert {row["category_id"] for row in json.loads((tmp_path / "found.json").read_text())} <= {3, 11}


@pytest.mark.parametrize("backend", ["pycocotools", "auto"])
def test_the_ground_truth_as_predictions_scores_one(backend: str, coco: Path, run: Callable, tmp_path: Path) -> None:
    ended = run(f"detect eval --results truth --data-path {coco} --eval-backend {backend} --json truth.json")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "truth.json").read_text())["box_ap"] == pytest.approx(1.0)


@pytest.fixture
def untrained(coco: Path, run: Callable, shards: Path) -> Path:
    """Weights of a detector, whatever they find."""
    assert run(TRAIN.replace("--epochs 4", "--epochs 1") + f"--size 96 96 --data-path {coco}").code == 0
    return coco


def one_known_box() -> None:
    """A detector that finds one thing: label 1 in the left upper quarter of what it sees, and a faint label 0."""
    import torch

    from detection.training.task import DetectTask

    def detect(self: Any, pictures: list, targets: Any = None) -> list:
        height, width = pictures[0].shape[-2:]
        assert (height, width) == (96, 96)
        boxes = torch.tensor([[0, 0, width / 2, height / 2], [8.0, 8.0, 16.0, 16.0]])
        return [{"boxes": boxes, "labels": torch.tensor([1, 0]), "scores": torch.tensor([0.9, 0.06])}]

    DetectTask.detect = detect  # type: ignore[method-assign]


@pytest.mark.slow
def test_predictions_are_in_source_ids_and_pixels_of_the_photographs(
    untrained: Path, run: Callable, tmp_path: Path
) -> None:
    words = "detect predict {} --weights runs/run --device cpu --output {} "
    picture = untrained / "val" / "002.jpg"  # 64 x 48, seen as 96 x 96
    ended = run(words.format(picture, "file"), prepare=one_known_box)
    assert ended.code == 0, ended.err
    assert "1 picture and results.json in file" in ended.out
    best, faint = json.loads((tmp_path / "file" / "results.json").read_text())
    assert (best["image_id"], best["category_id"]) == (1, 11)
    assert best["bbox"] == pytest.approx([0, 0, 32, 24])
    assert (faint["category_id"], faint["score"]) == (3, pytest.approx(0.06))
    assert faint["bbox"] == pytest.approx([8 * 64 / 96, 4, 8 * 64 / 96, 4])
    assert (tmp_path / "file" / "002.jpg").is_file()

    folder = words.format(untrained / "val", "folder") + "--min-score 0.5"
    assert run(folder, prepare=one_known_box).code == 0
    assert [row["image_id"] for row in json.loads((tmp_path / "folder" / "results.json").read_text())] == [*range(1, 7)]
    listing = json.loads((tmp_path / "folder" / "images.json").read_text())
    assert [image["file_name"] for image in listing["images"]] == [f"{i:03d}.jpg" for i in range(6)]
    assert {entry["id"]: entry["name"] for entry in listing["categories"]} == {3: "disc", 11: "square"}

    annotations = untrained / "annotations" / "instances_val.json"
    by_file = words.format(untrained / "val", "coco") + f"--coco-json-path {annotations} --min-score 0.5"
    assert run(by_file, prepare=one_known_box).code == 0
    rows = json.loads((tmp_path / "coco" / "results.json").read_text())
    assert [row["image_id"] for row in rows] == [7, 17, 27, 37, 47, 57]
    scored = run(f"detect eval --results coco/results.json --data-path {untrained} --json out.json")
    assert scored.code == 0, scored.err


@pytest.mark.slow
def test_predictions_of_a_coco_file_score_what_evaluation_scores(
    coco: Path, run: Callable, left: Callable, tmp_path: Path
) -> None:
    assert run(TRAIN + f"--size 64 --data-path {coco}").code == 0
    last = left("run").result()["metrics"]
    annotations = coco / "annotations" / "instances_val.json"
    words = f"detect predict {coco}/val --weights run --coco-json-path {annotations} --min-score 0 --device cpu -o out"
    assert run(words).code == 0
    assert run(f"detect eval --results out/results.json --data-path {coco} --json scored.json").code == 0
    assert metrics_of(tmp_path / "scored.json", last) == pytest.approx(last, abs=1e-6)


@pytest.mark.slow
def test_what_cannot_be_predicted_is_said(untrained: Path, run: Callable, tmp_path: Path) -> None:
    words = "detect predict {} --weights runs/run --device cpu --output out"
    shutil.copytree(untrained / "val", tmp_path / "mixed")
    (tmp_path / "mixed" / "000.jpg").write_bytes(b"no image")
    ended = run(words.format("mixed"))
    assert ended.code == 0, ended.err
    assert "skipped" in ended.out
    assert "5 pictures" in ended.out
    ended = run(words.format("mixed"))
    assert (ended.code, "predictions are never overwritten" in ended.complaint) == (2, True)
    ended = run(words.format("nowhere.jpg") + "2")
    assert (ended.code, "there is no file nowhere.jpg" in ended.complaint) == (3, True)
    ended = run(words.format("mixed/000.jpg") + "3")
    assert (ended.code, "none of the 1 files can be read" in ended.complaint) == (3, True)


@pytest.mark.slow
def test_weights_of_a_backbone_are_no_detector(shards: Path, run: Callable, coco: Path) -> None:
    words = f"pretrain train --model test_resnet --size 32 --epochs 1 --data-path {shards} --name pre --device cpu"
    assert run(words).code == 0
    ended = run(f"detect eval --weights runs/pre --data-path {coco}")
    assert ended.code == 4
    assert "is a backbone; train a detector on it with `detect train --backbone-tag supervised`" in ended.complaint


def test_labels_that_a_detector_makes_are_trained_on_as_any_others(
    untrained: Path, coco: Path, run: Callable, tmp_path: Path
) -> None:
    words = f"detect predict {coco}/val --weights runs/run --device cpu --save coco --min-score 0.01 -o labeled"
    ended = run(words)
    assert ended.code == 0 and "annotations.json: " in ended.out and "labelled.json lists the" in ended.out
    told = json.loads((tmp_path / "labeled/annotations.json").read_text())
    assert len(told["images"]) == 6 and told["annotations"], "an untrained detector is sure of one per cent"
    train = "detect train --network fcos --backbone test_resnet --size 64 --width 64 --depth 1 --epochs 1 --device cpu "
    places = f"--data-path {coco}/val --coco-json-path labeled/annotations.json --num-workers 0 --name next"
    assert run(train + places).code == 0
