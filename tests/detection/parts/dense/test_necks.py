"""A neck is built from what the backbone says about itself, and gives equally wide maps of known strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.base import MapInfo
from detection.parts.dense.necks import FPN, SimpleFPN, build_pyramid
from shared.errors import UsageError


class Told:
    """A backbone that says of itself what a test wants it to."""

    def __init__(self, *maps: tuple[int, int]) -> None:
        self.maps = tuple(MapInfo(*info) for info in maps)


def features(backbone: Any, height: int, width: int) -> list[Tensor]:
    return [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in backbone.maps]


PYRAMID = Told((8, 4), (12, 8), (16, 16), (20, 32))
VIT = Told((16, 16))


@pytest.mark.parametrize("size", [(128, 192), (96, 160), (75, 133)])
@pytest.mark.parametrize(
    ("finest", "coarser", "strides", "used"),
    [(4, "pool", [4, 8, 16, 32, 64], [0, 1, 2, 3]), (8, "convs", [8, 16, 32, 64, 128], [1, 2, 3])],
)
def test_pyramid_has_the_levels_it_says(
    size: Any, finest: int, coarser: Any, strides: list[int], used: list[int]
) -> None:
    neck = build_pyramid(PYRAMID, 24, finest=finest, coarser=coarser)
    assert isinstance(neck, FPN) and neck.used == used
    assert [info.stride for info in neck.maps] == strides
    shapes = [tuple(x.shape) for x in neck(features(PYRAMID, *size))]
    assert shapes == [(2, 24, -(-size[0] // s), -(-size[1] // s)) for s in strides]


@pytest.mark.parametrize(
    ("finest", "coarser", "strides"),
    [(4, "pool", [4, 8, 16, 32, 64]), (8, "convs", [8, 16, 32, 64, 128])],
)
def test_plain_vit_gets_the_same_levels_from_its_one_map(finest: int, coarser: Any, strides: list[int]) -> None:
    neck = build_pyramid(VIT, 24, finest=finest, coarser=coarser)
    assert isinstance(neck, SimpleFPN) and neck.used == [0]
    assert [info.stride for info in neck.maps] == strides
    shapes = [tuple(x.shape) for x in neck(features(VIT, 96, 160))]
    assert shapes == [(2, 24, -(-96 // s), -(-160 // s)) for s in strides]


def test_plain_vit_of_patches_of_eight_starts_at_two() -> None:
    neck = build_pyramid(Told((16, 8)), 24, finest=4, coarser="pool")
    assert [info.stride for info in neck.maps] == [4, 8, 16, 32]


@pytest.mark.parametrize("backbone", [PYRAMID, VIT], ids=["pyramid", "vit"])
@pytest.mark.parametrize(("finest", "coarser"), [(4, "pool"), (8, "convs")])
def test_every_parameter_of_a_neck_learns(backbone: Any, finest: int, coarser: Any) -> None:
    neck = build_pyramid(backbone, 24, finest=finest, coarser=coarser)
    torch.stack([x.square().mean() for x in neck(features(backbone, 128, 128))]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in neck.parameters())


def test_coarser_levels_begin_at_p5_or_at_c5() -> None:
    """Even where both are equally wide, by which torchvision tells them apart."""
    maps = features(PYRAMID, 128, 128)
    for coarser, begins in (("convs", "p5"), ("convs of c5", "c5")):
        neck: Any = build_pyramid(PYRAMID, PYRAMID.maps[-1].channels, finest=8, coarser=coarser)
        *_, p5, p6, _ = neck(maps)
        expected = neck.fpn.extra_blocks.p6({"p5": p5, "c5": maps[-1]}[begins])
        torch.testing.assert_close(p6, expected)
        wider: Any = build_pyramid(PYRAMID, 24, finest=8, coarser=coarser)
        assert wider.fpn.extra_blocks.p6.in_channels == {"p5": 24, "c5": 20}[begins]


def test_a_plain_vit_has_no_c5() -> None:
    with pytest.raises(UsageError, match="no C5"):
        build_pyramid(VIT, 24, finest=8, coarser="convs of c5")


def test_norms_of_a_pyramid_take_the_place_of_biases() -> None:
    neck: Any = build_pyramid(PYRAMID, 24, finest=4, coarser="pool", norm=nn.BatchNorm2d)
    convs = [layer for layer in neck.modules() if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in neck.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(convs) == len(norms) == 8 and all(conv.bias is None for conv in convs)


def test_maps_that_are_not_used_may_be_anything() -> None:
    neck = build_pyramid(PYRAMID, 24, finest=8, coarser="convs")
    maps = features(PYRAMID, 64, 64)
    expected = neck(maps)
    maps[0] = torch.full_like(maps[0], float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(neck(maps), expected, strict=True))


@pytest.mark.parametrize("maps", [((8, 4), (8, 64)), ((8, 32), (8, 64)), ((8, 14),)])
def test_backbone_that_allows_no_pyramid_is_refused_with_its_strides(maps: Any) -> None:
    strides = str([stride for _, stride in maps])
    with pytest.raises(UsageError, match="needs maps of stride 8 to 32; this backbone has strides") as told:
        build_pyramid(Told(*maps), 24, finest=8, coarser="convs")
    assert strides in str(told.value)


def test_neck_stands_on_a_real_backbone(tiny_backbone: Callable[..., Any]) -> None:
    net = tiny_backbone()
    neck = build_pyramid(net, 24, finest=4, coarser="pool")
    assert [tuple(x.shape[1:]) for x in neck(net.forward_features(torch.randn(1, 3, 64, 96)))] == [
        (24, 64 // s, 96 // s) if s <= 32 else (24, 1, 2) for s in (4, 8, 16, 32, 64)
    ]
