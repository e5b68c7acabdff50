"""Maps are the same numbers whether timm's release computes them itself or not."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from backbones import backbone
from backbones.timm_maps import has_maps, maps_of

# networks that had no forward_intermediates when timm 1.0.20 came out
LATE = ["csp_resnet_50", "darknet53", "vgg11_bn", "densenet121", "selecsls42", "dla34"]


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch):
    """Take `forward_intermediates` away from the class of a network, as before timm had it."""

    def take_away(net: nn.Module) -> None:
        for cls in type(net).__mro__:
            if "forward_intermediates" in vars(cls):
                monkeypatch.delattr(cls, "forward_intermediates")

    return take_away


@pytest.mark.parametrize(
    "name", ["hrnet_w18_small", *(pytest.param(name, marks=pytest.mark.slow) for name in ["hrnet_w32c", *LATE])]
)
def test_maps_are_those_of_a_release_that_has_them(name: str, older: Any) -> None:
    net: Any = backbone.build(name).eval()
    if not hasattr(net.net, "forward_intermediates"):
        pytest.skip("this release of timm has none to compare with")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = net.forward_features(image)
        older(net.net)
        assert has_maps(net.net) and not hasattr(net.net, "forward_intermediates")
        for one in (net, deepcopy(net)):
            found = one.forward_features(image)
            assert len(found) == len(expected) == len(net.maps)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_classifier_of_hrnet_does_not_run_for_maps(older: Any) -> None:
    net: Any = backbone.build("hrnet_w18_small").train()
    older(net.net)
    maps = net.forward_features(torch.randn(2, 3, 64, 64))
    torch.stack([x.mean() for x in maps]).sum().backward()
    statistics = [module for module in net.net.final_layer.modules() if isinstance(module, nn.BatchNorm2d)]
    assert statistics and all(int(module.num_batches_tracked) == 0 for module in statistics)
    assert all(p.grad is None for p in net.net.downsamp_modules.parameters())
    assert net.net.conv1.weight.grad.abs().sum() > 0


class Listed(nn.Module):
    """Two strided convolutions and the feature_info of a network without forward_intermediates."""

    def __init__(self, *told: dict[str, Any], runs: bool = True) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 5, 3, 2, 1)
        self.feature_info, self.runs = list(told), runs

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x) if self.runs else nn.functional.conv2d(x, self.one.weight, None, 4, 1)
        return self.two(x)


ONE, TWO = {"module": "one", "num_chs": 4}, {"module": "two", "num_chs": 5}


def test_what_enters_a_module_is_a_map_where_feature_info_says_so() -> None:
    net, image = Listed(ONE, TWO | {"hook_type": "forward_pre"}, TWO), torch.randn(1, 3, 16, 16)
    found = maps_of(net, image, [0, 1, 2])
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], net.two(found[0]))
    assert not net.one._forward_hooks and not net.two._forward_pre_hooks, "nothing is left on the network"
    assert [x.shape[1] for x in maps_of(net, image, [2])] == [5]


def test_network_that_cannot_show_its_maps_is_told() -> None:
    assert has_maps(Listed(ONE, TWO)) and not has_maps(Listed())
    assert not has_maps(Listed({"module": "three", "num_chs": 4})) and not has_maps(nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match="one did not run"):
        maps_of(Listed(ONE, TWO, runs=False), torch.zeros(1, 3, 16, 16), [0, 1])
