"""The loss of a set is the papers': transformers' for softmax, a plain spelling for focal, in one process or two."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou
from transformers import DetrConfig
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from detection.parts.query.hungarian import CostKind, match
from detection.parts.query.set_loss import SetLoss, set_targets
from detection.types import Target
from shared.devices import dist

SIZES = [(80, 120), (100, 60), (64, 64)]
CLASSES = 5
kinds = pytest.mark.parametrize("kind", ["softmax", "focal"])


def loss_of(kind: CostKind, **other: Any) -> SetLoss:
    costs = {"class_cost": 2 if kind == "focal" else 1, "l1_cost": 5, "giou_cost": 2}
    weights = {"class_weight": 2 if kind == "focal" else 1, "l1_weight": 5, "giou_weight": 2}
    return SetLoss(CLASSES, kind, **(costs | weights | other))


def scene(*counts: int) -> tuple[list[Target], list[tuple[int, int]]]:
    """So many objects in each image, in pixels."""
    targets = []
    for count, (height, width) in zip(counts, SIZES, strict=False):
        corner = torch.rand(count, 2) * torch.tensor([width, height]) * 0.6
        boxes = torch.cat((corner, corner + 3 + torch.rand(count, 2) * 20), 1)
        targets.append(Target(boxes=boxes, labels=torch.randint(CLASSES, (count,))))
    return targets, SIZES[: len(counts)]


def guesses(kind: CostKind, images: int, layers: int = 3, queries: int = 9) -> tuple[Tensor, Tensor]:
    logits = torch.randn(layers, images, queries, CLASSES + (kind == "softmax"), requires_grad=True)
    boxes = torch.cat((torch.rand(layers, images, queries, 2), 0.05 + 0.4 * torch.rand(layers, images, queries, 2)), -1)
    return logits, boxes.requires_grad_()


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("counts", [(3, 5), (4, 0, 9), (12, 1), (1,)], ids=str)
def test_softmax_losses_and_gradients_are_transformers(counts: tuple[int, ...]) -> None:
    """All layers; images without objects and with more objects than queries included."""
    logits, boxes = guesses("softmax", len(counts))
    targets, sizes = scene(*counts)
    losses = loss_of("softmax")(logits, boxes, targets, sizes)
    config: Any = DetrConfig(auxiliary_loss=True, decoder_layers=3)
    config.num_labels = CLASSES
    objects = [{"class_labels": one.labels, "boxes": one.boxes} for one in set_targets(targets, sizes)]
    answer: Any = ForObjectDetectionLoss(logits[-1], objects, "cpu", boxes[-1], config, logits, boxes)
    whole, by_name, _ = answer
    torch.testing.assert_close(total(losses), whole, rtol=1e-4, atol=1e-5)
    names = {"classification": ("loss_ce", 1), "boxes": ("loss_bbox", 5), "giou": ("loss_giou", 2)}
    assert len(losses) == 9
    for ours, (theirs, weight) in names.items():
        for layer in ("", "_0", "_1"):
            torch.testing.assert_close(losses[ours + layer], weight * by_name[theirs + layer], rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(whole, (logits, boxes))
    for one, other in zip(torch.autograd.grad(total(losses), (logits, boxes)), wanted, strict=True):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def plain_focal(logits: Tensor, boxes: Tensor, targets: list[Target], sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Classification, boxes, giou of one layer as Deformable DETR's paper has them, one query and class at a time."""
    objects = set_targets(targets, sizes)
    pairs = match("focal", logits[None], boxes[None], objects, class_cost=2, l1_cost=5, giou_cost=2)[0]
    classification, l1, overlap = (torch.zeros(()) for _ in range(3))
    for image, (queries, found) in enumerate(pairs):
        wanted = dict(zip(queries.tolist(), found.tolist(), strict=True))
        for query, scores in enumerate(logits[image]):
            label = int(objects[image].labels[wanted[query]]) if query in wanted else None
            for column, x in enumerate(scores):
                p = x.sigmoid()
                there = -0.25 * (1 - p) ** 2 * p.log()
                classification = classification + (there if column == label else -0.75 * p**2 * (1 - p).log())
        for query, one in wanted.items():
            ours, theirs = boxes[image, query], objects[image].boxes[one]
            l1 = l1 + (ours - theirs).abs().sum()
            corners = (box_convert(box[None], "cxcywh", "xyxy") for box in (ours, theirs))
            overlap = overlap + 1 - generalized_box_iou(*corners)[0, 0]
    count = max(1, sum(len(one.labels) for one in objects))
    return [2 * classification / count, 5 * l1 / count, 2 * overlap / count]


@pytest.mark.parametrize("counts", [(3, 5), (4, 0, 2), (12, 1), (0, 0)], ids=str)
def test_focal_losses_and_gradients_are_the_papers(counts: tuple[int, ...]) -> None:
    logits, boxes = guesses("focal", len(counts), layers=2)
    targets, sizes = scene(*counts)
    losses = loss_of("focal")(logits, boxes, targets, sizes)
    wanted = []
    for layer, suffix in enumerate(("_0", "")):
        wanted += plain_focal(logits[layer], boxes[layer], targets, sizes)
        for name, value in zip(("classification", "boxes", "giou"), wanted[-3:], strict=True):
            torch.testing.assert_close(losses[name + suffix], value, msg=name + suffix)
    given = (logits, boxes) if any(counts) else (logits,)
    plain = torch.autograd.grad(torch.stack(wanted).sum(), given)
    for one, other in zip(torch.autograd.grad(total(losses), given), plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@kinds
def test_without_objects_box_losses_are_0_and_still_reach_every_weight(kind: CostKind) -> None:
    logits, boxes = guesses(kind, 2)
    losses = loss_of(kind)(logits, boxes, *scene(0, 0))
    assert all((value == 0) == (not name.startswith("classification")) for name, value in losses.items())
    total(losses).backward()
    assert logits.grad is not None and logits.grad.any()
    assert boxes.grad is not None and not boxes.grad.any()


@kinds
def test_knowing_everything_costs_nothing(kind: CostKind) -> None:
    targets, sizes = scene(4, 2)
    columns = CLASSES + (kind == "softmax")
    logits, boxes = torch.full((1, 2, 6, columns), -30.0), torch.rand(1, 2, 6, 4)
    if kind == "softmax":
        logits[..., -1] = 0
    for image, one in enumerate(set_targets(targets, sizes)):
        for query, (label, box) in enumerate(zip(*one, strict=True), start=1):
            logits[0, image, query], boxes[0, image, query] = -30.0, box
            logits[0, image, query, label] = 30
    losses = loss_of(kind)(logits, boxes, targets, sizes)
    assert set(losses) == {"classification", "boxes", "giou"}
    assert all(abs(value) < 1e-5 for value in losses.values())


@kinds
def test_an_object_of_any_class_is_one_of_the_first_for_proposals(kind: CostKind) -> None:
    logits, boxes = guesses(kind, 2, layers=1)
    targets, sizes = scene(3, 2)
    nameless = [Target(boxes=one["boxes"], labels=torch.zeros_like(one["labels"])) for one in targets]
    loss = loss_of(kind)
    wanted, usual = loss(logits, boxes, nameless, sizes), loss(logits, boxes, targets, sizes)
    found = loss(logits, boxes, targets, sizes, "enc_", class_agnostic=True)
    assert list(found) == ["enc_classification", "enc_boxes", "enc_giou"]
    assert [*found.values()] == [*wanted.values()] != [*usual.values()]


@kinds
def test_a_given_assignment_is_kept(kind: CostKind) -> None:
    logits, boxes = guesses(kind, 1, layers=2)
    targets, sizes = scene(2)
    loss = loss_of(kind)
    own = match(kind, logits, boxes, set_targets(targets, sizes), **loss.costs)
    plain = loss(logits, boxes, targets, sizes)
    assert [*loss(logits, boxes, targets, sizes, matches=own).values()] == [*plain.values()]
    crossed = [[(queries, found.flip(0)) for queries, found in layer] for layer in own]
    assert total(loss(logits, boxes, targets, sizes, matches=crossed)) > total(plain)


def test_shares_are_of_the_unpadded_image_and_the_target_stays_what_it_was() -> None:
    target = Target(boxes=torch.tensor([[10.0, 20, 30, 60]]), labels=torch.tensor([3]))
    (found,) = set_targets([target], [(80, 40)])
    assert found.boxes.tolist() == [[0.5, 0.5, 0.5, 0.5]] and found.labels.tolist() == [3]
    assert target["boxes"].tolist() == [[10, 20, 30, 60]]


@kinds
def test_half_precision_heads_get_float32_losses(kind: CostKind) -> None:
    logits, boxes = guesses(kind, 2)
    targets, sizes = scene(3, 1)
    half = loss_of(kind)(logits.bfloat16(), boxes.bfloat16(), targets, sizes)
    exact = loss_of(kind)(logits.bfloat16().float(), boxes.bfloat16().float(), targets, sizes)
    assert all(value.dtype == torch.float32 for value in half.values()) and [*half.values()] == [*exact.values()]


@pytest.mark.slow
@kinds
def test_two_processes_divide_by_their_mean_count_of_boxes(kind: CostKind, tmp_path: Path) -> None:
    """So that the mean of their gradients is that of one process with both images; also if one has no box at all."""
    targets, sizes = scene(5, 0)
    logits, boxes = guesses(kind, 2)
    loss = loss_of(kind)
    whole = {name: float(value) for name, value in loss(logits, boxes, targets, sizes).items()}
    fork = multiprocessing.get_context("fork")
    answers: Any = fork.Queue()

    def live(rank: int) -> None:
        torch.set_num_threads(1)  # the threads of the parent are not there after a fork, and would be waited for
        torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=rank, world_size=2)
        one = slice(rank, rank + 1)
        mine = loss(logits[:, one].detach(), boxes[:, one].detach(), targets[one], sizes[one])
        answers.put((rank, {name: float(value) for name, value in mine.items()}))
        dist.stop()

    children = [fork.Process(target=live, args=(rank,), daemon=True) for rank in range(2)]
    for child in children:
        child.start()
    found = dict(answers.get(timeout=60) for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    for name, value in whole.items():
        if kind == "focal" or not name.startswith("classification"):
            assert (found[0][name] + found[1][name]) / 2 == pytest.approx(value, rel=1e-5)
    assert found[1]["boxes"] == 0 < found[0]["boxes"]
