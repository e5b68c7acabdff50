"""The class-agnostic localizer: targets drawn by hand on a small grid, scores by hand, nothing learned of classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from detection.nets.unidetector_cln import CLN, Dense, anchors_for_boxes, anchors_for_centers, dense_losses, eta
from detection.parts.dense.sides import as_sides, centerness, squares
from detection.types import Images, Target

GRID = squares([(4, 4)], [8], torch.device("cpu"))[0]  # squares of 64 pixels around (8 i, 8 j)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def cln(backbone: Any, **told: Any) -> CLN:
    small = {"width": 32, "hidden": 64, "regions": 64, "candidates": 200}
    return CLN(backbone, 7, **{**small, **told})


def place(x: int, y: int) -> int:
    """The cell of the grid whose square is centered at 8 x, 8 y."""
    return 4 * y + x


def square(x: float, y: float, side: float) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def test_the_anchor_that_equals_an_object_is_positive_and_near_ones_too() -> None:
    """Shifted by 8 of 64 pixels the IoU is 7/9 = .78, by 16 it is .6, by 8 both ways .62: ignored, not negative."""
    (chosen, objects), negatives = anchors_for_boxes(torch.tensor([square(8, 8, 64)]), GRID)
    near = {place(1, 1), place(0, 1), place(2, 1), place(1, 0), place(1, 2)}
    assert set(chosen.tolist()) == near and objects.tolist() == [0] * 5
    assert negatives == 0  # the farthest is shifted by 16 both ways: .39


def test_an_object_takes_its_best_anchor_from_an_overlap_of_three_tenths_and_no_less() -> None:
    """A square of 40 in one of 64 has an IoU of .39, one of 30 has .22."""
    (chosen, _), negatives = anchors_for_boxes(torch.tensor([square(8, 8, 40)]), GRID)
    assert set(chosen.tolist()) == {place(x, y) for x in range(3) for y in range(3)}  # those that hold it whole tie
    assert negatives == 1  # the one at 24, 24 has .29
    (chosen, _), negatives = anchors_for_boxes(torch.tensor([square(8, 8, 30)]), GRID)
    assert chosen.tolist() == [] and negatives == 16
    assert anchors_for_centers(torch.tensor([square(8, 8, 30)]), GRID)[0].tolist() == []


def test_centerness_learns_from_more_anchors_and_from_no_negative() -> None:
    chosen, objects = anchors_for_centers(torch.tensor([square(8, 8, 64)]), GRID)
    assert sorted(chosen.tolist()) == list(range(16)) and objects.tolist() == [0] * 16
    goal = centerness(as_sides(torch.tensor([square(8, 8, 64)]).expand(16, 4), GRID))
    assert goal[place(1, 1)] == 1
    assert goal[place(2, 1)].item() == pytest.approx(((32 - 8) / (32 + 8)) ** 0.5)
    assert goal[place(3, 3)].item() == pytest.approx((32 - 16) / (32 + 16))


def test_a_center_outside_the_object_has_centerness_zero() -> None:
    """A flat object below the anchor's center, which its square covers by .31."""
    flat = torch.tensor([[-24.0, 12, 40, 32]])
    chosen, _ = anchors_for_centers(flat, GRID)
    assert place(1, 1) in chosen.tolist()
    assert centerness(as_sides(flat, GRID[place(1, 1)][None])).item() == 0


@pytest.mark.parametrize("shift", [0, 16])
def test_an_object_at_the_edge_of_the_image_counts_as_any_other(shift: int) -> None:
    """The reference drops objects that touch x = 0 or y = 0 from the box loss."""
    anchors = squares([(12, 12)], [8], torch.device("cpu"))[0]
    dense = Dense(torch.full((1, 144, 4), 0.4), torch.zeros(1, 144), anchors, [144])
    target = Target(boxes=torch.tensor([[shift, shift, shift + 64.0, shift + 64]]), labels=torch.tensor([0]))
    losses = dense_losses(dense, Images(torch.zeros(1, 3, 96, 96), [(96, 96)]), [target])
    assert losses["loss_rpn_box"] > 0


def test_losses_are_those_computed_by_hand() -> None:
    """One object equal to the anchor in the middle; the image holds no other anchor."""
    anchors = squares([(8, 8)], [8], torch.device("cpu"))[0]
    middle = 4 * 8 + 4  # centered at (32, 32)
    sides = torch.full((1, 64, 4), 0.25)  # half the side each way: IoU .25
    center = torch.zeros(1, 64)
    center[0, middle] = 2.0
    target = Target(boxes=torch.tensor([[0.0, 0, 64, 64]]), labels=torch.tensor([3]))
    losses = dense_losses(Dense(sides, center, anchors, [64]), Images(torch.zeros(1, 3, 64, 64), [(64, 64)]), [target])
    total = 1 + 1  # one positive, no negative counted as one
    assert losses["loss_rpn_box"].item() == pytest.approx(10 * 0.75 / total)
    assert losses["loss_rpn_center"].item() == pytest.approx((1 - torch.tensor(2.0).sigmoid().item()) / total)


def test_an_image_without_objects_counts_in_the_divisor_alone() -> None:
    anchors = squares([(8, 8)], [8], torch.device("cpu"))[0]
    target = Target(boxes=torch.tensor([[0.0, 0, 64, 64]]), labels=torch.tensor([3]))
    empty = Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    dense = Dense(torch.full((2, 64, 4), 0.25), torch.zeros(2, 64), anchors, [64])
    losses = dense_losses(dense, Images(torch.zeros(2, 3, 64, 64), [(64, 64)] * 2), [target, empty])
    assert losses["loss_rpn_box"].item() == pytest.approx(10 * 0.75 / (2 + 1 + 1))


def test_score_is_the_product_of_powers() -> None:
    p, q, u = (torch.tensor([value]) for value in (0.5, 0.8, 0.25))
    assert eta(p, q, u, 0.3).item() == pytest.approx(0.5**0.3 * (0.8 * 0.25) ** 0.7)
    assert eta(p, q, u, 1.0).item() == pytest.approx(0.5) and eta(p, q, u, 0.0).item() == pytest.approx(0.2)


def test_losses_do_not_depend_on_the_labels(tiny_backbone: Any, scenes: Any) -> None:
    built = cln(tiny_backbone(16)).eval()  # eval: batch norm does not move
    images, targets = scenes([2, 1])
    other = [Target(boxes=t["boxes"], labels=t["labels"] * 0 + 6) for t in targets]
    torch.manual_seed(1)
    first = built(images, targets)
    torch.manual_seed(1)
    second = built(images, other)
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_detections_are_not_thinned_below_the_iou_of_nms(tiny_backbone: Any, scenes: Any) -> None:
    images, _ = scenes([2])
    found = cln(tiny_backbone(16)).eval().detect(images)[0]
    assert len(found["boxes"]) > 100 and set(found["labels"].tolist()) == {0}
    few = cln(tiny_backbone(16), max_detections=10).eval().detect(images)[0]
    assert len(few["boxes"]) == 10


def test_held_statistics_stay_while_scale_and_shift_learn(tiny_backbone: Any, scenes: Any) -> None:
    built = cln(tiny_backbone(16), hold_statistics=True).train()
    norms = [layer for layer in built.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [layer.running_mean.clone() for layer in norms if layer.running_mean is not None]
    torch.stack(list(built(*scenes([2, 1])).values())).sum().backward()
    assert all(torch.equal(a, n.running_mean) for a, n in zip(before, norms, strict=True) if n.running_mean is not None)
    assert all(layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0 for layer in norms)
    assert built.training and built.head.training
