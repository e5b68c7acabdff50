"""CLIP's ResNet-50: open_clip's network tensor for tensor, with statistics that hold still."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones import backbone
from backbones.base import Backbone
from backbones.clip_resnet import Bottleneck
from backbones.freeze import freeze_stages, keep_frozen_in_eval
from shared.errors import WeightsError


@pytest.fixture(scope="module")
def net() -> Backbone:
    torch.manual_seed(0)
    return backbone.build("clip_resnet50")


def disturbed(module: nn.Module) -> nn.Module:
    """Batch norms with values of their own, so that every one of them counts."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value, low, high in (
                *((layer.weight, 0.5, 1.0), (layer.bias, -0.2, 0.2)),
                *((layer.running_mean, -0.2, 0.2), (layer.running_var, 0.5, 1.5)),
            ):
                nn.init.uniform_(value, low, high)  # type: ignore[arg-type]
    return module


def open_clips(width: int = 64) -> nn.Module:
    modified = pytest.importorskip("open_clip.modified_resnet")
    torch.manual_seed(1)
    built = modified.ModifiedResNet(layers=(3, 4, 6, 3), output_dim=1024, heads=32, image_size=224, width=width)
    return disturbed(built).eval()


def test_each_part_has_the_parameters_of_clips(net: Backbone) -> None:
    counts = [sum(p.numel() for p in stage) for stage in net.stages()]
    assert counts == [28_768, 215_808, 1_219_584, 7_098_368]
    assert sum(counts) == 8_562_528


@pytest.mark.slow
@torch.no_grad()
def test_maps_are_those_of_open_clip(net: Backbone) -> None:
    theirs = open_clips()
    own = net.state_dict()
    weights = {name: value for name, value in theirs.state_dict().items() if name in own}
    assert own.keys() == weights.keys()
    net.load_state_dict(weights)
    x = torch.randn(1, 3, 480, 640)
    expected, y = [], theirs.stem(x)  # type: ignore[operator]
    for name in ("layer1", "layer2", "layer3"):
        expected.append(y := getattr(theirs, name)(y))
    for mine, other in zip(net.eval().forward_features(x), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_statistics_hold_still_in_training_while_scale_and_shift_learn_beyond_what_is_frozen(net: Backbone) -> None:
    freeze_stages(net, 1)
    net.train()
    keep_frozen_in_eval(net)
    norms = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    before = {name: norm.running_mean.clone() for name, norm in norms.items()}  # type: ignore[union-attr]
    net(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(norm.running_mean, before[name]) for name, norm in norms.items())  # type: ignore[arg-type]
    frozen = ("conv", "bn", "layer1.")
    for name, parameter in net.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen), name
    net.requires_grad_(True)


def test_no_convolution_after_the_first_has_a_stride(net: Backbone) -> None:
    strides = [layer.stride for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert strides[0] == (2, 2) and set(strides[1:]) == {(1, 1)}


def test_what_is_left_at_the_border_is_averaged_too() -> None:
    block = disturbed(Bottleneck(8, 2, 2)).eval()
    assert block(torch.randn(1, 8, 5, 7)).shape == (1, 8, 3, 4)


def test_published_weights_are_not_to_be_had_and_the_way_to_them_is_said() -> None:
    with pytest.raises(WeightsError, match="pretrain import RN50.pt --model clip_resnet50"):
        backbone.build("clip_resnet50", pretrained=True)
