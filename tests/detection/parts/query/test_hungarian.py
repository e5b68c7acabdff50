"""Matching finds the cheapest assignment there is, in every layer and image, whatever the others hold."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou
from transformers.loss.loss_for_object_detection import HungarianMatcher

from detection.parts.query import hungarian
from detection.parts.query.hungarian import CostKind, Matches, SetTarget, giou, match

COSTS = {"class_cost": 1.0, "l1_cost": 5.0, "giou_cost": 2.0}
kinds = pytest.mark.parametrize("kind", ["softmax", "focal"])


def guesses(layers: int, images: int, queries: int, columns: int = 6) -> tuple[Tensor, Tensor]:
    """Logits (L, B, Q, K) and boxes (L, B, Q, 4)."""
    return 2 * torch.randn(layers, images, queries, columns), some_boxes(layers, images, queries)


def some_boxes(*shape: int) -> Tensor:
    return torch.cat((0.1 + 0.8 * torch.rand(*shape, 2), 0.02 + 0.3 * torch.rand(*shape, 2)), -1)


def objects(*counts: int) -> list[SetTarget]:
    return [SetTarget(torch.randint(5, (count,)), some_boxes(count)) for count in counts]


def plain_costs(kind: CostKind, logits: Tensor, boxes: Tensor, target: SetTarget) -> Tensor:
    """(Q, K), (Q, 4) -> (Q, N): the papers' formulas, one pair after another."""
    costs = torch.zeros(len(logits), len(target.labels))
    for q, n in np.ndindex(*costs.shape):
        label, box = target.labels[n], target.boxes[n]
        if kind == "softmax":
            of_class = -logits[q].softmax(0)[label]
        else:
            p = logits[q, label].sigmoid()
            of_class = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
        overlap = generalized_box_iou(*(box_convert(b[None], "cxcywh", "xyxy") for b in (boxes[q], box)))
        costs[q, n] = of_class + 5 * (boxes[q] - box).abs().sum() - 2 * overlap[0, 0]
    return costs


def as_lists(matches: Matches) -> list[list[tuple[list[int], list[int]]]]:
    return [[(queries.tolist(), found.tolist()) for queries, found in layer] for layer in matches]


@kinds
def test_no_other_assignment_costs_less(kind: CostKind) -> None:
    logits, boxes = guesses(2, 2, 5)
    targets = objects(3, 2)
    matches = match(kind, logits, boxes, targets, **COSTS)
    for layer, image in np.ndindex(2, 2):
        costs = plain_costs(kind, logits[layer, image], boxes[layer, image], targets[image])
        queries, found = matches[layer][image]
        assert queries.tolist() == sorted(queries.tolist()) and queries.dtype == found.dtype == torch.int64
        count = costs.shape[1]
        least = min(sum(costs[q, n] for n, q in enumerate(some)) for some in permutations(range(5), count))
        assert sorted(found.tolist()) == list(range(count))
        torch.testing.assert_close(costs[queries, found].sum(), least)


@kinds
@pytest.mark.parametrize("counts", [(7, 0, 12, 1), (0, 5), (18,), (13, 12)], ids=str)
def test_assignments_are_those_of_the_plain_formulas(kind: CostKind, counts: tuple[int, ...]) -> None:
    """Images without objects and with more objects than queries included."""
    logits, boxes = guesses(2, len(counts), 12)
    targets = objects(*counts)
    matches = match(kind, logits, boxes, targets, **COSTS)
    assert len(matches) == 2 and all(len(layer) == len(counts) for layer in matches)
    for layer, image in np.ndindex(2, len(counts)):
        wanted = linear_sum_assignment(plain_costs(kind, logits[layer, image], boxes[layer, image], targets[image]))
        for ours, theirs in zip(matches[layer][image], wanted, strict=True):
            assert ours.tolist() == theirs.tolist()


def test_softmax_assignments_are_those_of_transformers_matcher() -> None:
    logits, boxes = guesses(4, 3, 40)
    targets = objects(9, 0, 14)
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    as_dicts = [{"class_labels": one.labels, "boxes": one.boxes} for one in targets]
    wanted = [matcher({"logits": x, "pred_boxes": b}, as_dicts) for x, b in zip(logits, boxes, strict=True)]
    assert as_lists(match("softmax", logits, boxes, targets, **COSTS)) == as_lists(wanted)


@kinds
def test_an_image_is_matched_alike_alone_in_company_and_in_any_grouping(
    kind: CostKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, boxes = guesses(2, 4, 12)
    targets = objects(3, 0, 8, 5)
    together = as_lists(match(kind, logits, boxes, targets, **COSTS))
    alone = [as_lists(match(kind, logits[:, [i]], boxes[:, [i]], [targets[i]], **COSTS)) for i in range(4)]
    assert together == [[alone[image][layer][0] for image in range(4)] for layer in range(2)]
    for size in (1, 2, 3):
        parts = [slice(first, first + size) for first in range(0, 4, size)]
        monkeypatch.setattr(hungarian, "groups", lambda *_, parts=parts: parts)
        assert as_lists(match(kind, logits, boxes, targets, **COSTS)) == together


def test_groups_cover_every_image_once_and_shrink_with_the_crowd() -> None:
    device = torch.device("cpu")
    for counts in ([0] * 5, [1] * 5, [1000] * 5, [60] * 16):
        covered = [index for part in hungarian.groups(counts, 6 * 300, device) for index in range(len(counts))[part]]
        assert covered == list(range(len(counts)))
    assert len(hungarian.groups([1] * 5, 1800, device)) == 1 and len(hungarian.groups([1000] * 5, 1800, device)) == 5


@kinds
def test_matching_learns_nothing(kind: CostKind) -> None:
    logits, boxes = (x.requires_grad_() for x in guesses(1, 1, 4))
    before = logits.detach().clone(), boxes.detach().clone()
    match(kind, logits, boxes, objects(2), **COSTS)
    assert torch.equal(logits, before[0]) and torch.equal(boxes, before[1]) and logits.grad is None


@kinds
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_query_that_says_nan_is_the_last_resort(kind: CostKind, value: float) -> None:
    logits, boxes = guesses(1, 1, 5)
    targets = objects(3)
    boxes[0, 0, :2] = value
    ((queries, found),) = match(kind, logits, boxes, targets, **COSTS)[0]
    sane = match(kind, logits[:, :, 2:], boxes[:, :, 2:], targets, **COSTS)[0][0]
    assert (queries - 2).tolist() == sane[0].tolist() and found.tolist() == sane[1].tolist()
    (everything,) = match(kind, logits * value, boxes, targets, **COSTS)[0]
    assert len(everything[0]) == 3  # nobody can be trusted: some assignment, and no end of the run


def test_half_precision_is_matched_as_float32() -> None:
    logits, boxes = (x.bfloat16() for x in guesses(2, 1, 20))
    targets = objects(6)
    exact = match("focal", logits.float(), boxes.float(), targets, **COSTS)
    assert as_lists(match("focal", logits, boxes, targets, **COSTS)) == as_lists(exact)


def test_giou_is_torchvisions() -> None:
    a, b = some_boxes(7), some_boxes(5)
    wanted = generalized_box_iou(box_convert(a, "cxcywh", "xyxy"), box_convert(b, "cxcywh", "xyxy"))
    assert wanted.min() < 0 < wanted.max()
    torch.testing.assert_close(giou(a[:, None].unbind(-1), b.unbind(-1)), wanted)
    point = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert giou(point.unbind(), point.unbind()).isfinite()
