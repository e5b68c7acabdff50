"""--compile-backbone makes one graph of the backbone, for every network and family of backbones, and never nothing;
--compile makes one graph of each part that a network names, and none more for other numbers of objects.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import reduce
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import backbone
from detection.nets import detector, takes_proposals
from detection.training.task import DetectTask
from pretrain.methods import Facts, method
from shared.errors import UsageError
from shared.feeding.pixels import pixel_stats
from shared.loop.compiled import compile_backbone, compile_task
from tests.detection.nets.waits import batch_of

FAMILIES = ["test_resnet", "test_convnext", "test_efficientnet", "test_byobnet", "test_vit", "test_vit2"]
SAME_CODE = {  # deeper or wider ones, and the one whose graph is made
    "efficientnet_v1_b3": "efficientnet_v1_b0",
    "efficientnet_v2_m": "efficientnet_v2_s",
    "hrnet_w32c": "hrnet_w18_small",
    **dict.fromkeys(("hiera_small", "hiera_base", "hiera_base_plus", "hiera_large"), "hiera_tiny"),
    **dict.fromkeys(("hiera_abswin_small", "hiera_abswin_base"), "hiera_abswin_tiny"),
    **dict.fromkeys(("resnet101_v1b", "resnet_v1_50"), "resnet50_v1b"),
    "resnet101_v1d": "resnet50_v1d",
    "resnet34_vd": "resnet18_vd",
    **dict.fromkeys(("tv_mobilenet_v3_large_fpn", "tv_mobilenet_v3_large_ssdlite"), "tv_mobilenet_v3_large"),
}
NETWORKS = ["fcos", "ssd", "efficientdet_d0", "faster_rcnn", "detr", "deformable_detr", "rt_detr"]


class Graphs:
    """A backend of torch.compile that runs each graph as it is, and counts them."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        self.sizes.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return graph.forward


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_backbone_of_a_network_is_one_graph(network: str, tiny_backbone: Callable[..., Any]) -> None:
    net = detector.build(network, tiny_backbone(), 3, **detector.facts(network).get("tiny", {}))
    task, graphs = DetectTask(net, pixel_stats("imagenet")).train(), Graphs()
    torch.manual_seed(1)
    plain = task(batch_of(2))
    compile_backbone(task, backend=graphs)
    torch.manual_seed(1)
    losses = task(batch_of(2))
    assert len(graphs.sizes) == 1 and graphs.sizes[0] >= 15  # five convolutions, norms and activations
    for name, loss in plain.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-4, atol=1e-5)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in net.backbone.layers[0].parameters())  # type: ignore[union-attr]


def one_graph_of(name: str, size: tuple[int, int] = (64, 96)) -> Graphs:
    with torch.device("meta"):
        net, graphs = backbone.build(name).train(), Graphs()
        call: Any = torch.compile(net.forward_features, fullgraph=True, backend=graphs)
        assert len(call(torch.empty(2, 3, *(net.only or size)))) == len(net.maps)
    return graphs


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_backbones_is_one_graph(name: str) -> None:
    assert len(one_graph_of(name).sizes) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*backbone.names(), *SAME_CODE.values()} - {*SAME_CODE}))
def test_every_named_backbone_is_one_graph(name: str) -> None:
    assert len(one_graph_of(name, (128, 128)).sizes) == 1


@pytest.mark.parametrize(("larger", "name"), SAME_CODE.items())
def test_larger_backbones_are_of_the_same_code(larger: str, name: str) -> None:
    def modules_of(name: str) -> set[type]:
        with torch.device("meta"):
            return {type(module) for module in backbone.build(name).modules()}

    assert modules_of(larger) == modules_of(name)


def test_a_backbone_that_breaks_is_refused_in_a_sentence(tiny_backbone: Callable[..., Any]) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x

    body = tiny_backbone()
    body.layers[1] = nn.Sequential(body.layers[1], Broken())
    net = detector.build("fcos", body, 3, width=64, depth=1)
    task = DetectTask(net, pixel_stats("imagenet")).train()
    compile_backbone(task, backend=Graphs())
    with pytest.raises(UsageError, match="--compile-backbone: this backbone is not one graph .*remove the flag"):
        task(batch_of(2))


# images of (height, width), and how many objects each has
BATCHES = [
    [((128, 128), 3), ((128, 128), 2)],
    [((128, 128), 0), ((128, 128), 5)],
    [((128, 128), 1), ((128, 128), 4)],
    [((64, 96), 4), ((96, 80), 2)],
]


def shown(images: list[tuple[tuple[int, int], int]], network: str) -> Any:
    """A batch of noise of these sizes, each with its number of objects, and proposals where the network takes them."""
    torch.manual_seed(0)
    pixels, targets = batch_of(len(images))
    for i, ((height, width), count) in enumerate(images):
        pixels[i] = pixels[i][:, :height, :width].contiguous()
        targets[i] = {name: values[:count] for name, values in targets[i].items()}
        targets[i]["masks"] = targets[i]["masks"][:, :height, :width]
        if takes_proposals(network):
            targets[i]["proposals"] = torch.tensor([[5.0, 5, 40, 40, 1], [9.0, 8, 70, 60, 0.5]])
    return pixels, targets


LATER = ["ssdlite", "faster_rcnn_v2", "mask_rcnn_v2", "detr_panoptic", "unidetector_regions"]


@pytest.mark.parametrize(
    "network", ["fcos", "detr", "mask_rcnn", *(pytest.param(name, marks=pytest.mark.slow) for name in LATER)]
)
def test_a_network_compiles_once_for_any_number_of_objects(network: str, tiny_backbone: Callable[..., Any]) -> None:
    net = detector.build(network, tiny_backbone(), 3, **detector.facts(network).get("tiny", {}))
    task, graphs = DetectTask(net, pixel_stats("imagenet")).train(), Graphs()
    state = deepcopy(task.state_dict())
    plain = [task(shown(images, network)) for images in BATCHES]
    task.load_state_dict(state)
    compile_task(task, backend=graphs)  # each part is one graph, or is refused
    made = []
    for images, wanted in zip(BATCHES, plain, strict=True):
        losses = task(shown(images, network))
        for name, loss in wanted.items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-3, atol=1e-4)
        made.append(len(graphs.sizes))
    parts = sum(reduce(getattr, path.split(".")[:-1], net) is not None for path in net.graphs)
    assert 1 <= made[0] <= parts
    assert made[1] == made[2] <= 2 * parts, "a graph for one number of objects, one for all others"
    assert made[3] <= 3 * parts, "one for all sizes of images"
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in net.backbone.layers[0].parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "options"), [("i-jepa", {"predictor_heads": 4, "predictor_width": 64}), ("mim", {"variant": "mae"})]
)
def test_a_method_that_never_calls_its_backbone_is_refused(name: str, options: dict[str, Any]) -> None:
    facts = Facts((160, 160), None, pixel_stats("imagenet"))
    task = method.build(name, backbone.build("test_vit"), facts, **options)
    with pytest.raises(UsageError, match="--compile-backbone compiles nothing here.*use --compile"):
        compile_backbone(task)
