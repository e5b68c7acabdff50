"""Frozen means frozen: weights and running statistics hold still through a training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import backbone
from backbones.freeze import freeze, freeze_batch_norm, freeze_stages, freeze_unreached, keep_frozen_in_eval
from shared.errors import UsageError


def changed_by_a_step(net: Any) -> set[str]:
    """Names of parameters and buffers that a training step with a heavy weight decay changes."""
    before = {name: value.clone() for name, value in net.state_dict().items()}
    learning = [p for p in net.parameters() if p.requires_grad]
    net.train()
    keep_frozen_in_eval(net)
    loss = sum((x.square().mean() for x in net.forward_features(torch.randn(4, 3, 64, 64))), torch.zeros(()))
    if learning:
        optimizer = torch.optim.SGD(learning, lr=0.5, weight_decay=0.5)
        (loss + net(torch.randn(4, 3, 64, 64)).mean()).backward()
        optimizer.step()
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


def of_layers(net: nn.Module, *indices: int) -> set[str]:
    return {name for name in net.state_dict() if int(name.split(".")[1]) in indices}


def test_a_step_changes_everything_that_is_not_frozen(tiny_backbone: Callable[..., Any]) -> None:
    net = tiny_backbone()
    assert changed_by_a_step(net) == set(net.state_dict())


def test_frozen_backbone_holds_still(tiny_backbone: Callable[..., Any]) -> None:
    net = tiny_backbone()
    freeze(net)
    assert changed_by_a_step(net) == set()
    assert not any(layer.training for layer in net.modules())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_frozen_stages_hold_still_and_the_others_learn(tiny_backbone: Callable[..., Any], count: int) -> None:
    net = tiny_backbone(dropped=0.5)
    freeze_stages(net, count)
    assert changed_by_a_step(net) == of_layers(net, *range(count + 1, 5))
    for i, layer in enumerate(net.layers):
        assert layer[3].training == (i > count), "dropout of a frozen stage is off"


def test_freezing_more_stages_than_there_are_is_refused(tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="--freeze-backbone-stages 5: this backbone has a stem and 4 stages"):
        freeze_stages(tiny_backbone(), 5)
    freeze_stages(tiny_backbone(), 4)


def test_frozen_batch_norm_keeps_scale_shift_and_statistics(tiny_backbone: Callable[..., Any]) -> None:
    net = tiny_backbone()
    freeze_batch_norm(net)
    changed = changed_by_a_step(net)
    assert changed == {name for name in net.state_dict() if name.split(".")[2] == "0"}, "convolutions alone"


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_frozen_stages_of_timm_nets_hold_still(name: str) -> None:
    net = backbone.build(name, drop_path=0.1)
    freeze_stages(net, 2)
    frozen = {id(p) for stage in net.stages()[:3] for p in stage}
    still = {name for name, p in net.named_parameters() if id(p) in frozen}
    roots = {name.rpartition(".")[0] for name in still}
    still |= {name for name, _ in net.named_buffers() if name.rpartition(".")[0] in roots}
    changed = changed_by_a_step(net)
    assert still and not changed & still
    assert changed >= {name for name, p in net.named_parameters() if p.requires_grad and p.dim() > 1}


def test_what_no_used_map_depends_on_is_frozen_and_named(tiny_backbone: Callable[..., Any]) -> None:
    net = tiny_backbone()
    assert freeze_unreached(net, [0, 1]) == [n for n, _ in net.named_parameters() if n[7] in "34"]
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {
        n for n, _ in net.named_parameters() if n[7] in "34"
    }


def test_head_convolution_of_a_mobilenet_is_reached_by_no_map() -> None:
    net = backbone.build("mobilenet_v4_m")
    idle = freeze_unreached(net, range(len(net.maps)))
    assert idle and all("conv_head" in name or "norm_head" in name or "blocks.4" in name for name in idle)
    loss = sum((x.mean() for x in net.forward_features(torch.randn(2, 3, 64, 64))), torch.zeros(()))
    loss.backward()
    assert gradients_are_where_they_should_be(net)


def gradients_are_where_they_should_be(net: nn.Module) -> bool:
    given: dict[str, Tensor | None] = {name: p.grad for name, p in net.named_parameters()}
    return all((given[name] is not None) == p.requires_grad for name, p in net.named_parameters())
