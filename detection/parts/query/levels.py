"""The maps that a multi-scale transformer looks at: backbone maps -> levels of equal width, each half as fine.

Zhu, Su, Lu, Li, Wang, Dai, "Deformable DETR: Deformable Transformers for End-to-End Object Detection", 2021.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from backbones.base import Backbone
from detection.parts.dense.necks import build_pyramid
from shared.errors import UsageError


class Levels(nn.Module):
    """Backbone maps -> `count` maps of equal width, each with twice the stride of the previous one.

    The coarsest maps with strides from `finest` to 32 get a convolution each; further levels are made by stride-2
    convolutions. The single map of a plain ViT becomes a simple pyramid first.

    Raises:
        UsageError: the backbone has no map in this range.
    """

    def __init__(self, backbone: Backbone, width: int, count: int, finest: int) -> None:
        super().__init__()
        self.used, self.pyramid, channels = from_backbone(backbone, width, count, finest)
        convs = [nn.Conv2d(into, width, 1) for into in channels]
        for i in range(count - len(channels)):
            convs.append(nn.Conv2d(width if i else channels[-1], width, 3, stride=2, padding=1))
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        groups = max(1, math.gcd(256, width) // 8)  # 32 for the paper's 256 channels
        self.levels = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(groups, width)) for conv in convs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Backbone maps -> `count` maps (B, width, H, W), finest first."""
        maps = [maps[i] for i in self.used] if self.pyramid is None else self.pyramid(maps)[:-1]
        found = [level(x) for level, x in zip(self.levels, maps, strict=False)]
        x = maps[-1]
        for level in self.levels[len(maps) :]:
            found.append(x := level(x))
        return found


def from_backbone(
    backbone: Backbone, width: int, count: int, finest: int
) -> tuple[list[int], nn.Module | None, list[int]]:
    """The coarsest `count` maps with strides from `finest` to 32, or fewer.

    Returns:
        Indices of the used maps; the pyramid to be made of the single map of a plain ViT, whose last level is not
        used, else None; channels of each map that there is then.

    Raises:
        UsageError: the backbone has no map in this range.
    """
    used = [i for i, info in enumerate(backbone.maps) if finest <= info.stride <= 32][-count:]
    if not used or count < 1:
        raise UsageError(
            f"{count} levels from stride {finest} on need a map of stride {finest} to 32; this backbone has "
            f"strides {[i.stride for i in backbone.maps]}, change --num-levels or --finest-stride, or use "
            f"another one"
        )
    stride = backbone.maps[-1].stride
    if len(backbone.maps) == 1 and stride % 4 == 0 and count > 1:
        offered = [s for s in (stride // 4, stride // 2, stride, stride * 2) if s >= finest]
        pyramid = build_pyramid(backbone, width, finest=offered[-count:][0], coarser="pool")
        return used, pyramid, [info.channels for info in pyramid.maps[:-1]]  # without the pooled level
    return used, None, [backbone.maps[i].channels for i in used]
