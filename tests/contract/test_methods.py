"""Every pretraining method on offer keeps the contract: finite losses, gradients in the backbone, exports that load."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from backbones import backbone
from pretrain.data.shards import stacked
from pretrain.methods import Facts, Method, method
from pretrain.training.largest import largest_batch
from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS
from shared.feeding.plan import rng_for
from shared.loop.compiled import compile_backbone
from shared.loop.ema import Average
from shared.loop.trial import Step, on_trial
from shared.recipes.recipe import OptimConfig, RuntimeConfig, ScheduleConfig
from shared.weights.card import Card
from shared.weights.store import Store

FACTS = Facts(size=(96, 128), num_classes=4, pixels=PIXEL_STATS["imagenet"])
BACKBONES = ["test_resnet", "test_vit"]
# a method's own parts at a size that is quick to train; what it asks of a backbone stays the same
SMALL: dict[str, dict[str, Any]] = {
    "barlow_twins": {"projector_width": 64},
    "byol": {"hidden_width": 64, "embedding_width": 32},
    "dino": {"prototypes": 64, "hidden_width": 64, "bottleneck_width": 32, "local_crops": 2},
    "distill": {"teacher": "untrained:test_vit"},
    "i-jepa": {"predictor_width": 64, "predictor_depth": 2},
    "mim": {"decoder_width": 64, "decoder_depth": 2},
    "simclr": {"projection_width": 64},
    "vicreg": {"expander_width": 64},
}
# a target that stays where it is, so that a loss can only fall by learning
STILL: dict[str, dict[str, Any]] = {"dino": {"momentum": 1.0, "center_momentum": 1.0, "temperature_warmup": 0.0}}
each = pytest.mark.parametrize(("name", "arch"), [(name, arch) for name in method.names() for arch in BACKBONES])


def build(name: str, arch: str, **options: Any) -> Method:
    """The method on that backbone; the test is skipped where it refuses to serve it."""
    refusal = refuses(name, arch)
    if refusal:
        pytest.skip(f"{name} does not serve {arch}: {refusal}")
    torch.manual_seed(0)
    return method.build(name, backbone.build(arch), FACTS, **SMALL.get(name, {}) | options).train()


@cache
def refuses(name: str, arch: str) -> str:
    """What a method says against a backbone; nothing when it serves it."""
    net = backbone.build(arch)
    try:
        method.build(name, net, FACTS, **SMALL.get(name, {}))
    except UsageError as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize("name", method.names())
def test_a_method_serves_some_backbone_and_names_one_where_it_refuses_another(name: str) -> None:
    refusals = [refusal for arch in BACKBONES if (refusal := refuses(name, arch))]
    assert len(refusals) < len(BACKBONES), refusals
    assert all("; use one such as " in refusal for refusal in refusals)
    assert not refusals or method.builder(name).needs != Method.needs, "`needs` says so, too"  # type: ignore[attr-defined]


def batch_of(task: Method, count: int = 6, *, val: bool = False) -> tuple[Any, Tensor]:
    """A batch as the shards hand it over: views of photographs of odd sizes, and labels."""
    rng, view = np.random.default_rng(0), task.val_view() if val else task.view()
    images = [
        torch.from_numpy(rng.integers(0, 256, (3, int(h), int(w)), dtype=np.uint8))
        for h, w in rng.integers(20, 70, (count, 2))
    ]
    views = [view(image, rng_for(0, 0, i)) for i, image in enumerate(images)]
    return stacked(views), torch.arange(count) % 4


@each
def test_losses_are_finite_and_gradients_reach_the_backbone(name: str, arch: str) -> None:
    task = build(name, arch)
    losses = task(batch_of(task))
    assert losses and all(value.dim() == 0 and math.isfinite(value) for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    learnt = [p.grad for p in task.backbone.parameters() if p.requires_grad and p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in learnt)
    assert learnt[0].abs().sum() > 0, "the first layer learns"
    without = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient for {without[:5]}"


@each
def test_views_are_bytes_of_the_size_asked_for_and_a_function_of_their_random_numbers(name: str, arch: str) -> None:
    task = build(name, arch)
    for val in (False, True):
        first, again = (batch_of(task, val=val)[0] for _ in range(2))
        for a, b in zip(leaves(first), leaves(again), strict=True):
            assert torch.equal(a, b)
            assert a.dtype == torch.uint8 or a.dim() < 4, "pixels travel as bytes"
    images = [leaf for leaf in leaves(batch_of(task)[0]) if leaf.dim() == 4]
    assert images and any(tuple(leaf.shape[2:]) == FACTS.size for leaf in images)


def leaves(nest: Any) -> list[Tensor]:
    return [nest] if isinstance(nest, Tensor) else [leaf for part in nest for leaf in leaves(part)]


@each
def test_export_loads_into_a_fresh_backbone(name: str, arch: str, store: Store, card: Callable[..., Card]) -> None:
    task = build(name, arch)
    store.put(task.exports()["backbone"], card(arch=arch, tag=name))
    fresh = backbone.build(arch)
    transfer = store.load(fresh, store.find(arch, name))
    assert transfer.matched_tensors == transfer.total_tensors and transfer.moved > 0
    exported = task.exports()["backbone"].parameters()
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), exported, strict=True))


@each
def test_losses_fall_when_one_batch_is_learnt(name: str, arch: str) -> None:
    task = build(name, arch, **STILL.get(name, {}))
    batch = batch_of(task)
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-3)
    sums = []
    for _ in range(6):
        torch.manual_seed(0)
        task.before_step(0)
        loss = torch.stack(list(task(batch).values())).sum()
        sums.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        task.after_step(0.5)
    assert sums[-1] < sums[0]


def served(name: str) -> str:
    """A backbone that the method serves."""
    return next(arch for arch in reversed(BACKBONES) if not refuses(name, arch))


def some_steps(task: Method, optimizer: torch.optim.Optimizer, steps: range, total: int = 4) -> list[float]:
    """Their losses; random numbers are those of the step, as in the loop."""
    losses, batch = [], batch_of(task, 3)
    for step in steps:
        torch.manual_seed(step)
        task.train().before_step(step)
        loss = torch.stack(list(task(batch).values())).sum()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_step((step + 1) / total)
    return losses


def optimizer_of(task: Method) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-3)


@pytest.mark.parametrize("name", method.names())
def test_the_next_steps_depend_on_the_saved_state_alone(name: str) -> None:
    straight, resumed = (build(name, served(name)) for _ in range(2))
    moments, again = optimizer_of(straight), optimizer_of(resumed)
    some_steps(straight, moments, range(2))
    resumed.load_state_dict(deepcopy(straight.state_dict()))
    again.load_state_dict(deepcopy(moments.state_dict()))
    assert some_steps(resumed, again, range(2, 4)) == some_steps(straight, moments, range(2, 4))
    weights = straight.state_dict()
    for key, value in resumed.state_dict().items():
        assert torch.equal(value, weights[key]) if isinstance(value, Tensor) else value == weights[key]


@pytest.mark.parametrize("name", method.names())
def test_a_copy_trains_apart_and_an_average_follows(name: str) -> None:
    task = build(name, served(name))
    average, before = Average(task, 0.5), deepcopy(task)
    some_steps(task, optimizer_of(task), range(1))
    average.follow(task)
    first = next(key for key, p in task.named_parameters() if p.requires_grad and p.grad is None)
    assert not torch.equal(task.state_dict()[first], before.state_dict()[first])
    assert not torch.equal(average.module.state_dict()[first], before.state_dict()[first])
    some_steps(before, optimizer_of(before), range(1))
    assert torch.equal(task.state_dict()[first], before.state_dict()[first])


@pytest.mark.parametrize("name", method.names())
def test_a_trial_with_the_largest_batch_leaves_the_task_as_it_was(name: str) -> None:
    task = build(name, served(name))
    kept, random = deepcopy(task.state_dict()), torch.get_rng_state()
    samples = SimpleNamespace(collate=lambda rows: (stacked([one for one, _ in rows]), torch.tensor([0] * len(rows))))
    recipe = SimpleNamespace(optim=OptimConfig(lr=0.1), schedule=ScheduleConfig(), runtime=RuntimeConfig())
    with on_trial(task, Step(3, 2), recipe, torch.device("cpu"), apart=True) as trainer:
        batch = largest_batch(task, samples, FACTS.size)(3)
        assert all(leaf.shape[0] == 3 for leaf in leaves(batch[0]))
        trainer.advance([batch, batch])
        moved = [key for key, value in trainer.task.state_dict().items() if differs(value, kept[key])]
    assert moved and not [key for key, value in task.state_dict().items() if differs(value, kept[key])]
    assert all(p.grad is None for p in task.parameters()) and torch.equal(torch.get_rng_state(), random)


def differs(value: Any, other: Any) -> bool:
    return not torch.equal(value, other) if isinstance(value, Tensor) else value != other


@pytest.mark.parametrize("name", method.names())
def test_in_bfloat16_losses_are_float32_and_near(name: str) -> None:
    task = build(name, served(name))
    batch, losses = batch_of(task, 3), []
    for lower in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            losses.append(task(batch))
    for key, value in losses[1].items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(losses[0][key].item(), rel=0.2)
    torch.stack(list(losses[1].values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


@pytest.mark.parametrize("name", ["byol", "dino", "distill"])  # a teacher, crops of two sizes, another call
def test_what_it_calls_of_its_backbone_can_be_compiled(name: str, tiny_backbone: Callable[..., Any]) -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, _: list[Any]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    task = method.build(name, tiny_backbone(), FACTS, **SMALL.get(name, {})).train()
    batch, losses = batch_of(task, 3), []
    for compiled in (False, True):
        if compiled:
            compile_backbone(task, backend=backend)
        torch.manual_seed(0)
        losses.append(task(batch))
    assert graphs
    for key, value in losses[0].items():
        torch.testing.assert_close(losses[1][key], value, rtol=1e-3, atol=1e-4)
