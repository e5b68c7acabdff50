"""One map from overlapping masks, against the rules spelt pixel by pixel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from detection.parts.query.panoptic import panoptic_map

ISTHING = [True, False, True, False]


def found_of(labels: list[int], scores: list[float], segments: torch.Tensor) -> Any:
    return {"labels": torch.tensor(labels), "scores": torch.tensor(scores), "segments": segments}


def by_hand(found: Any, size: tuple[int, int]) -> tuple[list[list[int]], list[tuple[int, float]]]:
    """The same, the obvious way: softmax, argmax, merge, drop, again."""
    alive = [i for i, score in enumerate(found["scores"].tolist()) if score > 0.85]
    nobody = [[0] * size[1] for _ in range(size[0])]
    if not alive:
        return nobody, []
    masks = F.interpolate(found["segments"][None], size, mode="bilinear", align_corners=False)[0]
    labels = found["labels"].tolist()
    while alive:
        best = masks[alive].softmax(0).argmax(0)
        owner = {}
        for place, i in enumerate(alive):
            same = [j for j in alive[:place] if labels[j] == labels[i] and not ISTHING[labels[i]]]
            owner[i] = same[0] if same else i
        rows = [[owner[alive[int(place)]] for place in row] for row in best]
        area = {i: sum(row.count(i) for row in rows) for i in set(owner.values())}
        small = [i for i in alive if area[owner[i]] <= 4]
        if not small:
            order = sorted(set(owner.values()))
            numbered = {i: k for k, i in enumerate(order, start=1)}
            told = [(labels[i], found["scores"].tolist()[i]) for i in order]
            return [[numbered[i] for i in row] for row in rows], told
        alive = [i for i in alive if i not in small]
    return nobody, []


@pytest.mark.parametrize("seed", range(30))
def test_map_is_that_of_the_rules(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 9, (1,), generator=rng))
    labels = torch.randint(0, 4, (count,), generator=rng).tolist()
    scores = (0.8 + 0.2 * torch.rand(count, generator=rng)).sort(descending=True).values.tolist()
    segments = 3 * torch.randn(count, 4, 5, generator=rng) + 3 * torch.randn(count, 1, 1, generator=rng)
    found = found_of(labels, scores, segments)
    numbers, told = by_hand(found, (7, 9))
    result = panoptic_map(found, ISTHING, (7, 9))
    assert result.numbers.tolist() == numbers and result.numbers.dtype == torch.int32
    assert [(s.label, s.score) for s in result.segments] == told
    assert [s.number for s in result.segments] == list(range(1, len(told) + 1))


def test_stuff_of_one_class_is_one_segment_and_things_are_not() -> None:
    left, right = torch.full((2, 4, 6), -5.0)
    left[:, :3], right[:, 3:] = 5, 5
    halves = torch.stack((left, right))
    for label, count in ((1, 1), (2, 2)):
        result = panoptic_map(found_of([label, label], [0.95, 0.9], halves), ISTHING, (4, 6))
        assert len(result.segments) == count and result.segments[0].score == pytest.approx(0.95)
        assert result.numbers.unique().tolist() == list(range(1, count + 1))


def test_pixels_of_what_is_too_small_go_to_the_next_surest() -> None:
    background, speck = torch.zeros(8, 8), torch.full((8, 8), -5.0)
    speck[:2, :2] = 5
    found = found_of([0, 2], [0.9, 0.99], torch.stack((background, speck)))
    assert len(panoptic_map(found, ISTHING, (8, 8)).segments) == 1
    speck[:2, :3] = 5
    assert len(panoptic_map(found_of([0, 2], [0.9, 0.99], torch.stack((background, speck))), ISTHING, (8, 8))[1]) == 2


def test_nothing_sure_is_a_map_of_nobody() -> None:
    result = panoptic_map(found_of([0], [0.85], torch.ones(1, 4, 4)), ISTHING, (6, 5))
    assert result.segments == [] and result.numbers.tolist() == [[0] * 5] * 6
    assert len(panoptic_map(found_of([0], [0.85], torch.ones(1, 4, 4)), ISTHING, (6, 5), min_score=0.5).segments) == 1
