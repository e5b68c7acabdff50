"""RoIAlign from a pyramid: torchvision's, which makes a GPU wait only once, and on a CPU its values as embedding bags.

He, Gkioxari, Dollar, Girshick, "Mask R-CNN", 2017; from a pyramid as in Lin et al., 2017.

A cell of a box's grid is the mean of a few bilinear samples, so it is a weighted sum of map cells, each a row of
channels: an embedding bag over all cells of all levels. torchvision's CPU kernel runs channel by channel and takes
five times as long.

Shape letters: R boxes of all images, G cells along a side, S samples of a cell along a side, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from backbones.base import MapInfo
from detection.parts.fixed import shapes_are_fixed


class PyramidRoIAlign(MultiScaleRoIAlign):
    """torchvision's MultiScaleRoIAlign with given strides; faster on a CPU.

    Args:
        maps: channels and strides of the levels, finest first; their names are "0", "1" and so on.
        cells: G.
        samples: S.
    """

    def __init__(self, maps: Sequence[MapInfo], cells: int, samples: int = 2) -> None:
        super().__init__([str(level) for level in range(len(maps))], cells, samples)
        self.scales = [1 / info.stride for info in maps]
        self.map_levels = LevelMapper(*(maps[end].stride.bit_length() - 1 for end in (0, -1)))
        self.cells, self.samples = cells, samples

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps (B, C, H_i, W_i) by name, boxes (N, 4) of each image -> (R, C, G, G), from the level by box size."""
        of_image = [torch.full((len(b),), i, device=b.device) for i, b in enumerate(boxes)]
        return self.cut([x[name] for name in self.featmap_names], torch.cat(boxes), torch.cat(of_image))

    def cut(self, maps: Sequence[Tensor], boxes: Tensor, of_image: Tensor) -> Tensor:
        """Maps (B, C, H_i, W_i), finest first, boxes (R, 4) and the image of each (R,) -> (R, C, G, G)."""
        maps = list(maps[: len(self.scales)])
        level = self.map_levels([boxes])  # type: ignore[operator]
        if shapes_are_fixed():
            return self.as_operators(maps, torch.cat((of_image[:, None].to(boxes.dtype), boxes), 1), level)
        if boxes.device.type == "cpu":
            return cut_out(maps, self.scales, boxes, of_image, level, self.cells, self.samples)
        return self.level_by_level(maps, torch.cat((of_image[:, None].to(boxes.dtype), boxes), 1), level)

    def as_operators(self, maps: list[Tensor], regions: Tensor, level: Tensor) -> Tensor:
        """For other runtimes: regions (R, 5) as image and box; each level's part is put into its places."""
        cut = regions.new_zeros(len(regions), maps[0].shape[1], self.cells, self.cells)
        for number, (x, scale) in enumerate(zip(maps, self.scales, strict=True)):
            here = (level == number).nonzero()[:, 0]
            cut = cut.index_copy(0, here, roi_align(x, regions[here], self.cells, scale, self.samples))
        return cut

    def level_by_level(self, maps: list[Tensor], regions: Tensor, level: Tensor) -> Tensor:
        """On a GPU: regions (R, 5) as image and box, sorted by level, whose counts the host asks for together."""
        order = level.argsort(stable=True)
        counts = (level == torch.arange(len(maps), device=level.device)[:, None]).sum(1).tolist()
        parts = [
            roi_align(x, some, self.cells, scale, self.samples)
            for x, some, scale in zip(maps, regions[order].split(counts), self.scales, strict=True)
        ]
        return torch.cat(parts)[order.argsort()]


def cut_out(
    maps: list[Tensor], scales: list[float], boxes: Tensor, of_image: Tensor, level: Tensor, cells: int, samples: int
) -> Tensor:
    """Maps (B, C, H_i, W_i) and boxes (R, 4) -> (R, C, G, G)

    Args:
        scales: 1 / stride of each map.
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
    """Along one axis: start and end (R,) of boxes on maps of length (R,) -> (R, G, 2S): the two cells next to each
    sample, and their weights.

    Boxes are at least one cell long. Samples up to one cell outside the map are moved to its edge, others are 0.
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
