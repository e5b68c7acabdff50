"""Every detector on offer has a form with fixed shapes that finds the same, or refuses in a sentence; that exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import backbone
from detection.exporting.graph import DetectionGraph
from detection.exporting.parity import compare
from detection.inference.exported import GraphTask
from detection.nets import detector
from detection.training.task import DetectTask
from shared.errors import UsageError
from shared.feeding.pixels import pixel_stats
from shared.graphs.run import open_graph
from shared.graphs.write import FORMATS, trace, write
from tests.contract.test_detectors import once_tiny, tiny

CANVAS = (96, 128)
NO_FIXED_FORM = {"detr_panoptic", "unidetector", "unidetector_regions"}
EXPORTED = [name for name in once_tiny() if name not in NO_FIXED_FORM]
IN_RUNTIME = [
    "fcos",
    "ssd",
    "keypoint_rcnn",
    "vitdet_mask",
    "smca_detr",
    "deformable_detr",
    "rt_detr",
]  # every kind of part


def graph_of(network: str, canvas: tuple[int, int] = CANVAS) -> DetectionGraph:
    """The network with weights that differ enough for its scores to differ, and a graph of it."""
    torch.manual_seed(0)
    options = tiny(network)
    if "min_score" in detector.options(network):
        options["min_score"] = 0.001
    net = detector.build(network, backbone.build("test_resnet"), 3, **options)
    with torch.no_grad():
        for value in net.parameters():
            value += 0.3 * torch.randn_like(value) * (value.std().nan_to_num(0.02).clamp(min=0.02))
    return DetectionGraph(DetectTask(net, pixel_stats("imagenet")).eval(), canvas)


def picture(height: int, width: int, seed: int = 1) -> Tensor:
    """uint8 (3, height, width) of noise."""
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


def named(graph: DetectionGraph) -> Any:
    """The graph in torch, as a function that gives tensors by name."""
    names = graph.names()

    def run(image: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(zip(names, graph(image), strict=True))

    return run


@pytest.mark.parametrize("network", EXPORTED)
def test_fixed_shapes_have_the_detections_of_the_network(network: str) -> None:
    """Two images smaller than the canvas at once, then a smaller one; shapes stay, padding has score 0."""
    graph = graph_of(network)
    run = named(graph)
    pictures = [picture(90, 125, seed) for seed in (1, 2)]
    sheet = compare(graph.eager, GraphTask(run, 2), [("first", pictures[0]), ("second", pictures[1])])
    assert sheet.compared >= 10, "the network finds something to compare"
    assert sheet.matched == sheet.compared
    both, small = run(torch.stack(pictures)), run(picture(40, 60)[None])
    assert {name: value.shape[1:] for name, value in both.items()} == {n: v.shape[1:] for n, v in small.items()}
    for scores, boxes in zip(small["scores"], small["boxes"], strict=True):
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert (boxes >= 0).all() and (boxes <= torch.tensor([60, 40, 60, 40])).all()


@pytest.mark.parametrize("network", sorted(NO_FIXED_FORM))
def test_a_network_without_a_fixed_form_says_so(network: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be exported|needs stored proposals") as told:
        graph_of(network).names()
    assert "\n" not in str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "kind"), [*((name, "onnx") for name in IN_RUNTIME), ("keypoint_rcnn", "openvino")])
def test_other_runtimes_find_what_the_network_finds(network: str, kind: str, tmp_path: Path) -> None:
    """In images of several sizes up to the canvas, with one file."""
    pytest.importorskip("onnxscript", reason="needs pip install 'chordate[export]'")
    pytest.importorskip(FORMATS[kind].runtime, reason="needs pip install 'chordate[export]', or 'chordate[openvino]'")
    graph = graph_of(network)
    names = graph.names()
    ranges = {2: (2, CANVAS[0]), 3: (2, CANVAS[1])}
    program = trace(graph, picture(90, 125)[None], ranges, network)
    write(program, tmp_path, kind, names, network)
    pictures = [("usual", picture(90, 125)), ("whole", picture(*CANVAS)), ("small", picture(17, 21))]
    sheet = compare(graph.eager, GraphTask(open_graph(tmp_path, kind, names), 1), pictures)
    assert sheet.compared >= 20
    # of boxes that NMS finds equally good, rounding keeps one or the other
    assert sheet.matched >= 0.97 * sheet.compared, sheet.photographs
