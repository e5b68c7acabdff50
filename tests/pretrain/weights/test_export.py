"""`pretrain export` writes what gives the backbone's maps and vector of an image, or says that it does not."""

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
from pretrain.cli import main
from pretrain.weights import exporting
from shared.feeding.pixels import Normalize, PixelStats
from shared.graphs.run import open_graph
from shared.weights.card import Card
from shared.weights.store import Store

STATS = PixelStats((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as on the card


@pytest.fixture
def tagged(store: Store, card: Callable[..., Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of test_resnet under the tag `mine`, made for 64 pixels; a folder with a photograph."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    store.put(backbone.build("test_resnet"), card(arch="test_resnet", tag="mine", recipe={"size": [64]}))
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    return tmp_path / "photos"


def run(*words: object) -> int:
    return main(["export", "mine", "--format", "torch", "--output", "out", *map(str, words)])


@pytest.mark.slow
def test_maps_and_vector_come_out_by_name_for_any_number_of_images(tagged: Path, store: Store) -> None:
    assert run("--photos", tagged) == 0
    facts, sheet = (json.loads(Path("out", name).read_text()) for name in ("card.json", "parity.json"))
    names = ["stride_4", "stride_8", "stride_16", "stride_32", "pooled"]
    assert list(facts["outputs"]) == list(sheet["largest_difference"]) == names
    assert (facts["input"]["height"], facts["input"]["width"], sheet["images"]) == (64, 64, 1)
    image = torch.randint(0, 256, (3, 3, 64, 64)).byte()
    found = open_graph(Path("out"), "torch", names)(image)
    net = backbone.build("test_resnet").eval()
    store.load(net, store.find(None, "mine"))
    with torch.no_grad():
        x = Normalize(STATS)(image)
        for name, value in zip(names, [*net.forward_features(x), net(x)], strict=True):
            assert list(found[name].shape[1:]) == facts["outputs"][name]
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_other_values_end_with_exit_code_5(
    tagged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    really = exporting.open_graph

    def changed(*args: Any) -> Callable[[Tensor], dict[str, Tensor]]:
        graph = really(*args)
        return lambda image: {name: value * 1.01 for name, value in graph(image).items()}

    monkeypatch.setattr(exporting, "open_graph", changed)
    assert run("--photos", tagged, "--outputs", "pooled") == 5
    assert "does not give what the network gives: pooled differs by 0.01" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--size", 16], 2, "has a map of stride 32, and 16x16 is smaller"),
        (["--photos", "nowhere"], 3, "there is no file nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tagged: Path, capsys: pytest.CaptureFixture, words: list, code: int, said: str
) -> None:
    assert run(*words) == code
    assert said in capsys.readouterr().err and not Path("out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_onnxruntime_gives_what_the_backbone_gives(
    model: str, tagged: Path, store: Store, card: Callable[..., Card]
) -> None:
    """The trunk is computed once for maps and vector: the sheet's time would otherwise be doubled, unseen."""
    onnx = pytest.importorskip("onnx", reason="needs pip install 'chordate[export]'")
    pytest.importorskip("onnxscript", reason="needs pip install 'chordate[export]'")
    pytest.importorskip("onnxruntime", reason="needs pip install 'chordate[export]'")
    net = backbone.build(model)
    store.put(net, card(arch=model, tag="other", recipe={"size": [64]}))
    assert main(["export", "other", "--output", "onnx", "--photos", str(tagged)]) == 0
    convolutions = sum(node.op_type == "Conv" for node in onnx.load("onnx/model.onnx").graph.node)
    assert convolutions == sum(isinstance(layer, torch.nn.Conv2d) for layer in net.modules())
