"""`detect export` writes a folder that a person can use elsewhere, says whether it finds the same, and keeps theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from backbones import backbone
from detection.cli import main
from detection.exporting import export as exporting
from detection.exporting.parity import matches
from detection.nets import detector
from detection.types import Detections
from shared.graphs import write as writing
from shared.weights.card import Card, Exported
from shared.weights.store import Store

TINY = {"width": 64, "depth": 1, "min_score": 0.01, "max_detections": 30}
IDS = [3, 5, 9]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs, one of them smaller than any stride, and a COCO file with an object in each."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    sizes = {"landscape.png": (60, 90), "portrait.png": (90, 60), "stamp.png": (5, 7)}
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / name)
    images = [
        {"id": i, "file_name": name, "height": height, "width": width}
        for i, (name, (height, width)) in enumerate(sizes.items(), start=1)
    ]
    boxes = [{"id": i, "image_id": i, "category_id": IDS[i - 1], "bbox": [1, 1, 3, 3], "area": 9} for i in (1, 2, 3)]
    categories = [{"id": i, "name": name} for i, name in zip(IDS, "abc", strict=True)]
    content = {"images": images, "annotations": [{**box, "iscrowd": 0} for box in boxes], "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def weights(store: Store, card: Callable[..., Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Recipe values -> an export of FCOS with random weights under the tag `mine`; the working folder is the test's."""
    monkeypatch.chdir(tmp_path)

    def make(**recipe: Any) -> Exported:
        net = detector.build("fcos", backbone.build("test_resnet"), 3, **TINY)
        args = {"network": "fcos", "network_args": TINY, "backbone": "test_resnet", "backbone_args": {}}
        told = {"arch": "fcos-test_resnet", "tag": "mine", "kind": "detector", "args": args}
        classes = {"names": ["a", "b", "c"], "source_ids": IDS}
        return store.put(net, card(**told, classes=classes, recipe={"size": [64, 96]} | recipe))

    return make


def run(*words: object) -> int:
    return main(["export", "--weights", "mine", "--format", "torch", *map(str, words)])


@pytest.mark.slow
def test_the_folder_has_the_file_a_card_and_a_parity_sheet(weights: Callable, photos: Path, tmp_path: Path) -> None:
    exported = weights()
    assert run("--photos", photos, "--output", "out") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["card.json", "model.pt2", "parity.json"]
    facts, sheet = (json.loads(Path("out", name).read_text()) for name in ("card.json", "parity.json"))
    assert facts["classes"] == {"names": ["a", "b", "c"], "source_ids": IDS}
    assert facts["weights"]["digest"] == exported.digest and facts["weights"]["sha256"] == exported.card.sha256
    assert (facts["input"]["height"], facts["input"]["width"], facts["input"]["colors"]) == (64, 96, "RGB")
    assert facts["outputs"]["boxes"]["shape"] == [1, 30, 4] and list(facts["outputs"]) == ["boxes", "labels", "scores"]
    assert list(facts["files"]) == ["model.pt2"]
    assert facts["thresholds"] == {"min_score": 0.01, "nms_iou": 0.6, "max_detections": 30}
    assert sheet["alike"] and sheet["matched"] == sheet["compared"] >= 30
    assert [one["file"] for one in sheet["photographs"]] == ["landscape.png", "portrait.png", "stamp.png"]
    assert facts["parity"]["matched"] == sheet["matched"]


def test_a_folder_with_anything_in_it_is_never_written_to(
    weights: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weights()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.pt2").write_text("mine")
    assert run("--compare", 0, "--output", "theirs") == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.read_text() for path in (tmp_path / "theirs").iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_file_that_finds_other_boxes_ends_with_exit_code_5(
    weights: Callable, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The folder stays, with a sheet that says so."""
    weights()
    really = exporting.open_graph

    def shifted(*args: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        graph = really(*args)
        return lambda image: (found := graph(image)) | {"boxes": found["boxes"] + 1}

    monkeypatch.setattr(exporting, "open_graph", shifted)
    assert run("--photos", photos, "--output", "out") == 5
    assert "does not find what the network finds: 0 of" in capsys.readouterr().err
    assert json.loads(Path("out", "parity.json").read_text())["alike"] is False


def test_a_missing_package_is_named_with_how_to_install_it(
    weights: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    weights()
    monkeypatch.setattr(writing, "find_spec", lambda name: None if name.startswith("onnx") else object())
    assert main(["export", "--weights", "mine", "--output", "out"]) == 2
    assert "needs onnx and onnxscript and onnxruntime; install them with pip install 'chordate[export]'" in (
        capsys.readouterr().err
    )
    assert not Path("out").exists()


def test_what_the_installed_release_cannot_export_is_one_sentence_and_leaves_nothing(
    weights: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    weights()
    before = sorted(tmp_path.iterdir())

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no translation of aten.new_thing\nand a page of nodes")

    monkeypatch.setattr(torch.export, "export", broken)
    assert run("--compare", 0, "--output", "out") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "fcos could not be exported with torch" in line and "no translation of aten.new_thing" in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("recipe", "words", "said"),
    [
        ({}, ["--canvas", 96], "remove --canvas"),
        ({"max_size": 96}, ["--batch-size", 2], "remove --batch-size"),
        ({}, ["--compare", 0, "--data-path", "coco"], "--compare 0"),
        ({}, ["--photos", "nowhere"], "there is no file"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    weights: Callable, capsys: pytest.CaptureFixture, recipe: dict, words: list, said: str
) -> None:
    weights(**recipe)
    assert run("--output", "out", *words) in (2, 3)
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.slow
def test_images_that_keep_their_aspect_ratio_fit_into_the_canvas(weights: Callable, photos: Path) -> None:
    weights(max_size=96)
    assert run("--photos", photos, "--output", "out", "--canvas", 64, 96) == 0
    facts = json.loads(Path("out", "card.json").read_text())
    assert (facts["input"]["height"], facts["input"]["width"]) == ([2, 64], [2, 96])
    assert facts["resize"]["canvas"] == [64, 96] and facts["input"]["padding"] == "inside, to 64x96"


@pytest.mark.slow
def test_a_torch_program_and_a_changed_file_are_not_opened(
    weights: Callable, photos: Path, capsys: pytest.CaptureFixture
) -> None:
    weights()
    assert run("--compare", 0, "--output", "out") == 0
    words = ["predict", str(photos), "--weights", "out", "--output", "found"]
    assert main(words) == 2 and "could run code" in capsys.readouterr().err
    path = Path("out", "card.json")
    path.write_text(
        path.read_text().replace('"format": "torch"', '"format": "onnx"').replace("model.pt2", "model.onnx")
    )
    Path("out", "model.onnx").write_bytes(b"another")
    assert main(words) == 4 and "not the file that its card tells of" in capsys.readouterr().err


@pytest.mark.slow
def test_an_onnx_file_is_evaluated_and_predicts_as_the_network(
    weights: Callable, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Two images at once; AP of both is on the sheet, and results.json has the same boxes."""
    pytest.importorskip("onnxscript", reason="needs pip install 'chordate[export]'")
    pytest.importorskip("onnxruntime", reason="needs pip install 'chordate[export]'")
    weights()
    data = ["--data-path", str(photos), "--coco-json-path", str(tmp_path / "truth.json")]
    words = ["export", "--weights", "mine", "--output", "out", "--batch-size", "2", "--compare", "3", *data]
    assert main(words) == 0
    sheet = json.loads(Path("out", "parity.json").read_text())
    assert sheet["matched"] == sheet["compared"] and sheet["ap"]["box_ap"]["network"] is not None
    assert main(["eval", "--weights", "out", *data]) == 0
    results = []
    for weights_, out in (("out/model.onnx", "a"), ("mine", "b")):
        assert main(["predict", str(photos), "--weights", weights_, "--output", out]) == 0
        results.append(json.loads(Path(out, "results.json").read_text()))
    assert len(results[0]) == len(results[1]) > 0
    boxes, others = (np.array([one["bbox"] for one in each]) for each in results)
    assert np.abs(boxes - others).max() < 0.1
    assert main(["predict", str(photos), "--weights", "out", "--output", "c", "--size", "64"]) == 2
    assert "exported for images of its own size" in capsys.readouterr().err


def found(*rows: tuple[float, float, int]) -> Detections:
    """(left, score, label) of boxes 10 pixels wide."""
    left, score, label = (torch.tensor(column) for column in zip(*rows, strict=True))
    boxes = torch.stack((left, torch.zeros(len(left)), left + 10, torch.full((len(left),), 10.0)), 1)
    return Detections(boxes=boxes, labels=label, scores=score)


def test_detections_are_matched_as_sets_each_once() -> None:
    own = found((0.0, 0.5, 1), (20.0, 0.5, 1), (20.0, 0.5, 1))
    assert matches(own, found((20.0, 0.5, 1), (20.0, 0.5, 1), (0.0, 0.5, 1)))["matched"] == 3
    assert matches(own, found((20.0, 0.5, 1), (0.0, 0.5, 1), (50.0, 0.5, 1)))["matched"] == 2
    assert matches(own, found((0.0, 0.5, 2), (20.0, 0.6, 1), (20.3, 0.5, 1)))["matched"] == 0
    assert matches(own, found((0.05, 0.5, 1)))["pixels"] == pytest.approx(0.05, abs=1e-6)
