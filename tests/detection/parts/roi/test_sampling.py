"""Regions to learn from: no more than asked, at most a quarter positive, each matched with its best object."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from detection.parts.roi.sampling import BACKGROUND, sampled


def boxes_of(count: int, seed: int) -> torch.Tensor:
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 80
    return torch.cat((corner, corner + 20), 1)


@given(st.integers(0, 40), st.integers(0, 6), st.integers(4, 64), st.integers(0, 99))
def test_regions_are_proposals_or_objects_with_their_best_object(p: int, n: int, count: int, seed: int) -> None:
    proposals, objects = boxes_of(p, seed), boxes_of(n, seed + 1)
    found = sampled(proposals, objects, count=count)
    every = torch.cat((proposals, objects))
    assert len(found.boxes) <= count and int(found.positive.sum()) <= count // 4
    assert bool((found.boxes[:, None] == every).all(2).any(1).all())
    assert found.positive.tolist() == sorted(found.positive.tolist(), reverse=True)
    if n and len(found.boxes):
        overlap, which = box_iou(found.boxes, objects).max(1)
        torch.testing.assert_close(found.overlap, overlap)
        assert torch.equal(found.positive, found.overlap >= 0.5)
        best = box_iou(found.boxes, objects)[torch.arange(len(which)), found.objects.clamp(min=0)]
        torch.testing.assert_close(best[found.positive], overlap[found.positive])


def test_without_objects_all_is_background_and_without_anything_there_is_nothing() -> None:
    found = sampled(boxes_of(10, 0), torch.zeros(0, 4), count=8)
    assert found.objects.tolist() == [BACKGROUND] * 8 and found.overlap.tolist() == [0.0] * 8
    assert len(sampled(torch.zeros(0, 4), torch.zeros(0, 4)).boxes) == 0


def test_objects_are_regions_too() -> None:
    found = sampled(torch.zeros(0, 4), boxes_of(2, 0), count=8)
    assert found.objects.sort().values.tolist() == [0, 1] and found.overlap.tolist() == [1.0, 1.0]
