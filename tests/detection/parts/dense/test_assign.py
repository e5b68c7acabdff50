"""Anchors answer for boxes as in torchvision, and a thousand boxes need no more memory than a few."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from detection.parts.dense import assign
from detection.parts.dense.assign import alone, by_overlap, by_overlap_each, overlap, with_best_of_each
from detection.parts.dense.focal import IGNORED, NOTHING
from detection.parts.dense.objects import padded
from detection.types import Target

# whole numbers from a small range, so that overlaps tie
place = st.integers(0, 6)
boxes_of = st.lists(st.tuples(place, place, st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8)


def corners(boxes: list[tuple[int, int, int, int]]) -> Tensor:
    return torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=torch.float32)


def dense(boxes: Tensor, anchors: Tensor) -> Tensor:
    """One image's (N, 4) boxes -> (P,) by RetinaNet's rule."""
    return by_overlap(boxes, anchors, high=0.5, low=0.4)


def single(boxes: Tensor, anchors: Tensor) -> Tensor:
    """One image's (N, 4) boxes -> (P,) by SSD's rule."""
    return with_best_of_each(alone(boxes), anchors, high=0.5)[0]


@given(boxes=boxes_of, anchors=boxes_of)
def test_overlap_is_that_of_torchvision(boxes: list, anchors: list) -> None:
    assert torch.equal(overlap(corners(boxes), corners(anchors)), box_iou(corners(boxes), corners(anchors)))


@given(boxes=boxes_of, anchors=boxes_of, few=st.integers(1, 20))
def test_anchors_answer_for_the_boxes_they_do_in_torchvision(boxes: list, anchors: list, few: int) -> None:
    """However few boxes are looked at together."""
    b, a = corners(boxes), corners(anchors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assign, "PAIRS", few)
        by_retinanet, by_ssd = dense(b, a), single(b, a)
    theirs = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    assert (theirs.BELOW_LOW_THRESHOLD, theirs.BETWEEN_THRESHOLDS) == (NOTHING, IGNORED)
    assert torch.equal(by_retinanet, theirs(box_iou(b, a)))
    assert torch.equal(by_ssd, SSDMatcher(0.5)(box_iou(b, a)))


def test_every_box_has_its_anchor_even_of_one_pixel() -> None:
    boxes, anchors = corners([(3, 3, 1, 1), (40, 40, 20, 20)]), corners([(0, 0, 32, 32), (32, 32, 32, 32)])
    for answers in (dense(boxes, anchors), single(boxes, anchors)):
        assert answers.tolist() == [0, 1]


def test_between_the_thresholds_is_neither_box_nor_background() -> None:
    boxes, anchors = corners([(0, 0, 10, 10)]), corners([(0, 0, 10, 10), (0, 0, 10, 5), (0, 0, 9, 5), (0, 0, 2, 2)])
    assert by_overlap(boxes, anchors, high=0.6, low=0.46).tolist() == [0, IGNORED, NOTHING, NOTHING]


def test_best_anchor_of_a_box_leaves_the_box_it_overlaps_more() -> None:
    boxes, anchors = corners([(0, 0, 10, 10), (0, 0, 2, 2)]), corners([(0, 0, 10, 10), (30, 30, 5, 5)])
    assert dense(boxes, anchors).tolist() == [0, NOTHING]
    assert single(boxes, anchors).tolist() == [1, NOTHING]


def test_without_boxes_every_anchor_is_background() -> None:
    anchors = corners([(0, 0, 4, 4), (2, 2, 4, 4)])
    nothing = padded([Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))])
    for answers in (
        by_overlap_each(nothing, anchors, high=0.5, low=0.0),
        with_best_of_each(nothing, anchors, high=0.0),
    ):
        assert answers.tolist() == [[NOTHING, NOTHING]] and answers.dtype == torch.int64


@given(
    many=st.lists(
        st.lists(st.tuples(place, place, st.integers(1, 5), st.integers(1, 5)), max_size=5), min_size=1, max_size=4
    ),
    anchors=boxes_of,
    few=st.integers(1, 40),
)
def test_images_of_a_batch_are_assigned_as_if_they_were_alone(many: list, anchors: list, few: int) -> None:
    """However many objects the most crowded of them has."""
    each, a = [corners(boxes).view(-1, 4) for boxes in many], corners(anchors)
    objects = padded([Target(boxes=b, labels=torch.arange(len(b)) + 3) for b in each])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assign, "PAIRS", few)
        by_retinanet = by_overlap_each(objects, a, high=0.5, low=0.4)
        by_ssd = with_best_of_each(objects, a, high=0.5)
    for image, boxes in enumerate(each):
        nothing = torch.full((len(a),), NOTHING)
        assert torch.equal(by_retinanet[image], dense(boxes, a) if len(boxes) else nothing)
        assert torch.equal(by_ssd[image], single(boxes, a) if len(boxes) else nothing)
        labels, found = objects.of(by_ssd[image : image + 1].expand(len(each), -1))
        held = by_ssd[image] >= 0
        assert torch.equal(labels[image], by_ssd[image] + 3 * held)
        assert torch.equal(found[image][held], boxes[by_ssd[image][held]])


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor made inside has."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            self.numbers = max(self.numbers, one.numel() if isinstance(one, Tensor) else 0)
        return out


def test_a_thousand_boxes_and_twenty_thousand_anchors_meet_a_few_at_a_time() -> None:
    corner = torch.rand(1000, 2) * 600
    boxes, anchors = torch.cat((corner, corner + 20), 1), (torch.rand(20_000, 2) * 600).repeat(1, 2)
    anchors[:, 2:] += 24
    with Largest() as seen:
        answers = single(boxes, anchors)
    assert seen.numbers <= assign.PAIRS < 1000 * 20_000
    assert (answers >= 0).sum() > 1000


@settings(max_examples=20)
@given(boxes=boxes_of, anchors=boxes_of)
def test_only_the_best_anchor_of_a_later_box_is_taken_from_a_box(boxes: list, anchors: list) -> None:
    """SSD's rule, said slowly."""
    b, a = corners(boxes), corners(anchors)
    iou = box_iou(b, a)
    expected = [int(iou[:, p].argmax()) if iou[:, p].max() >= 0.5 else NOTHING for p in range(len(a))]
    for n in range(len(b)):
        expected[int(iou[n].argmax())] = n
    assert single(b, a).tolist() == expected


def test_the_best_anchor_of_a_box_needs_an_overlap_of_at_least_the_floor() -> None:
    """A square of 10 in one of 20 has an IoU of .25: its best anchor without a floor, none with one of .3."""
    boxes, anchors = torch.tensor([[5.0, 5, 15, 15]]), torch.tensor([[0.0, 0, 20, 20], [40, 40, 60, 60]])
    assert by_overlap(boxes, anchors, high=0.7, low=0.3).tolist() == [0, NOTHING]
    assert by_overlap(boxes, anchors, high=0.7, low=0.3, floor=0.3).tolist() == [NOTHING, NOTHING]
    assert by_overlap(boxes, anchors, high=0.7, low=0.3, floor=0.25).tolist() == [0, NOTHING]
    assert by_overlap(boxes, anchors[:0], high=0.7, low=0.3).tolist() == []
