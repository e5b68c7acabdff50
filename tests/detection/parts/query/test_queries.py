"""From queries to detections: best first, inside the image, none suppressed."""

from __future__ import annotations

import torch

from detection.parts.query.queries import best_pairs, best_queries, detections


def test_best_pairs_may_take_a_query_twice() -> None:
    scores = torch.tensor([[[0.9, 0.1, 0.8], [0.2, 0.3, 0.0]]])
    score, label, query = best_pairs(scores, 3)
    assert score.tolist() == [[torch.tensor(x).item() for x in (0.9, 0.8, 0.3)]]
    assert label.tolist() == [[0, 2, 1]] and query.tolist() == [[0, 0, 1]]
    assert best_pairs(scores, 100)[0].shape == (1, 6)


def test_best_queries_take_each_query_once() -> None:
    scores = torch.tensor([[[0.1, 0.2], [0.7, 0.9], [0.5, 0.3]]])
    score, label, query = best_queries(scores, 2)
    assert score.tolist() == [[torch.tensor(x).item() for x in (0.9, 0.5)]]
    assert label.tolist() == [[1, 0]] and query.tolist() == [[1, 2]]
    assert best_queries(scores, 100)[0].shape == (1, 3)


def test_boxes_are_pixels_of_their_own_image_and_end_at_its_border() -> None:
    best = (torch.tensor([[0.9, 0.5]] * 2), torch.tensor([[1, 0]] * 2), torch.tensor([[1, 0]] * 2))
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.9, 0.5, 0.4, 0.5]]] * 2)
    first, second = detections(best, boxes, [(100, 200), (50, 20)], min_score=0.6)
    torch.testing.assert_close(first["boxes"], torch.tensor([[140.0, 25.0, 200.0, 75.0]]))
    torch.testing.assert_close(second["boxes"], torch.tensor([[14.0, 12.5, 20.0, 37.5]]))
    assert first["labels"].tolist() == [1] and len(first["scores"]) == 1
    every = detections(best, boxes, [(100, 200), (50, 20)], min_score=0.0)
    torch.testing.assert_close(every[0]["boxes"][1], torch.tensor([80.0, 30.0, 120.0, 70.0]))
