"""RoIAlign on a processor: what torchvision's kernel computes, as sums over rows of a table, which are fast both ways.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017; from a pyramid as in Lin et al., 2017.

A cell of a box's grid is the mean of a few samples, a sample the bilinear mean of four places of a map. So a cell is
a weighted sum of places, each a row of channels: an embedding bag over all places of all levels. torchvision's kernel
goes through a map channel by channel, and its backward pass adds up single numbers: five times the time of this.

Shape letters: R boxes of all images, G cells along a side, S samples of a cell along a side, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from backbones.base import MapInfo


class PyramidRoIAlign(MultiScaleRoIAlign):
    """torchvision's MultiScaleRoIAlign, told the strides that it would guess; on a processor, faster.

    Args:
        maps: what the pyramid says of the levels that boxes are cut from, finest first; they go by "0", "1" and so on.
        cells: G.
        samples: S.
    """

    def __init__(self, maps: Sequence[MapInfo], cells: int, samples: int = 2) -> None:
        super().__init__([str(level) for level in range(len(maps))], cells, samples)
        self.scales = [1 / info.stride for info in maps]
        self.map_levels = LevelMapper(*(maps[end].stride.bit_length() - 1 for end in (0, -1)))
        self.cells, self.samples = cells, samples

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps (B, C, H_i, W_i) by name, boxes (N, 4) of each image -> (R, C, G, G), cut from the level that suits."""
        maps = [x[name] for name in self.featmap_names]
        if maps[0].device.type != "cpu":
            return super().forward(x, boxes, image_shapes)
        of_image = torch.cat([torch.full((len(b),), i) for i, b in enumerate(boxes)])
        return cut_out(maps, self.scales, torch.cat(boxes), of_image, self.map_levels(boxes), self.cells, self.samples)


def cut_out(
    maps: list[Tensor], scales: list[float], boxes: Tensor, of_image: Tensor, level: Tensor, cells: int, samples: int
) -> Tensor:
    """Maps (B, C, H_i, W_i) and boxes (R, 4) -> (R, C, G, G)

    Args:
        scales: places per pixel of each map.
        boxes: in pixels of the images.
        of_image: (R,) the image of each.
        level: (R,) the map of each.
    """
    channels = maps[0].shape[1]
    tables = [m.float().permute(0, 2, 3, 1).reshape(-1, channels) for m in maps]
    starts = torch.tensor([0] + [len(table) for table in tables]).cumsum(0)
    height, width = torch.tensor([m.shape[-2:] for m in maps])[level].unbind(1)
    left, top, right, bottom = (boxes.float() * torch.tensor(scales)[level, None]).unbind(1)
    rows, row_weights = corners(top, bottom, height, cells, samples)
    columns, column_weights = corners(left, right, width, cells, samples)
    first = (starts[level] + of_image * height * width)[:, None, None]
    rows = first + rows * width[:, None, None]
    places = rows[:, :, None, :, None] + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    bags = places.view(len(boxes) * cells**2, (2 * samples) ** 2)
    summed = F.embedding_bag(bags, torch.cat(tables), mode="sum", per_sample_weights=weights.view(bags.shape))
    return summed.view(len(boxes), cells, cells, channels).permute(0, 3, 1, 2)


def corners(start: Tensor, end: Tensor, length: Tensor, cells: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one side of the boxes, from where to where (R,) on a map of some length (R,) -> (R, G, 2S): the places on
    either side of each sample of a cell, and what they count for.

    A box is a place long at least. A sample up to a place beyond the map is moved to its edge, one farther off is 0.
    """
    start, last = start[:, None], (length - 1)[:, None]
    steps = (torch.arange(cells * samples) + 0.5) / (cells * samples)
    at = start + steps * (end[:, None] - start).clamp(min=1.0)
    inside = ((at >= -1.0) & (at <= last + 1)).float() / samples
    at = at.clamp(min=0.0).minimum(last)
    before = at.long()
    share = at - before
    places = torch.stack((before, (before + 1).minimum(last)), -1)
    weights = torch.stack(((1 - share) * inside, share * inside), -1)
    shape = (len(start), cells, 2 * samples)
    return places.view(shape), weights.view(shape)
