"""`detect ablate` from the command line to its page, with a stand-in for the runs: planted truths come out right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from detection.ablation import running
from detection.ablation.cost import Cost, time_of
from detection.ablation.why import SHOWN
from detection.cli import main
from detection.data.coco import CocoDetection
from shared.devices.device import device_name
from shared.weights.card import Card
from shared.weights.seen import digests_of, write_digests
from shared.weights.store import Store
from tests.shared.runs.test_report import checked
from tests.shared.runs.test_report_in_a_browser import look_at, needs_browser

IMAGES = 60
HERE = device_name(torch.device("cpu"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images with three objects each, for training and validation alike."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    annotations = []
    for n in range(3 * IMAGES):
        x, y, w, h = (rng.random(4) * (60, 40, 30, 30) + (0, 0, 8, 8)).round(1).tolist()
        told = {"id": n + 1, "image_id": n // 3 + 1, "category_id": n % 2 + 1, "iscrowd": 0, "area": w * h}
        annotations.append({**told, "bbox": [x, y, w, h]})
    images = [{"id": n + 1, "file_name": f"{n}.png", "width": 100, "height": 80} for n in range(IMAGES)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    (folder / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (folder / split).mkdir()
        for image in images:
            Image.new("RGB", (100, 80), (4 * image["id"], 0, 0)).save(folder / split / image["file_name"])
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return folder


class Program:
    """Stands in for `detect train` and `detect eval`: a run finds a share of the objects, by what it starts from."""

    def __init__(self, ability: dict[str, float], best_lr: dict[str, float] | None = None) -> None:
        self.ability, self.best_lr, self.called, self.fails = ability, best_lr or {}, [], set[str]()
        self.epochs, self.recorded = dict[str, int](), True

    def run(self, command: list[str], log: Path) -> int:
        kind, words = command[3], command[4:]
        told = {flag: value for flag, value in zip(words, [*words[1:], ""], strict=True) if flag.startswith("--")}
        if kind == "train":
            self.called.append(told["--name"])
            self.epochs[told["--name"]] = int(told["--epochs"])
            if told["--name"] in self.fails:
                return 75
            arm = told.get("--backbone-tag", "scratch")
            folder = Path(told["--output-dir"]) / told["--name"]
            folder.mkdir(parents=True)
            off = abs(np.log(float(told["--lr"]) / self.best_lr.get(arm, 0.01)))
            told = {**told, "arm": arm, "metrics": {"box_ap": 0.5 - 0.1 * off}, "finished": True}
            if self.recorded:
                spent = 18.0 * int(told["--epochs"])
                told |= {"cost": {"seconds": 2 * spent, "device": HERE, "processes": 1, "processor_seconds": spent}}
            (folder / "result.json").write_text(json.dumps(told))
            row = {"kind": "val", "step": 1, "epoch": 1.0, "box_ap": 0.3}
            (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        else:
            run = json.loads((Path(told["--weights"]) / "result.json").read_text())
            truth = json.loads(Path(told["--coco-val-json-path"]).read_text())["annotations"]
            name = run["arm"]
            rng = np.random.default_rng([int(run["--seed"]), len(name)])
            found = [
                {**{key: one[key] for key in ("image_id", "category_id", "bbox")}, "score": float(rng.random())}
                for one in truth
                if rng.random() < self.ability[name]
            ]
            Path(told["--save"]).write_text(json.dumps(found))
        return 0


@pytest.fixture
def ablate(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_module: Any) -> Callable[..., Any]:
    store = Store(tmp_path / "weights")
    store.put(tiny_module, Card(arch="test_resnet", tag="vicreg", epoch=1))

    def run(program: Program, *more: str, code: int = 0, leaks: int = 0) -> dict[str, Any]:
        if leaks:  # as many validation images were pretrained on
            val = CocoDetection(data / "val2017", data / "annotations/instances_val2017.json")
            marks = val.photographs.marks[:leaks]
            seen = write_digests(tmp_path, digests_of(marks), kind="backbone", arch="test_resnet", tag="vicreg")
            store.put(tiny_module, Card(arch="test_resnet", tag="vicreg", epoch=2), seen=seen)
        monkeypatch.setattr(running, "run_logged", program.run)
        told = [
            "--arms",
            "scratch",
            "vicreg",
            "--network",
            "fcos",
            "--backbone",
            "test_resnet",
            "--data-path",
            str(data),
        ]
        told += [
            "--lr",
            "0.01",
            "--weights-dir",
            str(tmp_path / "weights"),
            "--output",
            str(tmp_path / "out"),
            "--draws",
            "200",
            "--device",
            "cpu",
        ]
        assert main(["ablate", *told, *more]) == code
        page = tmp_path / "out" / "ablation.json"
        return json.loads(page.read_text()) if page.exists() else {}

    return run


@pytest.fixture
def tiny_module() -> Any:
    return torch.nn.Linear(2, 2)


def test_a_pretraining_that_helps_is_said_to_help(ablate: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    told = ablate(Program({"scratch": 0.3, "vicreg": 0.8}), "--seeds", "3", "--fractions", "0.5", "1", "--lr-grid", "1")
    assert [one["verdict"] for one in told["comparisons"]] == ["helps", "helps"]
    assert "vicreg helps with 50 % of the labels: +" in capsys.readouterr().out
    page = checked(tmp_path / "out" / "ablation.html")
    assert "script" not in page.tags and "vicreg helps with all labels" in page.text
    assert len(page.ids) == len(set(page.ids)) and "more than 2.0 times the labels" in page.text
    assert len(told["runs"]) == 2 * 3 * 2
    assert told["errors"]["scratch"]["missed"]["count"] > told["errors"]["vicreg"]["missed"]["count"]
    assert page.tags.count("img") == SHOWN and "left scratch, right vicreg" in page.text


def test_what_an_arm_costs_is_on_the_page_and_scratch_trains_for_as_much(
    ablate: Any, tmp_path: Path, tiny_module: Any
) -> None:
    """Eight epochs of 18 processor seconds, and 288 of pretraining with that of its parent: three times as long."""
    program = Program({"scratch": 0.4, "vicreg": 0.6})
    told = ["--seeds", "2", "--lr-grid", "1", "--epochs", "8"]
    ablate(program, *told)
    page = checked(tmp_path / "out" / "ablation.html")
    assert "not recorded" in page.text, "the card of an earlier version says nothing"
    spent = {"device": HERE, "processes": 2, "threads": 1}
    store = Store(tmp_path / "weights")
    first = store.put(
        tiny_module,
        Card(arch="test_resnet", tag="mim", epoch=1, cost={**spent, "seconds": 88, "processor_seconds": 44}),
    )
    card = Card(arch="test_resnet", tag="vicreg", epoch=1, cost={**spent, "seconds": 200, "processor_seconds": 100})
    store.put(tiny_module, replace(card, parents=[first.reference]))
    found = ablate(program, *told, "--arms", "scratch", "vicreg", "scratch+")
    assert program.epochs["scratch-100pct-seed0"] == 8 and program.epochs["scratch-longer-100pct-seed1"] == 24
    assert found["longer"] == 3 and [cost["seconds"] for cost in found["pretraining"]["vicreg"]] == [200, 88]
    page = checked(tmp_path / "out" / "ablation.html")
    assert "3 times the epochs" in page.text and "not recorded" not in page.text
    assert all(told in page.text for told in ("none", "4.8 min", "7.2 min"))


def test_seconds_of_another_device_say_nothing_about_the_length(ablate: Any, tmp_path: Path, tiny_module: Any) -> None:
    cost = {"device": "NVIDIA H200", "processes": 1, "seconds": 100}
    Store(tmp_path / "weights").put(tiny_module, Card(arch="test_resnet", tag="vicreg", epoch=1, cost=cost))
    program = Program({"scratch": 0.4, "vicreg": 0.6})
    words = ["--seeds", "2", "--lr-grid", "1", "--arms", "scratch", "vicreg", "scratch+"]
    ablate(program, *words, code=2)
    assert program.called == []
    assert ablate(program, *words, "--longer", "5", "--epochs", "8")["longer"] == 5
    assert program.epochs["scratch-longer-100pct-seed0"] == 40


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1400, "light")])
def test_the_page_fits_a_phone(width: int, scheme: str, ablate: Any, tmp_path: Path) -> None:
    ablate(Program({"scratch": 0.3, "vicreg": 0.8}), "--seeds", "2", "--fractions", "0.5", "1", "--lr-grid", "1")
    look_at(tmp_path / "out" / "ablation.html", width, scheme)


def test_equal_arms_are_not_said_to_differ(ablate: Any) -> None:
    """The stand-in for both arms is the same program, with the same chances."""
    told = ablate(Program({"scratch": 0.5, "vicreg": 0.5}), "--seeds", "3", "--lr-grid", "1")
    assert [one["verdict"] for one in told["comparisons"]] == ["cannot tell"]
    assert told["comparisons"][0]["interval"][0] < 0 < told["comparisons"][0]["interval"][1]


def test_arms_that_find_nothing_are_not_said_to_be_equal(ablate: Any) -> None:
    (told,) = ablate(Program({"scratch": 0.0, "vicreg": 0.0}), "--seeds", "2", "--lr-grid", "1")["comparisons"]
    assert told["verdict"] == "cannot tell" and "neither it nor scratch has learnt to detect" in told["sentence"]


def test_each_arm_gets_the_learning_rate_that_is_best_for_it(ablate: Any, tmp_path: Path, capsys: Any) -> None:
    """The planted case of a spoilt rate: the arm that needs a third of it is not compared at another's."""
    program = Program({"scratch": 0.5, "vicreg": 0.5}, best_lr={"vicreg": 0.003, "scratch": 0.01})
    told = ablate(program, "--seeds", "2", "--lr-grid", "0.3", "1", "3")
    assert told["lr_factors"] == {"scratch": 1.0, "vicreg": 0.3}
    assert {run["arm"]: run["lr_factor"] for run in told["runs"]} == {"scratch": 1.0, "vicreg": 0.3}
    edge = "The best learning rate of vicreg is the smallest that was tried, 0.003; a wider --lr-grid"
    assert edge in capsys.readouterr().out and edge in (tmp_path / "out" / "ablation.html").read_text()


@pytest.mark.parametrize(
    ("seconds", "over", "words"),
    [(24.1, 1, "24 s"), (99.4, 1, "99 s"), (2665.7, 1, "44 min"), (7200, 2, "60 min"), (36_000, 1, "10 h")],
)
def test_times_are_in_the_unit_that_a_reader_takes_in(seconds: float, over: int, words: str) -> None:
    assert time_of([Cost(seconds, "cpu", 1, 1, None)], over) == words
    assert time_of(None) == "not recorded"


def test_a_stopped_ablation_goes_on_and_a_second_call_adds_what_is_missing(ablate: Any, capsys: Any) -> None:
    program = Program({"scratch": 0.3, "vicreg": 0.8})
    program.fails = {"vicreg-100pct-seed1"}
    assert ablate(program, "--seeds", "2", "--lr-grid", "1", code=75) == {}
    assert "repeat the command to go on" in capsys.readouterr().err
    program.fails.clear()
    before = list(program.called)
    ablate(program, "--seeds", "2", "--lr-grid", "1")
    assert program.called[len(before) :] == ["vicreg-100pct-seed1"]
    told = ablate(program, "--seeds", "3", "--lr-grid", "1")
    assert program.called[len(before) + 1 :] == ["scratch-100pct-seed2", "vicreg-100pct-seed2"]
    assert len(told["runs"]) == 6


def test_parts_of_several_machines_make_one_page(ablate: Any, capsys: Any) -> None:
    program = Program({"scratch": 0.3, "vicreg": 0.8})
    assert ablate(program, "--seeds", "2", "--lr-grid", "1", "--part", "1/2") == {}
    assert "2 runs of 4 are other parts'" in capsys.readouterr().out
    assert ablate(program, "--seeds", "2", "--lr-grid", "1", "--part", "2/2")["images"] == IMAGES
    assert len(program.called) == len(set(program.called)) == 4


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--seeds", "1"], 2, "one seed cannot tell a difference from chance"),
        (["--seed", "3"], 2, "--seed is set by the ablation itself"),
        (["--arms", "scratch", "mim"], 4, "mim"),
        (["--arms", "scratch", "scratch+"], 2, "no arm has one; give --longer"),
        (["--arms", "scratch", "vicreg", "scratch+"], 2, "of vicreg or of its ancestors do not say how long"),
        (["--longer", "3"], 2, "not among --arms"),
        (["--lr", "0.02", "--colour", "red"], 2, "--colour"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_the_first_run(
    more: list[str], code: int, words: str, ablate: Any, capsys: pytest.CaptureFixture
) -> None:
    program = Program({})
    ablate(program, *more, code=code)
    assert words in capsys.readouterr().err and program.called == []


def test_another_ablation_is_not_overwritten(ablate: Any, capsys: pytest.CaptureFixture) -> None:
    program = Program({"scratch": 0.3, "vicreg": 0.8})
    ablate(program, "--seeds", "2", "--lr-grid", "1")
    ablate(program, "--seeds", "2", "--lr-grid", "1", "--epochs", "3", code=2)
    assert "has an ablation with other settings (epochs" in capsys.readouterr().err
    ablate(program, "--seeds", "2", "--lr-grid", "1", "2", code=2)
    assert "learning rates that are tried" in capsys.readouterr().err


def test_an_ablation_of_an_earlier_release_or_another_machine_goes_on(ablate: Any, tmp_path: Path) -> None:
    program = Program({"scratch": 0.3, "vicreg": 0.8})
    ablate(program, "--seeds", "2", "--lr-grid", "1")
    recipe = tmp_path / "out" / "recipe.yaml"
    lines = recipe.read_text().splitlines()
    earlier = [line for line in lines if not line.startswith("fit_batch:")]
    assert len(earlier) == len(lines) - 1  # a setting that it did not have
    recipe.write_text("\n".join(earlier) + "\n")
    done = len(program.called)
    ablate(program, "--seeds", "2", "--lr-grid", "1", "--num-workers", "1")
    assert len(program.called) == done


def test_validation_images_that_were_pretrained_on_are_refused(ablate: Any, capsys: pytest.CaptureFixture) -> None:
    program = Program({})
    ablate(program, "--seeds", "2", code=2, leaks=2)
    told = capsys.readouterr().err
    assert "2 of 60 validation images" in told and "leave this arm out" in told and program.called == []


def test_few_validation_images_are_refused(ablate: Any, data: Path, tmp_path: Path, capsys: Any) -> None:
    file = data / "annotations/instances_val2017.json"
    content = json.loads(file.read_text())
    few = {**content, "images": content["images"][:49], "annotations": content["annotations"][:147]}
    (tmp_path / "few.json").write_text(json.dumps(few))
    more = ["--val-path", str(data / "val2017"), "--coco-val-json-path", str(tmp_path / "few.json")]
    ablate(Program({}), *more, code=2)
    assert "49 validation images cannot tell arms apart" in capsys.readouterr().err
