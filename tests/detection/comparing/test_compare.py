"""`detect compare` says which of two is better, or that the images cannot tell; other sets and classes are refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from detection.comparing import compare as page
from detection.comparing.commands import compare
from detection.comparing.differences import compared
from detection.eval.coco import CocoEvaluator
from detection.inference.overlap import Certificate, Leak
from detection.statistics.errors import KINDS
from shared.errors import DataError, UsageError, WeightsError
from tests.detection.eval.of_squares import truth_and_results
from tests.shared.runs.test_report_in_a_browser import look_at, needs_browser


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """a.json, of a poor detector, and b.json, of a good one, on 60 images."""
    for name, noise in (("a", 6.0), ("b", 1.0)):
        _, results = truth_and_results(tmp_path, 60, noise)
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    return tmp_path


def words(folder: Path, a: str, b: str, *more: str) -> list[str]:
    place = ["--data-path", str(folder), "--coco-json-path", str(folder / "truth.json"), "--draws", "100"]
    return [str(folder / a), str(folder / b), *place, *more]


def test_the_better_one_is_named_with_an_interval(both: Path, capsys: pytest.CaptureFixture) -> None:
    out, numbers = both / "page.html", both / "numbers.json"
    argv = words(both, "a.json", "b.json", "--output", str(out), "--json", str(numbers), "--pictures", "3")
    assert compare(argv) == 0
    told = json.loads(numbers.read_text())
    headline = told["metrics"]["box_ap"]
    assert 0 < headline["low"] < headline["difference"] < headline["high"]
    assert headline["difference"] == pytest.approx(headline["b"] - headline["a"]) and headline["real"]
    assert told["classes"]["ap of square"]["real"] and told["classes"]["ap of rare"]["low"] is None
    assert list(told["errors"]) == list(KINDS)
    assert told["errors"]["localization"]["cost_a"] > told["errors"]["localization"]["cost_b"]
    assert told["verdict"].startswith("B is better: box_ap") and told["verdict"] in capsys.readouterr().out
    text = out.read_text()
    assert told["verdict"] in text and text.count("data:image/jpeg;base64,") == 3
    assert "http" not in text.replace("http-equiv", "")
    for flag in ("--output", "--json"):
        with pytest.raises(UsageError, match="nothing is overwritten"):
            compare(words(both, "a.json", "b.json", flag, str(out)))
    assert out.read_text() == text


def test_a_set_of_results_cannot_be_told_from_itself(both: Path, capsys: pytest.CaptureFixture) -> None:
    assert compare(words(both, "a.json", "a.json")) == 0
    said = capsys.readouterr().out
    assert "These images cannot tell which is better" in said and "0 photographs of 60 changed" in said


def test_few_images_get_no_verdict(tmp_path: Path) -> None:
    evaluators = []
    for noise in (6.0, 1.0):
        data, results = truth_and_results(tmp_path, 20, noise)
        evaluators.append(CocoEvaluator(data, "pycocotools"))
        evaluators[-1].merge([results])
    told = compared(*evaluators, draws=100)
    assert "too few" in page.verdict(told) and not any(one.real for one in told.metrics + told.classes)
    assert told.changed and told.note


@pytest.mark.parametrize(
    ("change", "refusal"),
    [({"image_id": 999}, "image 999 is not in"), ({"category_id": 77}, "results of category 77, which")],
)
def test_results_of_other_images_or_label_maps_are_refused(change: dict[str, Any], refusal: str, both: Path) -> None:
    results = json.loads((both / "a.json").read_text())
    results[0] |= change
    (both / "odd.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match=refusal):
        compare(words(both, "a.json", "odd.json"))


def test_what_is_not_there_is_said(both: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*nothing\.json"):
        compare(words(both, "a.json", "nothing.json"))
    with pytest.raises(WeightsError, match="neither a run, an export nor a tag"):
        compare(words(both, "a.json", "runs/none", "--weights-dir", str(tmp_path / "weights")))
    with pytest.raises(UsageError, match="do not say what they are results of"):
        compare([str(both / "a.json"), str(both / "b.json")])


def side(name: str, recipe: dict[str, Any], classes: tuple[str, ...] = ("disc",)) -> page.Side:
    """A stand-in for trained weights."""
    weights: Any = SimpleNamespace(classes=SimpleNamespace(names=classes), told=False, recipe=recipe, exported=name)
    return page.Side(name, weights, None)


def test_runs_of_other_classes_or_validation_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a and b know other classes \(square only"):
        page.check_classes([side("a", {}), side("b", {}, ("disc", "square"))])
    places = []
    for number in (0, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        truth_and_results(folder, 4 + number)
        places.append({"data_path": str(folder), "coco_json_path": str(folder / "truth.json")})
    same = page.place_of([side("a", places[0]), side("b", places[0])])
    assert same.data_path == tmp_path / "0"
    with pytest.raises(UsageError, match="a and b have different validation sets"):
        page.place_of([side("a", places[0]), side("b", places[1])])
    with pytest.raises(DataError, match="which is not here"):
        page.place_of([side("a", {"data_path": str(tmp_path / "gone")})])


def test_what_is_known_of_the_pretraining_of_each_is_said(both: Path, capsys: pytest.CaptureFixture) -> None:
    checked = Certificate(60, [Leak(0, "0.png", None, "resnet18 mim")], 900, None, None, [])
    weights: Any = SimpleNamespace(certificate=checked)
    told = page.seen_by([page.Side("a", weights, None), page.Side("b.json", None, "b.json")])
    assert told["A"] == checked.lines() and "1 of 60 validation images were seen in pretraining" in told["A"][0]
    assert "a result file does not say" in told["B"][0]
    out, numbers = both / "page.html", both / "numbers.json"
    compare(words(both, "a.json", "b.json", "--output", str(out), "--json", str(numbers), "--pictures", "0"))
    assert told["B"][0] in capsys.readouterr().out and f"A: {told['B'][0]}" in out.read_text()
    assert json.loads(numbers.read_text())["seen_in_pretraining"]["B"] == told["B"]


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_the_page_fits_a_phone(width: int, scheme: str, both: Path) -> None:
    (both / "b.json").rename(both / f"{'a_long_name_' * 8}.json")
    out = both / "page.html"
    compare(words(both, "a.json", f"{'a_long_name_' * 8}.json", "--output", str(out), "--pictures", "3"))
    look_at(out, width, scheme)


def test_what_differs_between_recipes_is_listed_without_what_says_where_a_run_ran() -> None:
    ours, theirs = {"lr": 0.1, "device": "cpu", "name": "x"}, {"lr": 0.2, "device": "cuda", "name": "y", "epochs": 3}
    assert page.differing([side("a", ours), side("b", theirs)]) == {"lr": ("0.1", "0.2"), "epochs": ("None", "3")}
