"""Keypoints as cells, and cells as keypoints, as torchvision has them, for all boxes at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from detection.parts.roi.keypoint_head import Heatmaps, cells_of, highest


def boxes(count: int, longest: float = 200.0) -> Tensor:
    """Of all sizes; one shorter than a pixel, one as large as nothing, one of whole pixels."""
    corner = torch.rand(count, 2) * 100
    found = torch.cat((corner, corner + longest * torch.rand(count, 2) ** 2), 1)
    odd = [[10.25, 20.5, 10.75, 60.0], [5.0, 6.0, 5.0, 6.0], [8.0, 8.0, 64.0, 120.0]]
    found[: len(odd)] = torch.tensor(odd)
    return found


def test_cells_are_those_of_torchvision() -> None:
    """In boxes and out of them, on their edges, seen and not."""
    found = boxes(60)[2:]
    points = torch.cat((found[:, None, :2] + torch.rand(58, 9, 2) * 80 - 10, torch.randint(3, (58, 9, 1))), 2)
    points[:, 0, :2], points[:, 1, :2] = found[:, :2], found[:, 2:]
    points[:, 2, 0], points[:, 3, 1] = found[:, 2], found[:, 3]
    cells, inside = cells_of(points, found, 56)
    heatmaps, valid = keypoints_to_heatmap(points, found, 56)
    assert torch.equal(inside, valid.bool()) and torch.equal(cells[inside], heatmaps[inside])
    assert 0.1 < inside.float().mean() < 0.9 and inside[:, :2].any(0).all()


def test_a_keypoint_in_a_box_of_no_size_is_not_learnt_unless_it_is_its_corner() -> None:
    cells, inside = cells_of(
        torch.tensor([[[5.0, 6.0, 2.0], [9.0, 9.0, 2.0]]]), torch.tensor([[5.0, 6.0, 5.0, 6.0]]), 56
    )
    assert inside.tolist() == [[True, False]] and cells[0, 0] == 56 * 56 - 1


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_the_highest_places_are_those_of_torchvision(scale: float) -> None:
    """Of noise and of smooth hills."""
    found = boxes(40)
    coarse = torch.randn(40, 7, int(56 / scale), int(56 / scale))
    heatmaps = torch.nn.functional.interpolate(coarse, (56, 56), mode="bicubic")
    points, heights = heatmaps_to_keypoints(heatmaps, found)
    mine = highest(heatmaps, found)
    torch.testing.assert_close(mine[..., :2], points[..., :2], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(mine[..., 2], heights, rtol=1e-4, atol=1e-4)
    assert ((mine[..., :2] >= found[:, None, :2]) & (mine[..., :2] <= found[:, None, 2:] + 1)).all()


def test_no_boxes_have_no_keypoints() -> None:
    assert highest(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 3)


def test_some_heatmaps_are_those_among_all() -> None:
    net, other = Heatmaps(12, 5), KeypointRCNNPredictor(12, 5)
    other.load_state_dict(net.state_dict())
    x, wanted = torch.randn(4, 12, 14, 14), torch.rand(4, 5) < 0.4
    every = other(x)
    assert every.shape == (4, 5, 56, 56) and 0 < wanted.sum() < 20
    torch.testing.assert_close(net(x), every)
    torch.testing.assert_close(net(x, wanted), every[wanted])
    assert net(x, torch.zeros_like(wanted)).shape == (0, 56, 56)
