"""Map and vector out of one pass are those of two, and a network that cannot is left with two."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backbones import backbone
from backbones.reach import join_passes


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv4_conv_small", "test_efficientnet"])
def test_both_ways_give_the_same(name: str) -> None:
    net: Any = backbone.build(name).train()
    join_passes(net, (64, 96))
    assert net.training
    assert net.one_pass or not name.startswith(("test_r", "test_v"))  # of others it is timm's release that decides
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        coarsest, pooled = net.eval().forward_both(x)
        torch.testing.assert_close(coarsest, net.forward_features(x)[-1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(pooled, net(x), rtol=1e-4, atol=1e-5)


def test_a_network_that_ends_otherwise_keeps_two_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = backbone.build("test_resnet")
    monkeypatch.setattr(net.net, "forward", lambda x: net.net.forward_head(net.net.forward_features(x)) + 1)
    join_passes(net, (64, 64))
    assert net.one_pass is False
