"""A BiFPN makes five levels of what the backbone says about itself, and every voice in it is heard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.base import MapInfo
from detection.parts.dense.bifpn import BiFPN, Mix
from shared.errors import UsageError


class Told:
    """A backbone that says of itself what a test wants it to."""

    def __init__(self, *maps: tuple[int, int]) -> None:
        self.maps = tuple(MapInfo(*info) for info in maps)


PYRAMID = Told((8, 4), (12, 8), (16, 16), (20, 32))
TWO = Told((12, 8), (16, 16))
SAME = Told((24, 8), (24, 16), (24, 32), (24, 64))
VIT, VIT8, VIT32 = Told((16, 16)), Told((16, 8)), Told((32, 32))


def features(backbone: Any, height: int, width: int) -> list[Tensor]:
    return [torch.randn(2, c, -(-height // s), -(-width // s)) for c, s in backbone.maps]


@pytest.mark.parametrize("backbone", [PYRAMID, TWO, SAME, VIT, VIT8, VIT32])
@pytest.mark.parametrize("size", [(128, 256), (75, 133)])
@pytest.mark.parametrize("weighted", [True, False])
def test_five_levels_of_stride_8_to_128(backbone: Any, size: tuple[int, int], weighted: bool) -> None:
    """Also of images whose sides do not divide."""
    neck = BiFPN(backbone, 24, 2, weighted=weighted)
    assert [info.stride for info in neck.maps] == [8, 16, 32, 64, 128]
    shapes = [tuple(x.shape[:2]) for x in neck(features(backbone, *size))]
    assert shapes == [(2, 24)] * 5
    if size == (128, 256) or backbone in (PYRAMID, SAME, TWO):
        tall = [tuple(x.shape[2:]) for x in neck(features(backbone, *size))]
        assert tall == [(-(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32, 64, 128)]


@pytest.mark.parametrize("backbone", [PYRAMID, SAME, VIT])
def test_every_parameter_learns_from_every_level(backbone: Any) -> None:
    neck = BiFPN(backbone, 24, 2)
    torch.stack([x.square().mean() for x in neck(features(backbone, 256, 256))]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in neck.parameters())
    heard = [p.grad.abs().sum() > 0 for p in neck.parameters() if p.dim() == 4]  # type: ignore[union-attr]
    assert len(heard) > 30 and all(heard)


def test_every_level_hears_every_map() -> None:
    neck = BiFPN(PYRAMID, 24, 1)  # type: ignore[arg-type]
    maps = [m.requires_grad_() for m in features(PYRAMID, 256, 256)]
    for level in neck(maps):
        grads = torch.autograd.grad(level.square().sum(), maps[1:], retain_graph=True)
        assert all(grad.abs().sum() > 0 for grad in grads)


def test_maps_that_are_not_used_may_be_anything() -> None:
    neck = BiFPN(SAME, 24, 1).eval()  # type: ignore[arg-type]
    assert neck.used == [0, 1, 2]
    maps = features(SAME, 128, 128)
    expected = neck(maps)
    maps[3] = torch.full_like(maps[3], float("nan"))
    assert all(torch.equal(a, b) for a, b in zip(neck(maps), expected, strict=True))


def test_levels_of_the_right_width_are_taken_as_they_are() -> None:
    first = BiFPN(SAME, 24, 1).cells[0]  # type: ignore[arg-type]
    assert all(isinstance(way, nn.Identity) for way in [*first.before_down, *first.before_up])  # type: ignore[misc]


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [2.0, -1.0, 0.5]])
def test_voices_count_by_their_share_and_a_negative_weight_is_none(weights: list[float]) -> None:
    """The paper's fast normalized fusion, then what follows it."""
    mix = Mix(3, 4, weighted=True).eval()
    mix.weights.data = torch.tensor(weights)  # type: ignore[union-attr]
    voices = [torch.randn(1, 4, 5, 5) for _ in weights]
    kept = [max(w, 0.0) for w in weights]
    total = sum(w * v for w, v in zip(kept, voices, strict=True)) / (sum(kept) + 1e-4)
    expected = mix.norm(mix.conv(total * torch.sigmoid(total)))  # type: ignore[operator]
    torch.testing.assert_close(mix(voices), expected)


@pytest.mark.parametrize("maps", [((8, 4), (8, 16), (8, 32)), ((8, 8), (8, 32)), ((8, 32), (8, 64)), ((8, 4), (8, 64))])
def test_backbone_whose_maps_do_not_double_from_8_is_refused(maps: Any) -> None:
    strides = str([stride for _, stride in maps]).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(
        UsageError, match=f"needs maps of strides 8, 16 and 32; this backbone has {strides}, take another"
    ):
        BiFPN(Told(*maps), 24, 1)  # type: ignore[arg-type]


def test_neck_stands_on_a_real_backbone(tiny_backbone: Callable[..., Any]) -> None:
    net = tiny_backbone()
    shapes = [tuple(x.shape[1:]) for x in BiFPN(net, 24, 1)(net.forward_features(torch.randn(2, 3, 128, 256)))]
    assert shapes == [(24, 128 // s, 256 // s) for s in (8, 16, 32, 64, 128)]
