"""Necks: backbone maps -> a pyramid of maps of equal width.

    several maps       FPN         Lin et al., "Feature Pyramid Networks for Object Detection", 2017
    one map (a ViT)    SimpleFPN   Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", 2022

A neck is built from the backbone's `maps`, so recipes have no channel numbers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from backbones.base import Backbone, MapInfo
from shared.errors import UsageError

# levels above stride 32: one max-pooled level, as in R-CNNs, or two by strided convolutions, as in dense detectors,
# from
# the previous level (P5) or from the backbone's last map (C5)
Coarser = Literal["pool", "convs", "convs of c5"]
Norm = Callable[..., nn.Module]


class FPN(nn.Module):
    """torchvision's feature pyramid over the maps of strides `finest` to 32, with coarser levels."""

    def __init__(self, backbone: Backbone, width: int, finest: int, coarser: Coarser, norm: Norm | None = None) -> None:
        super().__init__()
        self.used = [i for i, info in enumerate(backbone.maps) if finest <= info.stride <= 32]
        channels, strides = zip(*(backbone.maps[i] for i in self.used), strict=True)
        if coarser == "pool":
            extra = LastLevelMaxPool()
        else:
            extra = LastLevelP6P7(channels[-1] if coarser == "convs of c5" else width, width)
            extra.use_P5 = coarser == "convs"  # torchvision would guess it from the channels
        self.fpn = FeaturePyramidNetwork(list(channels), width, extra, norm_layer=norm)
        self.maps = levels(width, list(strides), coarser)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Backbone maps -> one (B, width, H/s, W/s) per entry of `maps`, finest first."""
        return list(self.fpn(OrderedDict((str(i), maps[i]) for i in self.used)).values())


class SimpleFPN(nn.Module):
    """Four scales from the single map of a plain ViT: x4, x2, x1, /2; then the coarser levels."""

    def __init__(self, backbone: Backbone, width: int, finest: int, coarser: Coarser) -> None:
        super().__init__()
        channels, stride = backbone.maps[-1]
        self.used = [len(backbone.maps) - 1]
        scales: dict[int, nn.Module] = {
            stride // 4: nn.Sequential(
                up(channels, channels // 2), channel_norm(channels // 2), nn.GELU(), up(channels // 2, channels // 4)
            ),
            stride // 2: up(channels, channels // 2),
            stride: nn.Identity(),
            stride * 2: nn.MaxPool2d(2, ceil_mode=True),
        }
        widths = {stride // 4: channels // 4, stride // 2: channels // 2, stride: channels, stride * 2: channels}
        strides = [s for s in scales if s >= finest]
        self.scales = nn.ModuleList(nn.Sequential(scales[s], smooth(widths[s], width)) for s in strides)
        self.extra = LastLevelMaxPool() if coarser == "pool" else LastLevelP6P7(width, width)
        self.maps = levels(width, strides, coarser)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Backbone maps -> one (B, width, H/s, W/s) per entry of `maps`, finest first."""
        xs = [scale(maps[self.used[0]]) for scale in self.scales]
        return self.extra(xs, xs, [str(i) for i in range(len(xs))])[0]


def build_pyramid(
    backbone: Backbone, width: int = 256, *, finest: int, coarser: Coarser, norm: Norm | None = None
) -> FPN | SimpleFPN:
    """The neck for a backbone.

    Args:
        width: channels of every level.
        finest: stride of the finest level.
        coarser: levels above stride 32.
        norm: builds the norm after each convolution of an FPN; SimpleFPN has its own.

    Raises:
        UsageError: the backbone lacks maps of the needed strides.
    """
    strides = [info.stride for info in backbone.maps]
    if len(strides) == 1 and strides[0] % 4 == 0:
        if coarser == "convs of c5":
            raise UsageError("a plain ViT has no C5; use --p6-from p5")
        return SimpleFPN(backbone, width, finest, coarser)
    if sum(finest <= s <= 32 for s in strides) < 2:
        raise UsageError(
            f"a pyramid needs maps of stride {finest} to 32; this backbone has strides {strides}, use another one"
        )
    return FPN(backbone, width, finest, coarser, norm)


def levels(width: int, strides: list[int], coarser: Coarser) -> tuple[MapInfo, ...]:
    above = [strides[-1] * 2 ** (k + 1) for k in range(1 if coarser == "pool" else 2)]
    return tuple(MapInfo(width, s) for s in strides + above)


def up(into: int, out: int) -> nn.Module:
    return nn.ConvTranspose2d(into, out, kernel_size=2, stride=2)


def channel_norm(channels: int) -> nn.Module:
    """Layer norm over the channels of each cell."""
    from timm.layers.norm import LayerNorm2d

    return LayerNorm2d(channels)


def smooth(into: int, out: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(into, out, 1, bias=False),
        channel_norm(out),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        channel_norm(out),
    )
