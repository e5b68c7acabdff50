"""From dense scores to a short list: equal to the same said slowly, one pair of boxes at a time."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from detection.parts.dense.post import best_boxes, candidates, candidates_of_each_class


def slowly(
    scores: list[Tensor],
    boxes: list[Tensor],
    size: tuple[int, int],
    min_score: float,
    nms_iou: float,
    per_level: int,
    most: int,
) -> list[tuple[float, int, list[float]]]:
    """(score, label, box) by brute force."""
    found = []
    for level_scores, level_boxes in zip(scores, boxes, strict=True):
        pairs = [
            (float(level_scores[p, k]), k, level_boxes[p])
            for p in range(len(level_scores))
            for k in range(level_scores.shape[1])
            if level_scores[p, k] > min_score
        ]
        found += sorted(pairs, key=lambda pair: -pair[0])[:per_level]
    limit = torch.tensor([size[1], size[0], size[1], size[0]])
    found = sorted(((s, k, b.clamp(min=0).minimum(limit)) for s, k, b in found), key=lambda one: -one[0])
    kept: list[tuple[float, int, Tensor]] = []
    for score, label, box in found:
        rivals = [other for _, of, other in kept if of == label]
        if not rivals or not (box_iou(box[None], torch.stack(rivals)) > nms_iou).any():
            kept.append((score, label, box))
    return [(score, label, box.tolist()) for score, label, box in kept[:most]]


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(0, 8), min_size=1, max_size=3),
    seed=st.integers(0, 10_000),
    min_score=st.sampled_from([0.0, 0.3, 0.99]),
    nms_iou=st.sampled_from([0.3, 0.6]),
    per_level=st.integers(1, 20),
    most=st.integers(1, 30),
)
def test_best_boxes_are_those_found_by_brute_force(
    counts: list[int], seed: int, min_score: float, nms_iou: float, per_level: int, most: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    scores = [torch.rand(n, 3, generator=rng) for n in counts]
    corner = [torch.rand(n, 2, generator=rng) * 60 - 10 for n in counts]
    boxes = [torch.cat((c, c + 5 + 30 * torch.rand(len(c), 2, generator=rng)), 1) for c in corner]
    size = (50, 40)
    told = {"min_score": min_score, "nms_iou": nms_iou, "per_level": per_level, "most": most}
    found = best_boxes(scores, boxes, size, **told)
    expected = slowly(scores, boxes, size, min_score, nms_iou, per_level, most)
    assert found["labels"].tolist() == [label for _, label, _ in expected]
    assert found["scores"].tolist() == [score for score, _, _ in expected]
    assert torch.equal(found["boxes"], torch.tensor([box for _, _, box in expected]).reshape(-1, 4))


def test_nothing_over_the_score_is_an_empty_list_of_the_right_kinds() -> None:
    found = best_boxes([torch.zeros(5, 3)], [torch.zeros(5, 4)], (8, 8), min_score=0.0, nms_iou=0.5)
    assert found["boxes"].shape == (0, 4) and found["labels"].shape == found["scores"].shape == (0,)
    assert found["labels"].dtype == torch.int64 and found["boxes"].dtype == torch.float32


def test_boxes_of_two_classes_do_not_silence_each_other() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 9.9]])
    scores = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.7, 0.0]])
    found = best_boxes([scores], [boxes], (20, 20), min_score=0.1, nms_iou=0.5)
    assert list(zip(found["labels"].tolist(), found["scores"].tolist(), strict=True)) == [
        (0, float(scores[0, 0])),
        (1, float(scores[1, 1])),
    ]


def test_one_place_may_offer_several_classes() -> None:
    score, label, box = candidates(torch.tensor([[0.2, 0.6, 0.4]]), torch.tensor([[1.0, 2, 3, 4]]), 0.3, 10)
    assert label.tolist() == [1, 2] and score.tolist() == torch.tensor([0.6, 0.4]).tolist()
    assert box.tolist() == [[1, 2, 3, 4]] * 2


@settings(max_examples=30)
@given(
    places=st.integers(0, 12),
    seed=st.integers(0, 10_000),
    min_score=st.sampled_from([0.0, 0.4, 0.99]),
    most=st.integers(1, 15),
)
def test_each_class_has_its_own_candidates(places: int, seed: int, min_score: float, most: int) -> None:
    """As many of the best of each class, whatever the other classes score."""
    rng = torch.Generator().manual_seed(seed)
    scores, boxes = torch.rand(places, 3, generator=rng), torch.rand(places, 4, generator=rng)
    expected = [
        (float(scores[p, k]), k, boxes[p].tolist())
        for k in range(3)
        for p in scores[:, k].argsort(descending=True)[:most].tolist()
        if scores[p, k] > min_score
    ]
    found = candidates_of_each_class(scores, boxes, min_score, most)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected


def test_candidates_of_each_class_keep_a_quiet_class_in_the_race() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [10, 10, 14, 14], [20, 20, 24, 24]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.7, 0.2]])
    told = {"min_score": 0.1, "nms_iou": 0.5}
    level = best_boxes([scores], [boxes], (30, 30), **told, per_level=2)
    each = best_boxes([scores], [boxes], (30, 30), **told, per_class=2)
    assert level["labels"].tolist() == [0, 0] and each["labels"].tolist() == [0, 0, 1]
