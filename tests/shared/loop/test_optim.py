"""Parameter groups: every trainable parameter once, each with the rate and the decay its place and kind ask for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from backbones import backbone
from shared.errors import UsageError
from shared.loop.lars import LARS
from shared.loop.optim import build_optimizer, parameter_groups, parameter_kinds
from shared.loop.task import Task
from shared.recipes.recipe import OptimConfig


class Headed(Task):
    """A backbone and a head with a normalization of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.backbone = net
        self.norm = nn.GroupNorm(1, 4)
        self.head = nn.Linear(4, 2)


@pytest.fixture
def task(tiny_backbone: Callable[..., Any]) -> Headed:
    return Headed(tiny_backbone())


def rates(task: nn.Module, **told: Any) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every parameter, by name; each may be in one group only."""
    groups = parameter_groups(task, OptimConfig(**told))
    found: dict[str, tuple[float, float]] = {}
    for group in groups:
        assert len(group["params"]) == len(group["names"])
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert name not in found and task.get_parameter(name) is parameter
            found[name] = (group["lr"], group["weight_decay"])
        assert group["initial_lr"] == group["lr"]
    keys = [(group["lr"], group["weight_decay"]) for group in groups]
    assert len(keys) == len(set(keys)), "groups are few: one for each pair of rate and decay"
    return found


def test_every_trainable_parameter_is_in_one_group(task: Headed) -> None:
    task.backbone.layers[0].requires_grad_(False)
    expected = {name for name, p in task.named_parameters() if p.requires_grad}
    assert rates(task, layer_decay=0.5, norm_wd=0.0, bias_wd=0.1).keys() == expected
    assert not any(name.startswith("backbone.layers.0") for name in expected)


def test_one_rate_and_one_decay_are_one_group(task: Headed) -> None:
    assert set(rates(task, lr=0.3, wd=0.2).values()) == {(0.3, 0.2)}


def test_backbone_has_a_rate_of_its_own(task: Headed) -> None:
    for name, (lr, _) in rates(task, lr=0.3, backbone_lr=0.1).items():
        assert lr == (0.1 if name.startswith("backbone.") else 0.3)
    assert {lr for name, (lr, _) in rates(task, lr=0.3, backbone_lr=0.0).items() if "backbone" in name} == {0.0}


def test_norms_and_biases_have_a_decay_of_their_own(task: Headed) -> None:
    for name, (_, wd) in rates(task, wd=0.3, norm_wd=0.1, bias_wd=0.2).items():
        norm = name.startswith("norm") or re.search(
            r"layers\.\d\.1\.", name
        )  # a layer is convolution, norm, activation, dropout
        assert wd == (0.1 if norm else 0.2 if name.endswith("bias") else 0.3), name


def test_decay_of_zero_is_not_the_default_of_the_others(task: Headed) -> None:
    told = rates(task, wd=0.3, norm_wd=0.0, bias_wd=0.0)
    assert told["norm.weight"][1] == told["norm.bias"][1] == told["head.bias"][1] == 0.0
    assert told["head.weight"][1] == 0.3


def test_layer_decay_counts_blocks_from_the_top_and_leaves_heads_alone(task: Headed) -> None:
    told = rates(task, lr=1.0, backbone_lr=0.5, layer_decay=0.8)
    for i in range(5):
        assert told[f"backbone.layers.{i}.0.weight"][0] == pytest.approx(0.5 * 0.8 ** (5 - i))
    assert told["head.weight"][0] == told["norm.weight"][0] == 1.0


def test_layer_decay_of_a_vit_of_twelve_blocks_spans_thirteen_steps() -> None:
    with torch.device("meta"):
        task = Headed(backbone.build("vit_reg4_m16_rms_avg"))
    told = rates(task, lr=1.0, layer_decay=0.9)
    assert told.keys() == dict(task.named_parameters()).keys()
    scales = {name: lr for name, (lr, _) in told.items()}
    assert min(scales.values()) == pytest.approx(0.9**13)
    assert scales["backbone.net.patch_embed.proj.weight"] == scales["backbone.net.pos_embed"] == min(scales.values())
    for i in range(12):
        assert scales[f"backbone.net.blocks.{i}.mlp.fc1.weight"] == pytest.approx(0.9 ** (12 - i))
    assert scales["head.weight"] == 1.0
    assert len({round(scale, 12) for scale in scales.values()}) == 14


@pytest.mark.parametrize("name", ["convnext_v2_tiny", "mobilenet_v4_m", "vit_reg4_m16_rms_avg", "tiny_vit_5m"])
def test_every_vector_of_a_real_net_is_a_norm_or_a_bias_or_a_scale(name: str) -> None:
    """What has one dimension and still decays like a weight would be a kind of norm that nobody told us of."""
    with torch.device("meta"):
        net = backbone.build(name)
    kinds = parameter_kinds(net)
    for path, parameter in net.named_parameters():
        if parameter.dim() == 1:
            assert kinds.get(id(parameter)) in ("norm", "bias") or path.endswith("gamma"), path
        elif parameter.dim() in (2, 4) and path.endswith("weight"):
            assert kinds.get(id(parameter), "weight") == "weight" or "grn" in path, path


def test_nothing_left_to_train_is_refused(task: Headed) -> None:
    task.requires_grad_(False)
    with pytest.raises(UsageError, match="every parameter is frozen; remove one of the --freeze flags"):
        parameter_groups(task, OptimConfig())


@pytest.mark.parametrize(
    ("told", "kind", "facts"),
    [
        ({"opt": "sgd", "momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8, "nesterov": False}),
        ({"opt": "nesterov", "momentum": 0.8}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ({"opt": "lars", "momentum": 0.8}, LARS, {"momentum": 0.8, "eta": 0.001}),
        ({"opt": "adamw", "betas": (0.8, 0.95)}, torch.optim.AdamW, {"betas": (0.8, 0.95)}),
    ],
)
def test_optimizer_is_the_one_asked_for(task: Headed, told: dict, kind: type, facts: dict) -> None:
    optimizer = build_optimizer(task, OptimConfig(lr=0.3, wd=0.2, backbone_lr=0.1, **told))
    assert type(optimizer) is kind
    assert sorted(group["lr"] for group in optimizer.param_groups) == [0.1, 0.3]
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 0.2 and {key: group[key] for key in facts} == facts


def test_one_step_is_that_of_the_formula() -> None:
    task = nn.Linear(1, 1, bias=False)
    nn.init.constant_(task.weight, 2.0)
    optimizer = build_optimizer(task, OptimConfig(opt="sgd", lr=0.1, wd=0.5, momentum=0.9))
    for expected in (2 - 0.1 * (3 + 0.5 * 2), None):
        task.weight.grad = torch.full_like(task.weight, 3.0)
        optimizer.step()
        if expected is not None:
            assert task.weight.item() == pytest.approx(expected)
    momentum = 0.9 * (3 + 0.5 * 2) + 3 + 0.5 * 1.6
    assert task.weight.item() == pytest.approx(1.6 - 0.1 * momentum)


def test_betas_must_be_two(task: Headed) -> None:
    with pytest.raises(UsageError, match="--betas takes two numbers, such as 0.9 0.999; there are 1"):
        build_optimizer(task, OptimConfig(opt="adamw", betas=(0.9,)))


def test_a_layer_with_an_lr_scale_learns_at_that_share_of_its_rate() -> None:
    task = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    task[1].lr_scale = 0.1  # type: ignore[assignment]
    rates = {id(p): g["lr"] for g in parameter_groups(task, OptimConfig(lr=0.5)) for p in g["params"]}
    assert {rates[id(p)] for p in task[0].parameters()} == {0.5}
    assert {rates[id(p)] for p in task[1].parameters()} == {0.05}
