"""`detect eval` shows and writes bounds where a validation set has enough images, and says why where it has not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from detection.eval.coco import CocoEvaluator
from detection.eval.intervals import bounds_of
from detection.eval.recall import RecallEvaluator
from detection.eval.several import SeveralEvaluators
from detection.inference.metrics import show_evaluator, with_classes
from detection.training.cards import intervals_of
from tests.detection.eval.of_squares import truth_and_results


def evaluator_of(folder: Path, images: int) -> CocoEvaluator:
    data, results = truth_and_results(folder, images)
    evaluator = CocoEvaluator(data, "pycocotools")
    evaluator.merge([results])
    return evaluator


def test_bounds_stand_beside_the_metrics_and_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    evaluator = evaluator_of(tmp_path, 60)
    show_evaluator(evaluator, tmp_path / "out.json", draws=50)
    told = json.loads((tmp_path / "out.json").read_text())
    assert {name: told[name] for name in with_classes(evaluator)} == pytest.approx(
        {name: None if value == -1 else value for name, value in with_classes(evaluator).items()}
    )
    held = told["intervals"]
    assert (held["level"], held["draws"], held["images"]) == (0.95, 50, 60)
    assert {"box_ap", "box_ap50", "box_ap_small", "box_ar100", "ap of disc"} <= held["bounds"].keys() <= told.keys()
    assert "ap of rare" not in held["bounds"], "three images have one"
    for name, (low, high) in held["bounds"].items():
        assert 0 <= low < told[name] < high <= 1
    low, high = held["bounds"]["box_ap"]
    assert f"{told['box_ap']:.4f}  {low:.4f} to {high:.4f}\n" in capsys.readouterr().out


def test_few_images_have_no_bounds_and_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = evaluator_of(tmp_path, 49)
    with caplog.at_level(logging.INFO):
        show_evaluator(evaluator, tmp_path / "out.json")
    assert "no intervals: 49 validation images" in caplog.text
    assert "intervals" not in json.loads((tmp_path / "out.json").read_text())


def test_no_draws_no_bounds_no_sentence(tmp_path: Path) -> None:
    bounds = bounds_of(evaluator_of(tmp_path, 60), 0)
    assert (bounds.of, bounds.note, bounds.to_dict()) == ({}, "", {})


def test_recall_of_any_class_has_none_and_says_so(tmp_path: Path) -> None:
    data, results = truth_and_results(tmp_path, 60)
    evaluator = RecallEvaluator(data)
    evaluator.merge([results])
    assert bounds_of(evaluator, 10).of == {}
    assert "class-agnostic" in bounds_of(evaluator, 10).note


def test_several_data_sets_have_bounds_each_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    parts = {0: ("many", evaluator_of(tmp_path, 60)), 1: ("few", evaluator_of(tmp_path / "few", 20))}
    bounds = bounds_of(SeveralEvaluators(parts), 20)
    assert "many/box_ap" in bounds.of and not any(name.startswith("few/") for name in bounds.of)
    assert bounds.note.startswith("few: no intervals: 20 validation images")


def test_the_card_of_a_finished_run_holds_the_bounds_of_its_metrics(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, 60)
    held = intervals_of([evaluator], evaluator.summary())
    assert held["draws"] == 1000
    assert "box_ap" in held["bounds"] and held["bounds"].keys() <= evaluator.summary().keys()
    assert intervals_of([], {"box_ap": 0.5}) == {}, "a run that was continued after its last evaluation"
