"""--compile makes one graph of each part that a method names, without a break, and no more when only numbers change."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from backbones import backbone
from backbones.tokens import vit_of
from pretrain.methods import Method, method
from shared.loop.compiled import compile_task
from tests.conftest import TinyBackbone
from tests.contract.test_methods import FACTS, SMALL, batch_of

MIXED = {"mixup": 0.2, "cutmix": 1.0, "random_erase": 0.25, "dropout": 0.1}
MORE = {"i-jepa": 3, "dino": 3}  # numbers of tokens that vary; a last layer that is frozen at first
FORMS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in method.names()]
FORMS += [("supervised", MIXED), ("mim", {"variant": "mae"}), ("dino", {"local_crops": 0})]
FORMS += [("distill", {"map_weight": 0.0}), ("distill", {"pooled_weight": 0.0})]


class Graphs:
    """A backend of torch.compile that runs each graph as it is, and counts them."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        self.sizes.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return graph.forward


def steps_of(task: Method, batches: list[Any], graphs: Graphs | None = None) -> tuple[list[dict], list[int]]:
    """The losses of each step, and how many graphs there were after it."""
    losses, made = [], []
    for step, batch in enumerate(batches):
        torch.manual_seed(step)
        task.before_step(step)
        losses.append(task(batch))
        made.append(len(graphs.sizes) if graphs else 0)
        task.after_step((step + 1) / 20)
    return losses, made


def small_backbone(name: str, options: dict[str, Any]) -> Any:
    """A few layers, of a plain ViT where the method needs one."""
    if name != "i-jepa" and options.get("variant") != "mae":
        return TinyBackbone()
    net = backbone.build("test_vit")
    vit = vit_of(net)
    vit.blocks = vit.blocks[:2]
    return net


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_a_method_is_one_graph_for_each_part(name: str, options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    task = method.build(name, small_backbone(name, options), FACTS, **SMALL.get(name, {}) | options).train()
    beside, batches = task.beside(), [batch_of(task, 3)] * 4
    if beside is not None:
        batches = [(*batch, beside(step, 3)) for step, batch in enumerate(batches)]
    plain, graphs = deepcopy(task), Graphs()
    compile_task(task, backend=graphs)  # each part is one graph, or is refused
    wanted, _ = steps_of(plain, batches)
    found, made = steps_of(task, batches, graphs)
    parts = len(task.graphs)
    assert made[0] == parts and sum(graphs.sizes[:parts]) > 20, "the backbone is in it"
    assert made[-1] <= max(parts, MORE.get(name, 0))
    for losses, others in zip(found, wanted, strict=True):
        for key, value in others.items():
            torch.testing.assert_close(losses[key], value, rtol=1e-3, atol=1e-4)
    torch.stack(list(found[-1].values())).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.backbone.parameters())


def test_what_a_method_names_are_its_calls() -> None:
    for name in method.names():
        task = method.build(name, small_backbone(name, {}), FACTS, **SMALL.get(name, {}))
        assert task.graphs and all(callable(getattr(task, path)) for path in task.graphs), name
