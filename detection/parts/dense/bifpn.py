"""BiFPN: repeated top-down and bottom-up feature fusion with learned weights.

Tan, Pang, Le, "EfficientDet: Scalable and Efficient Object Detection", 2020.

    backbone maps of stride 8 to 32, then pooled ones to stride 128
        -> cell: top-down from the coarsest level, then bottom-up from the finest
        -> repeated `cells` times -> five maps of equal width

A plain ViT's single map is first converted to a pyramid by `SimpleFPN`.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone, MapInfo
from detection.parts.dense.necks import build_pyramid
from shared.errors import UsageError

LEVELS, FINEST, COARSEST = 5, 8, 32
norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
halved = partial(F.max_pool2d, kernel_size=3, stride=2, padding=1)


class BiFPN(nn.Module):
    """Backbone maps -> five (B, width, H/s, W/s), one per entry of `maps`, finest first.

    Args:
        backbone: any with maps of strides 8, 16 and 32, or a plain ViT.
        width: channels of every level.
        cells: number of fusion cells.
        weighted: learned fusion weights; otherwise plain sums.

    Raises:
        UsageError: the backbone's maps do not have these strides.
    """

    def __init__(self, backbone: Backbone, width: int, cells: int, *, weighted: bool = True) -> None:
        super().__init__()
        self.used = [i for i, info in enumerate(backbone.maps) if FINEST <= info.stride <= COARSEST]
        given = [backbone.maps[i] for i in self.used]
        self.simple = None
        if len(backbone.maps) == 1:
            self.simple = build_pyramid(backbone, width, finest=FINEST, coarser="pool")
            self.used, given = self.simple.used, list(self.simple.maps[:-1])  # without its pooled level
        strides = [info.stride for info in given]
        if strides[:1] != [FINEST] or any(coarser != 2 * finer for finer, coarser in pairwise(strides)):
            backbone_strides = [info.stride for info in backbone.maps]
            raise UsageError(
                f"a BiFPN needs maps of strides {FINEST}, 16 and {COARSEST}; this backbone has {backbone_strides}, "
                "take another"
            )
        widths = [info.channels for info in given] + [width] * (LEVELS - len(given))
        self.top = project(widths[len(given) - 1], width)
        self.cells = nn.Sequential(*(Cell([width] * LEVELS if i else widths, width, weighted) for i in range(cells)))
        self.maps = tuple(MapInfo(width, FINEST * 2**k) for k in range(LEVELS))
        start_evenly(self.top, self.cells)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = self.simple(maps)[:-1] if self.simple else [maps[i] for i in self.used]
        coarsest = self.top(levels[-1])
        while len(levels) < LEVELS:
            levels.append(coarsest := halved(coarsest))
        return self.cells(levels)


class Cell(nn.Module):
    """One fusion cell. The figure shows three of the five levels:

    coarse  c --------------> c"        b' = mix(b, c doubled)    b" = mix(b, b', a' halved)
            v                 ^         a' = mix(a, b' doubled)   c" = mix(c, b" halved)
            b -----> b' ----> b"
            v                 ^         the result is a', b", c"
    fine    a -----> a' ------'
    """

    def __init__(self, widths: list[int], width: int, weighted: bool) -> None:
        super().__init__()
        # a level of another width is projected separately for each use
        self.before_down = nn.ModuleList(project(c, width) for c in widths[:-1])
        self.before_up = nn.ModuleList(project(c, width) for c in widths[1:])
        self.down = nn.ModuleList(Mix(2, width, weighted) for _ in widths[:-1])
        self.up = nn.ModuleList(Mix(voices, width, weighted) for voices in [3] * (len(widths) - 2) + [2])

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """(B, C_i, H_i, W_i) per level, finest first -> (B, width, H_i, W_i) per level"""
        down = [levels[-1]]
        for own, project, mix in reversed(list(zip(levels, self.before_down, self.down, strict=False))):
            down.append(mix([project(own), F.interpolate(down[-1], size=own.shape[-2:])]))
        *middle, finest = down[1:]
        up = [finest]
        for own, project, mix, heard in zip(levels[1:], self.before_up, self.up, [*middle[::-1], None], strict=True):
            voices = [project(own)] if heard is None else [project(own), heard]
            up.append(mix([*voices, halved(up[-1])]))
        return up


class Mix(nn.Module):
    """Maps of equal shape -> one: weighted sum, SiLU, depthwise separable convolution, batch norm."""

    def __init__(self, voices: int, width: int, weighted: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(voices)) if weighted else None
        self.conv, self.norm = separable(width, width), norm(width)

    def forward(self, voices: list[Tensor]) -> Tensor:
        if self.weights is not None:
            shares = self.weights.relu()
            shares = shares / (shares.sum() + 1e-4)
            voices = [voice * share for voice, share in zip(voices, shares, strict=True)]
        mixed = voices[0]
        for voice in voices[1:]:
            mixed = mixed + voice
        return self.norm(self.conv(F.silu(mixed)))


def separable(into: int, out: int, *, bias: bool = False) -> nn.Sequential:
    """Depthwise separable convolution: depthwise 3x3, then pointwise 1x1."""
    return nn.Sequential(
        nn.Conv2d(into, into, 3, padding=1, groups=into, bias=False), nn.Conv2d(into, out, 1, bias=bias)
    )


def project(into: int, out: int) -> nn.Module:
    return nn.Identity() if into == out else nn.Sequential(nn.Conv2d(into, out, 1, bias=False), norm(out))


def start_evenly(*parts: nn.Module) -> None:
    """Initialize convolutions so that they preserve the variance."""
    for part in parts:
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
