"""What is cut out for each box, and its slope, is what torchvision's RoIAlign gives, from the level it would take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from backbones.base import MapInfo
from detection.parts.roi.roi_align import PyramidRoIAlign, cut_out

CHANNELS, STRIDES, SIZE = 6, (4, 8, 16, 32), (128, 192)


def pyramid(strides: tuple[int, ...] = STRIDES) -> dict[str, Tensor]:
    shapes = [(2, CHANNELS, SIZE[0] // s, SIZE[1] // s) for s in strides]
    return {str(i): torch.randn(shape, requires_grad=True) for i, shape in enumerate(shapes)}


def boxes(count: int, longest: float = 600.0) -> Tensor:
    """Of all sizes, many beyond the edge of the image, one as large as nothing."""
    corner = torch.rand(count, 2) * 220 - 40
    found = torch.cat((corner, corner + 1 + longest * torch.rand(count, 2) ** 4), 1)
    found[:1, 2:] = found[:1, :2]
    return found


@pytest.mark.parametrize("cells", [7, 14])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_cells_and_slopes_are_those_of_torchvision(cells: int, samples: int) -> None:
    maps = pyramid()
    found = [boxes(40), boxes(30)]
    ours = PyramidRoIAlign([MapInfo(CHANNELS, s) for s in STRIDES], cells, samples)
    theirs = MultiScaleRoIAlign(list(maps), cells, samples)
    given = (maps, found, [SIZE, SIZE])
    mine, other = ours(*given), theirs(*given)
    assert mine.shape == (70, CHANNELS, cells, cells)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert len(ours.map_levels(found).unique()) == 4, "boxes of every level"
    weights = torch.randn_like(mine)
    slopes = [torch.autograd.grad((cut * weights).sum(), list(maps.values())) for cut in (mine, other)]
    for a, b in zip(*slopes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("counts", [(0, 3), (0, 0)])
def test_images_without_boxes_are_ordinary(counts: tuple[int, int]) -> None:
    maps = pyramid()
    found = [boxes(count) for count in counts]
    mine = PyramidRoIAlign([MapInfo(CHANNELS, s) for s in STRIDES], 7)(maps, found, [SIZE, SIZE])
    other = MultiScaleRoIAlign(list(maps), 7, 2)(maps, found, [SIZE, SIZE])
    assert mine.shape == (sum(counts), CHANNELS, 7, 7)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    mine.sum().backward()
    assert all(m.grad is not None for m in maps.values())


def test_strides_need_not_be_guessed_from_the_size_of_images() -> None:
    """torchvision guesses, once, from the largest image of the first batch, which may be far smaller than the batch."""
    maps = pyramid((4, 8))
    found = [boxes(20, 100), boxes(20, 100)]
    ours = PyramidRoIAlign([MapInfo(CHANNELS, 4), MapInfo(CHANNELS, 8)], 7)
    assert torch.equal(ours(maps, found, [(48, 48)] * 2), ours(maps, found, [SIZE] * 2))


def test_one_map_of_any_stride_serves() -> None:
    maps = torch.randn(2, CHANNELS, 9, 11)
    found, of_image = boxes(25), torch.randint(2, (25,))
    mine = cut_out([maps], [1 / 12], found, of_image, torch.zeros(25, dtype=torch.long), 7, 2)
    other = roi_align(maps, torch.cat((of_image[:, None].float(), found), 1), 7, 1 / 12, 2)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_maps_of_half_precision_are_summed_in_full() -> None:
    maps = {name: m.detach().bfloat16() for name, m in pyramid().items()}
    cut = PyramidRoIAlign([MapInfo(CHANNELS, s) for s in STRIDES], 7)(maps, [boxes(5), boxes(5)], [SIZE, SIZE])
    assert cut.dtype == torch.float32 and cut.isfinite().all()
