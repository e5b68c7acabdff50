"""Denoising queries start near their objects, apart from each other, and know which object they shall find."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert

from detection.parts.query.denoising import Noise, noised
from detection.parts.query.hungarian import SetTarget

CLASSES = 7
USUAL: dict[str, Any] = {"count": 100, "label_noise": 0.5, "box_noise": 1.0, "edge": 1e-5}


def objects_of(*counts: int) -> list[SetTarget]:
    """Boxes far from the border, so that none is cut off."""
    rng = torch.Generator().manual_seed(1)
    found = []
    for count in counts:
        middle = 0.4 + 0.2 * torch.rand(count, 2, generator=rng)
        boxes = torch.cat((middle, 0.05 + 0.1 * torch.rand(count, 2, generator=rng)), 1)
        found.append(SetTarget(torch.randint(CLASSES, (count,), generator=rng), boxes))
    return found


def draw(*counts: int, **told: Any) -> Noise:
    torch.manual_seed(5)
    return noised(objects_of(*counts), CLASSES, **(USUAL | told))


def sides(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


@pytest.mark.parametrize("box_noise", [0.2, 0.4])  # by more, sides may cross
def test_near_queries_move_less_than_the_noise_and_far_ones_more(box_noise: float) -> None:
    objects, noise = objects_of(3, 1), draw(3, 1, box_noise=box_noise)
    assert noise.groups == 33 and noise.count == 2 * 3 * 33
    boxes = noise.boxes.sigmoid()
    for image, (queries, which) in enumerate(noise.matches[0]):
        own = objects[image].boxes[which]
        reach = 0.5 * box_noise * own[:, 2:].repeat(1, 2)
        for row, low, high in ((queries, 0, 1), (queries + 3, 1, 2)):  # the far one of an object is N further
            moved = (sides(boxes[image, row]) - sides(own)).abs() / reach
            assert moved.min() >= low - 1e-3 and moved.max() <= high + 1e-3
            assert moved.max() > high - 0.1, "over the whole range"


def test_a_quarter_of_the_labels_is_drawn_anew_and_boxes_without_noise_stay() -> None:
    objects, noise = objects_of(5), draw(5, count=2000, box_noise=1e-9)
    labels = objects[0].labels.repeat(2 * noise.groups)
    changed = float((noise.labels[0] != labels).float().mean())
    assert abs(changed - 0.25 * (1 - 1 / CLASSES)) < 0.03
    torch.testing.assert_close(noise.boxes[0].sigmoid(), objects[0].boxes.repeat(2 * noise.groups, 1))
    assert torch.equal(draw(5, label_noise=0.0).labels[0], objects[0].labels.repeat(40))


def test_every_object_is_found_by_one_query_of_every_group() -> None:
    noise = draw(3, 0, 2)
    assert noise.labels.shape == (3, 198)
    for count, (queries, which) in zip((3, 0, 2), noise.matches[0], strict=True):
        assert len(queries) == 33 * count and len(queries.unique()) == len(queries)
        assert torch.equal(queries % 6, which) and torch.equal(
            which.bincount(minlength=count), torch.full((count,), 33)
        )
    assert (noise.labels[1] == CLASSES).all(), "an image without objects has padding alone"
    assert (noise.labels[2].view(-1, 3)[:, 2] == CLASSES).all() and (noise.labels[0] < CLASSES).all()


def test_groups_see_themselves_and_the_other_queries_which_see_no_group() -> None:
    bias = draw(2, 1, count=4).bias(3)
    seen, group = bias == 0, torch.tensor([0] * 4 + [1] * 4 + [2] * 3)
    assert torch.equal(seen, (group[:, None] == group) | (group == 2)) and (bias[~seen] == -torch.inf).all()


def test_more_objects_than_wanted_queries_are_one_group_and_none_are_no_queries() -> None:
    assert draw(9, 2, count=4).groups == 1
    nothing = draw(0, 0)
    assert nothing.count == 0 and nothing.boxes.shape == (2, 0, 4)
    assert torch.equal(nothing.bias(3), torch.zeros(3, 3)) and all(len(own) == 0 for own, _ in nothing.matches[0])
