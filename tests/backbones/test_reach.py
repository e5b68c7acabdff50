"""What a probe can know: sizes that break only on values, and networks that do not run without values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.reach import beyond, only_size


def maps_of(tiny_backbone: Any, look: Any) -> Any:
    """A small backbone that calls `look` with every image."""
    net = tiny_backbone()
    usual = net.forward_features

    def forward_features(x: Tensor) -> list[Tensor]:
        look(net, x)
        return usual(x)

    net.forward_features = forward_features
    return net


def test_table_that_is_too_short_for_larger_images_is_found_on_data(tiny_backbone: Any) -> None:
    """Nobody looks at an index on the meta device, as with the relative positions of mvitv2_tiny."""

    def look(net: Any, x: Tensor) -> None:
        table = torch.zeros(64, device=x.device)
        table[torch.arange(x.shape[-1] // 32, device=x.device) * 8]

    net = maps_of(tiny_backbone, look)
    assert only_size(net, (224, 224)) == (224, 224)
    assert only_size(tiny_backbone(), (224, 224)) is None


def test_network_that_looks_at_values_is_asked_on_data(tiny_backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr("backbones.reach.maps_on_meta", refuse)
    assert only_size(tiny_backbone(), (224, 224)) is None

    def look(_: Any, x: Tensor) -> None:
        assert x.shape[-1] == 224, "another size"

    assert only_size(maps_of(tiny_backbone, look), (224, 224)) == (224, 224)


def test_the_probe_leaves_the_network_as_it_was(tiny_backbone: Any) -> None:
    net = tiny_backbone()
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    norm.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    only_size(net, (64, 64))
    assert net.training and not norm.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_size_beyond_the_own_has_odd_cells() -> None:
    assert [beyond(own) for own in ((224, 224), (256, 192), (100, 100))] == [(288, 352), (288, 352), (160, 224)]
