"""Soft NMS of all names at once is what one name after the other gives, box after box."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from detection.parts.roi.soft_nms import soft_nms


def scattered(count: int, names: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes in clusters, and scores of which most are low."""
    rng = torch.Generator().manual_seed(seed)
    corner = 60 * torch.rand(count, 2, generator=rng)
    boxes = torch.cat((corner, corner + 20 + 30 * torch.rand(count, 2, generator=rng)), 1)
    return boxes, torch.rand(count, names, generator=rng) ** 4


def one_by_one(boxes: Tensor, scores: Tensor, most: int, min_score: float = 1e-4, floor: float = 1e-3) -> list[tuple]:
    """(score, label, box) of a plain loop."""
    found, overlap = [], box_iou(boxes, boxes).tolist()
    for label in range(scores.shape[1]):
        left = {n: float(scores[n, label]) for n in range(len(boxes)) if scores[n, label] > min_score}
        while left:
            best = max(left, key=lambda n: (left[n], -n))
            found.append((left.pop(best), label, best))
            for n in list(left):
                left[n] *= math.exp(-(overlap[best][n] ** 2) / 0.5)
                if left[n] < floor:
                    del left[n]
    return sorted(found, key=lambda one: -one[0])[:most]


@pytest.mark.parametrize(("count", "names", "most"), [(60, 4, 1000), (25, 40, 30), (1, 3, 2), (12, 1, 12)])
def test_all_names_at_once_are_as_one_after_the_other(count: int, names: int, most: int) -> None:
    boxes, scores = scattered(count, names)
    which, labels, values = soft_nms(boxes, scores, most=most)
    expected = one_by_one(boxes, scores, most)
    assert len(which) == len(expected) <= most
    assert list(zip(labels.tolist(), which.tolist(), strict=True)) == [(label, n) for _, label, n in expected]
    torch.testing.assert_close(values, torch.tensor([score for score, *_ in expected]), rtol=1e-4, atol=1e-6)


def test_scores_fall_by_the_gaussian_of_the_overlap_and_other_names_are_left_alone() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 0.5
    which, labels, values = soft_nms(boxes, torch.tensor([[0.9, 0.0], [0.8, 0.7]]))
    assert which.tolist() == [0, 1, 1] and labels.tolist() == [0, 1, 0]
    torch.testing.assert_close(values, torch.tensor([0.9, 0.7, 0.8 * math.exp(-0.5)]))


def test_only_the_best_box_of_a_name_can_lie_below_the_floor() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]])
    scores = torch.tensor([[5e-4, 0.5, 5e-5], [4e-4, 4e-4, 5e-5], [5e-5, 5e-5, 5e-5]])
    which, labels, values = soft_nms(boxes, scores)
    assert which.tolist() == [0, 0] and labels.tolist() == [1, 0], "none up to 1e-4, and no second below 1e-3"
    assert len(soft_nms(boxes, scores, soft_floor=0.0)[0]) == 4
    assert len(soft_nms(boxes, scores, min_score=0.1)[0]) == 1
    assert values[0] == 0.5


def test_equal_scores_are_in_the_order_of_labels_then_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]])
    which, labels, _ = soft_nms(boxes, torch.full((3, 2), 0.5))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] and which.tolist() == [0, 1, 2, 0, 1, 2]
    which, labels, _ = soft_nms(boxes, torch.full((3, 2), 0.5), most=4)
    assert labels.tolist() == [0, 0, 0, 1] and which.tolist() == [0, 1, 2, 0]


def test_boxes_without_area_are_dropped_and_nothing_may_be_left() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 9], [0, 0, 10, 10]])
    assert soft_nms(boxes, torch.full((2, 1), 0.5))[0].tolist() == [1]
    for nothing in (
        soft_nms(boxes[:1], torch.full((1, 2), 0.5)),
        soft_nms(boxes[:0], torch.zeros(0, 2)),
        soft_nms(boxes, torch.zeros(2, 2)),
        soft_nms(boxes, torch.zeros(2, 0)),
    ):
        assert [len(part) for part in nothing] == [0, 0, 0]
        assert nothing[1].dtype == torch.int64


def test_scores_handed_in_stay_as_they_are() -> None:
    boxes, scores = scattered(20, 3)
    before = scores.clone()
    soft_nms(boxes, scores)
    assert torch.equal(scores, before)
