"""Panoptic segmentation in the two stages of DETR's paper: boxes, then masks with frozen boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from detection import cli
from tests.end_to_end.test_ranks import assert_same_run

SMALL = "--backbone test_resnet --width 32 --heads 4 --encoder-layers 1 --decoder-layers 1 --feedforward 32 --size 96 "
SMALL += "--num-queries 8 --epochs 1 --batch-size 2 --device cpu --threads 1 --num-workers 0 --aug-level 0"


@pytest.fixture
def coco(in_folder: Path, write_coco: Callable[..., None]) -> Path:
    """coco/ with train and val of four scenes, three things and the ground in each."""
    for split in ("train", "val"):
        write_coco(in_folder / "coco" / split, in_folder / f"coco/{split}.json", {2: "red", 5: "green", 7: "blue"}, 4)
        notes = in_folder / "coco" / "annotations"
        notes.mkdir(exist_ok=True)
        for name in (f"panoptic_{split}.json", f"panoptic_{split}"):
            (in_folder / "coco" / name).rename(notes / name)
    return in_folder / "coco"


@pytest.mark.slow
def test_masks_are_learnt_on_the_boxes_of_a_first_run_and_come_out_as_coco_panoptic(
    coco: Path, capsys: pytest.CaptureFixture
) -> None:
    both = f"--dataset coco_panoptic --data-path coco {SMALL}"
    assert cli.main(f"train --network detr --tag boxes --name first {both}".split()) == 0
    second = f"train --network detr_panoptic --frozen-boxes --init-from runs/first --name second {both}"
    assert cli.main(second.split()) == 0, capsys.readouterr().err
    metrics = json.loads(Path("runs/second/result.json").read_text())["metrics"]
    assert next(iter(metrics)) == "pq" and {"pq_things", "pq_stuff", "box_ap"} <= metrics.keys()

    assert cli.main(["eval", "--weights", "runs/second", "--data-path", "coco", "--json", "again.json"]) == 0
    again = json.loads(Path("again.json").read_text())
    assert {name: again[name] for name in metrics} == pytest.approx(metrics, abs=1e-6)

    predict = "predict coco/val --coco-json-path coco/annotations/panoptic_val.json --weights runs/second --min-score 0"
    assert cli.main(predict.split()) == 0, capsys.readouterr().err
    told = "eval --dataset coco_panoptic --data-path coco --json scored.json --results "
    assert cli.main([*told.split(), "predictions/panoptic.json"]) == 0, capsys.readouterr().err
    assert cli.main([*told.split(), "truth"]) == 0
    assert json.loads(Path("scored.json").read_text())["pq"] == 1.0


@pytest.mark.slow
def test_ids_of_a_png_that_the_json_does_not_know_are_refused(coco: Path, capsys: pytest.CaptureFixture) -> None:
    path = coco / "annotations/panoptic_train.json"
    told = json.loads(path.read_text())
    told["annotations"][1]["segments_info"].pop()
    path.write_text(json.dumps(told))
    train = f"train --network detr_panoptic --dataset coco_panoptic --data-path coco {SMALL}"
    assert cli.main(train.split()) == 3
    said = capsys.readouterr().err
    assert "2.png" in said and said.count("\n") == 1


@pytest.mark.slow
def test_two_processes_learn_the_masks_that_one_learns(
    coco: Path, run: Callable, ranks: Callable, left: Callable
) -> None:
    """Every image has as many objects, so a mean over processes is a mean over micro batches."""
    words = f"detect train --network detr_panoptic --dataset coco_panoptic --data-path coco {SMALL} --batch-size 1 "
    words += "--freeze-backbone-bn --dropout 0 --aug-type hflip --epochs 2 --name "
    assert run(words + "one --grad-accum-steps 2").code == 0
    main, other = ranks(words + "two", 2)
    assert (main.code, other.code) == (0, 0), main.err + other.err
    assert_same_run(left("two"), left("one"))
