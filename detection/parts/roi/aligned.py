"""RoIAlign without the half-pixel shift and with as many samples as a region needs, on one map or on a pyramid.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017; levels as in Lin et al., "Feature Pyramid Networks", 2017.

`roi_align.py` has torchvision's older convention (shifted by half a pixel, four samples a cell), which its published
detectors were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from backbones.base import MapInfo

USUAL = 56  # pixels: square root of the area from which a region is cut out of the next level, at stride 4
FINEST = 4


def aligned(maps: list[Tensor], infos: Sequence[MapInfo], boxes: list[Tensor], cells: int = 7) -> Tensor:
    """Maps (B, C, H_i, W_i) and the boxes (R_b, 4) of each image -> (R, C, cells, cells).

    Args:
        infos: of the maps, finest first, strides doubling; a region of 112 pixels is cut out of stride 8.
    """
    every = torch.cat(boxes)
    number = torch.cat([every.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
    level = level_of(every, infos)
    cut = every.new_zeros((len(every), maps[0].shape[1], cells, cells))
    for i, (x, info) in enumerate(zip(maps, infos, strict=True)):
        here = (level == i).nonzero()[:, 0]
        regions = torch.cat((number[here], every[here]), 1)
        cut = cut.index_copy(0, here, roi_align(x.float(), regions, cells, 1 / info.stride, -1, aligned=True))
    return cut


def level_of(boxes: Tensor, infos: Sequence[MapInfo]) -> Tensor:
    """(R, 4) -> (R,) index of the map of each box: 2^k of 56 pixels and more for stride 2^k of 4, clamped."""
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    first = infos[0].stride.bit_length() - FINEST.bit_length()
    steps = (side / USUAL + 1e-6).log2().floor().long() - first
    return steps.clamp(0, len(infos) - 1)
