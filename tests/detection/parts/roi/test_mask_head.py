"""What a box has of a mask, and the mask that a head gives it, are torchvision's; only less is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from detection.parts.roi.mask_head import MaskOfClass, masks_in_boxes, window

HEIGHT, WIDTH = 90, 120


def blobs(count: int) -> Tensor:
    """(count, H, W) uint8: masks with long edges."""
    coarse = torch.rand(count, 1, 6, 8)
    return (torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic")[:, 0] > 0.5).byte()


def boxes(count: int) -> Tensor:
    """Inside the image, of all sizes: one is the whole of it, one at its end, one narrower than a pixel."""
    ends = torch.rand(count, 2, 2) * torch.tensor([WIDTH, HEIGHT])
    found = torch.cat((ends.amin(1), ends.amax(1)), 1)
    odd = [[0, 0, WIDTH, HEIGHT], [WIDTH - 0.5, HEIGHT - 7.5, WIDTH, HEIGHT], [30.25, 10, 30.5, 60], [8, 8, 64, 64]]
    found[: len(odd)] = torch.tensor(odd)
    return found


@pytest.mark.parametrize("side", [28, 14, 5])
def test_the_mask_in_a_box_is_that_of_torchvision(side: int) -> None:
    masks, found = blobs(5), boxes(40)
    objects = torch.randint(4, (40,))  # the fifth has no box
    mine = masks_in_boxes(masks, found, objects, side)
    other = project_masks_on_boxes(masks, found, objects, side)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    assert 0.2 < mine.mean() < 0.8


def test_a_mask_is_read_around_its_boxes_alone() -> None:
    """torchvision makes numbers of all of it."""
    assert window(torch.tensor([[10.2, 20.0, 30.5, 41.0], [12.0, 25.0, 12.5, 60.7]])) == [10, 20, 32, 62]
    masks, found = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.uint8), torch.tensor([[30.5, 40.0, 60.0, 70.5]])
    masks[:] = 255  # not a mask, so reading it shows
    masks[:, 40:72, 30:61] = 0
    assert masks_in_boxes(masks, found, torch.tensor([0]), 28).abs().max() == 0
    masks[:, 39, 30] = masks[:, 40, 30] = 1
    assert masks_in_boxes(masks, found, torch.tensor([0]), 28).abs().max() > 0


def test_no_boxes_have_no_masks() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert masks_in_boxes(blobs(2), torch.zeros(0, 4), nothing, 28).shape == (0, 28, 28)
    assert masks_in_boxes(torch.zeros(0, 9, 9, dtype=torch.uint8), torch.zeros(0, 4), nothing, 28).shape == (0, 28, 28)


@pytest.mark.parametrize("count", [6, 0])
def test_logits_and_slopes_are_those_of_torchvisions_layer_of_the_class(count: int) -> None:
    mine, other = MaskOfClass(12, 12, 5), MaskRCNNPredictor(12, 12, 5)
    for layer in (mine.conv5_mask, mine.mask_fcn_logits):
        torch.nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    other.load_state_dict(mine.state_dict())
    x, labels = torch.randn(count, 12, 14, 14, requires_grad=True), torch.randint(5, (count,))
    weights = torch.randn(count, 28, 28)

    def slopes(logits: Tensor, net: Any) -> list[Tensor]:
        return list(torch.autograd.grad((logits * weights).sum(), [x, *net.parameters()]))

    ours, theirs = mine(x, labels), other(x)[torch.arange(count), labels]
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(slopes(ours, mine), slopes(theirs, other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
