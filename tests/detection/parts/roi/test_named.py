"""Classes by name: cosines, the names that take part in an image, and the loss over several data sets at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detection.parts.roi.named import Vocabularies, partitioned_loss, taking_part
from detection.types import Target

WIDTH = 6


@pytest.fixture
def two_sets() -> Vocabularies:
    return Vocabularies([3, 5], WIDTH)


def target(labels: list[int], **told: object) -> Target:
    return {"boxes": torch.zeros(len(labels), 4), "labels": torch.tensor(labels, dtype=torch.int64), **told}  # type: ignore[typeddict-item]


def chosen(drawable: Tensor, labels: list[int], most: int, only_known: bool = False, **told: object) -> list[int]:
    """The names that take part in an image whose regions have these labels."""
    of_regions = torch.tensor(labels, dtype=torch.int64)
    of_objects = target([label for label in labels if label >= 0], **told)
    names, counted = taking_part(drawable, of_regions, of_objects, most=most, only_known=only_known)
    return names[counted].tolist()


# --- logits -----------------------------------------------------------------------------------------


def test_logits_are_a_hundred_cosines_whatever_the_lengths(two_sets: Vocabularies) -> None:
    regions = torch.randn(4, WIDTH)
    expected = 100 * F.cosine_similarity(regions[:, None], two_sets.vectors(1)[None], dim=2)
    torch.testing.assert_close(two_sets.logits(7 * regions, 1), expected)
    torch.testing.assert_close(two_sets.logits(regions), two_sets.logits(regions, 0))


def test_logits_are_in_float32_under_autocast(two_sets: Vocabularies) -> None:
    regions = torch.randn(4, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        said = two_sets.logits(regions.bfloat16(), 1)
    assert said.dtype == torch.float32
    torch.testing.assert_close(said, two_sets.logits(regions.bfloat16().float(), 1))


def test_vectors_are_buffers_that_travel_with_the_weights_and_names_that_are_drawn_do_not(
    two_sets: Vocabularies,
) -> None:
    assert set(two_sets.state_dict()) == {"vectors_0", "vectors_1"}
    assert not list(two_sets.parameters())
    assert len(two_sets) == 2 and [len(two_sets.vectors(i)) for i in range(2)] == [3, 5]
    assert torch.equal(two_sets.vectors(1), Vocabularies([3, 5], WIDTH).vectors(1)), "random, and the same every time"


def test_speaking_replaces_names_and_their_number(two_sets: Vocabularies) -> None:
    other = torch.randn(7, WIDTH).half()
    two_sets.draw_only([torch.zeros(3, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)])
    two_sets.current = 1
    two_sets.speak([other])
    assert len(two_sets) == 1 and two_sets.logits(torch.randn(2, WIDTH)).shape == (2, 7)
    assert torch.equal(two_sets.vectors(0), other.float()) and two_sets.drawable(0).all()
    with pytest.raises(ValueError, match="not 6 wide"):
        two_sets.speak([torch.randn(7, WIDTH + 1)])


def test_permuted_names_permute_logits_and_nothing_else(two_sets: Vocabularies) -> None:
    regions, order = torch.randn(4, WIDTH), torch.tensor([2, 0, 1])
    before = two_sets.logits(regions)
    two_sets.speak([two_sets.vectors(0)[order]])
    torch.testing.assert_close(two_sets.logits(regions), before[:, order])


# --- names that take part ---------------------------------------------------------------------------


def test_names_of_the_image_always_take_part_and_others_are_drawn_up_to_the_number() -> None:
    drawable = torch.ones(40, dtype=torch.bool)
    for _ in range(50):
        names = chosen(drawable, [3, -1, 7, 3], 10)
        assert {3, 7} <= set(names) and len(names) == len(set(names)) == 10


def test_every_other_name_is_drawn_equally_often() -> None:
    drawable, counts = torch.ones(10, dtype=torch.bool), torch.zeros(10)
    for _ in range(2000):
        counts[chosen(drawable, [0], 4)] += 1
    assert counts[0] == 2000
    assert (counts[1:] / 2000 - 3 / 9).abs().max() < 0.06


def test_a_small_vocabulary_takes_part_as_a_whole() -> None:
    assert sorted(chosen(torch.ones(20, dtype=torch.bool), [1, -1], 50)) == list(range(20))


def test_more_names_in_an_image_than_are_drawn_all_take_part_and_no_other() -> None:
    assert sorted(chosen(torch.ones(20, dtype=torch.bool), [5, 1, 9, 9, -1], 2)) == [1, 5, 9]


def test_names_without_a_training_image_are_never_drawn_but_take_part_where_they_appear() -> None:
    drawable = torch.arange(10) < 4
    assert sorted(chosen(drawable, [8, -1], 9)) == [0, 1, 2, 3, 8]


def test_zero_means_all_names() -> None:
    assert sorted(chosen(torch.arange(6) < 2, [4], 0)) == list(range(6))


@pytest.mark.parametrize("most", [0, 6])
def test_names_that_are_not_exhaustively_annotated_or_not_at_all_are_never_drawn(most: int) -> None:
    drawable = torch.ones(6, dtype=torch.bool)
    assert sorted(chosen(drawable, [2], most, unfinished=torch.tensor([0, 2]))) == [1, 2, 3, 4, 5]
    assert sorted(chosen(drawable, [2], most, known=torch.arange(6) > 1)) == [2, 3, 4, 5]


def test_only_known_names_are_those_of_the_objects_and_those_known_to_be_absent() -> None:
    drawable = torch.ones(10, dtype=torch.bool)
    known = {"absent": torch.tensor([9, 4])}
    names, counted = taking_part(drawable, torch.tensor([2, -1]), target([2, 7], **known), most=50, only_known=True)
    assert sorted(names[counted].tolist()) == [2, 4, 7, 9]
    assert len(chosen(drawable, [2], 5, True)) == 5, "without such a list they are drawn"
    assert sorted(chosen(drawable, [], 5, True, absent=torch.tensor([1]))) == [1]


# --- the loss ---------------------------------------------------------------------------------------


def spelled_out(
    vocabularies: Vocabularies, regions: Tensor, labels: list[Tensor], targets: list[Target], names: list[list[int]]
) -> float:
    """The loss, region by region and name by name."""
    total, start = 0.0, 0
    for label, one, of_image in zip(labels, targets, names, strict=True):
        for r in range(len(label)):
            for name in of_image:
                vector = vocabularies.vectors(one.get("dataset", 0))[name]
                z = 100 * F.cosine_similarity(regions[start + r], vector, dim=0)
                if label[r] < 0 and name in one.get("unfinished", torch.tensor([])).tolist():
                    continue
                total += float(F.softplus(-z if label[r] == name else z)) / len(label) / len(labels)
        start += len(label)
    return total


def test_loss_of_two_data_sets_in_a_batch_is_that_of_a_plain_loop(two_sets: Vocabularies) -> None:
    regions = torch.randn(9, WIDTH)
    labels = [torch.tensor([1, -1, 2, -1]), torch.tensor([4, 4, -1]), torch.tensor([-1, -1])]
    targets = [target([1, 2]), target([4], dataset=1, unfinished=torch.tensor([4, 0])), target([], dataset=1)]
    names = [[0, 1, 2], [1, 2, 3, 4], [0, 1, 2, 3, 4]]
    loss = partitioned_loss(two_sets, regions, labels, targets, most=50)
    assert math.isclose(float(loss), spelled_out(two_sets, regions, labels, targets, names), rel_tol=1e-4)


def test_loss_with_drawn_names_is_that_of_a_plain_loop_over_those(two_sets: Vocabularies) -> None:
    regions, labels = torch.randn(3, WIDTH), [torch.tensor([4, -1, -1])]
    targets = [target([4], dataset=1)]
    torch.manual_seed(3)
    names = chosen(two_sets.drawable(1), [4, -1, -1], 3)
    torch.manual_seed(3)
    loss = partitioned_loss(two_sets, regions, labels, targets, most=3)
    assert math.isclose(float(loss), spelled_out(two_sets, regions, labels, targets, [names]), rel_tol=1e-4)


def test_names_that_take_no_part_have_no_gradient(two_sets: Vocabularies) -> None:
    vectors = [torch.randn(3, WIDTH, requires_grad=True), torch.randn(5, WIDTH, requires_grad=True)]
    two_sets._buffers.update(vectors_0=vectors[0], vectors_1=vectors[1])
    targets = [target([1], dataset=1, absent=torch.tensor([3]))]
    partitioned_loss(
        two_sets, torch.randn(2, WIDTH), [torch.tensor([1, -1])], targets, most=50, only_known=True
    ).backward()
    assert vectors[0].grad is None
    assert vectors[1].grad is not None and (vectors[1].grad.abs().sum(1) > 0).tolist() == [
        *(False, True, False, True, False)
    ]


def test_images_without_objects_or_regions_are_finite_and_give_gradients(two_sets: Vocabularies) -> None:
    regions = torch.randn(2, WIDTH, requires_grad=True)
    labels = [torch.tensor([-1, -1]), torch.zeros(0, dtype=torch.int64)]
    partitioned_loss(two_sets, regions, labels, [target([]), target([], dataset=1)]).backward()
    assert regions.grad is not None and regions.grad.isfinite().all() and regions.grad.abs().sum() > 0


def test_loss_is_in_float32_under_autocast(two_sets: Vocabularies) -> None:
    regions, labels, targets = torch.randn(2, WIDTH), [torch.tensor([1, -1])], [target([1])]
    with torch.autocast("cpu", torch.bfloat16):
        loss = partitioned_loss(two_sets, regions, labels, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, partitioned_loss(two_sets, regions, labels, targets))
