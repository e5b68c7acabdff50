"""torchvision's backbones: the maps that its detectors look at, and frozen as its builders freeze them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.detection import backbone_utils, ssd, ssdlite
from torchvision.ops import FrozenBatchNorm2d

from backbones import backbone
from backbones.torchvision_zoo import train_last
from shared.errors import UsageError, WeightsError


def same_weights(ours: Any, theirs: nn.Module) -> Any:
    """Our backbone with the weights of torchvision's, which has its tensors in the same order."""
    tensors = {n: v for n, v in theirs.state_dict().items() if "num_batches" not in n and "scale_weight" not in n}
    named = [name for name in ours.state_dict() if "num_batches" not in name]
    assert len(named) <= len(tensors)
    ours.load_state_dict(dict(zip(named, tensors.values(), strict=False)), strict=False)
    return ours.eval()


def mobilenet(**told: Any) -> Any:
    torch.manual_seed(0)
    return models.mobilenet_v3_large(**told).eval()


IMAGE = torch.randn(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_two_maps_of_stride_32_are_those_of_its_pyramid() -> None:
    theirs: Any = backbone_utils._mobilenet_extractor(mobilenet(norm_layer=nn.BatchNorm2d), True, 6).eval()
    ours = same_weights(backbone.build("tv_mobilenet_v3_large_fpn"), theirs.body)
    for mine, other in zip(ours.forward_features(IMAGE), theirs.body(IMAGE).values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("name", "reduced"), [("ssdlite", False), ("ssdlite_reduced", True)])
def test_expanded_map_is_the_one_its_ssdlite_looks_at(name: str, reduced: bool) -> None:
    def norm(channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, eps=0.001, momentum=0.03)

    theirs = ssdlite._mobilenet_extractor(mobilenet(norm_layer=norm, reduced_tail=reduced), 6, norm).eval()
    ours = same_weights(backbone.build(f"tv_mobilenet_v3_large_{name}"), theirs.features)
    for mine, other in zip(ours.forward_features(IMAGE), list(theirs(IMAGE).values())[:2], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    layers = [layer for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(layer.eps, layer.momentum) for layer in layers} == {(0.001, 0.03)}


def vgg(count: int) -> nn.Module:
    whole: Any = SimpleNamespace(features=models.vgg.make_layers(models.vgg.cfgs["D"]))
    return ssd._vgg_extractor(whole, False, count)


@torch.no_grad()
def test_vgg16_rounds_sides_up_as_its_ssd_does() -> None:
    theirs: Any = vgg(5).eval()
    ours = backbone.build("tv_vgg16")
    tensors = [v for n, v in theirs.state_dict().items() if n != "scale_weight"]
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=False)))
    image = torch.randn(1, 3, 92, 76)  # 23 x 19 places before the third pooling
    maps = ours.eval().forward_features(image)
    torch.testing.assert_close(maps[1], theirs.features(image))
    torch.testing.assert_close(maps[2], theirs.extra[0][:-1](maps[1]))
    assert [tuple(x.shape[-2:]) for x in maps] == [(23, 19), (12, 10), (6, 5)]


def resnet(count: int) -> nn.Module:
    return backbone_utils._resnet_fpn_extractor(models.resnet18(norm_layer=nn.BatchNorm2d), count).body  # type: ignore[return-value]


def mobile(count: int) -> nn.Module:
    return backbone_utils._mobilenet_extractor(models.mobilenet_v3_large(), True, count).body  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "build", "most"),
    [
        ("resnet18", resnet, 5),
        ("tv_mobilenet_v3_large_fpn", mobile, 6),
        ("tv_mobilenet_v3_large_ssdlite", mobile, 6),
        ("tv_vgg16", vgg, 5),
    ],
)
def test_last_layers_train_as_torchvision_counts_them(name: str, build: Callable[[int], nn.Module], most: int) -> None:
    with torch.device("meta"):
        for count in range(most + 1):
            ours = backbone.build(name)
            train_last(ours, count)
            still = [tuple(p.shape) for p in ours.parameters() if not p.requires_grad]
            theirs = [tuple(p.shape) for p in build(count).parameters() if not p.requires_grad]
            assert still == theirs, count
            assert (count < most) == bool(still)
        with pytest.raises(UsageError, match=f"this backbone has {most} layers"):
            train_last(backbone.build(name), most + 1)


def test_other_backbones_have_no_such_layers() -> None:
    with torch.device("meta"), pytest.raises(UsageError, match="use --freeze-backbone-stages for this backbone"):
        train_last(backbone.build("convnext_atto"), 3)


def test_reduced_tail_has_no_published_weights() -> None:
    with pytest.raises(WeightsError, match="there are no published weights of this backbone alone"):
        backbone.build("tv_mobilenet_v3_large_ssdlite_reduced", pretrained=True)


def test_resnet_50_is_torchvisions_tensor_for_tensor() -> None:
    with torch.device("meta"):
        theirs = models.resnet50(norm_layer=FrozenBatchNorm2d).state_dict()
        ours: Any = backbone.build("resnet_v1_50")
    mine = {name: v.shape for name, v in ours.net.state_dict().items() if "num_batches" not in name}
    assert mine == {name: v.shape for name, v in theirs.items() if not name.startswith("fc.")}
