"""Aligned RoIAlign: from the level of a region's size, as torchvision's kernel cuts it, each region in its place."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from backbones.base import MapInfo
from detection.parts.roi.aligned import aligned, level_of

MAPS = [MapInfo(4, stride) for stride in (4, 8, 16, 32)]


@pytest.mark.parametrize(
    ("side", "level"), [(1, 0), (111, 0), (112, 1), (223, 1), (224, 2), (447, 2), (448, 3), (2000, 3)]
)
def test_regions_are_cut_out_of_the_map_of_their_size(side: int, level: int) -> None:
    box = torch.tensor([[10.0, 10, 10 + side, 10 + side]])
    assert level_of(box, MAPS).tolist() == [level]
    assert level_of(box, MAPS[1:]).tolist() == [max(0, level - 1)]


def test_each_region_is_that_of_torchvisions_kernel_on_its_map() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 4, 512 // info.stride, 512 // info.stride) for info in MAPS]
    boxes = [torch.tensor([[3.0, 5, 40, 60], [100, 100, 500, 510]]), torch.tensor([[20.0, 30, 200, 260]])]
    got = aligned(maps, MAPS, boxes)
    for row, (image, box, level) in enumerate([(0, boxes[0][0], 0), (0, boxes[0][1], 2), (1, boxes[1][0], 1)]):
        region = torch.cat((torch.tensor([float(image)]), box))[None]
        want = roi_align(maps[level], region, 7, 1 / MAPS[level].stride, -1, aligned=True)
        torch.testing.assert_close(got[row : row + 1], want)


def test_no_region_is_no_output_and_gives_gradients() -> None:
    maps = [torch.randn(1, 4, 8, 8, requires_grad=True) for _ in MAPS]
    cut = aligned(maps, MAPS, [torch.zeros(0, 4)])
    cut.sum().backward()
    assert cut.shape == (0, 4, 7, 7) and all(x.grad is not None for x in maps)
