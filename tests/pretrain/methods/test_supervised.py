"""Supervised: targets follow the share of pixels, the loss is torch's, the metrics are counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pretrain.methods import Facts, method
from pretrain.methods.supervised import Supervised, draw_shares, erased, mixed, rectangles
from shared.errors import DataError, UsageError
from shared.feeding.pixels import PIXEL_STATS

FACTS = Facts(size=(16, 16), num_classes=4, pixels=PIXEL_STATS["imagenet"])
alphas = st.sampled_from([0.0, 0.2, 0.8, 1.0])


def plain(count: int, side: int = 16) -> tuple[Tensor, Tensor]:
    """Image k is k + 1 everywhere, and its target is class k: shares can be read off either."""
    x = torch.arange(1.0, count + 1).view(-1, 1, 1, 1).expand(-1, 3, side, side).clone()
    return x, torch.eye(count)


# --- mixing ---------------------------------------------------------------------------------


@given(count=st.integers(1, 6), mixup=alphas, cutmix=alphas, seed=st.integers(0, 2**31))
def test_targets_follow_the_share_of_pixels(count: int, mixup: float, cutmix: float, seed: int) -> None:
    torch.manual_seed(seed)
    x, target = plain(count)
    mixed_x, mixed_target = mixed(x, target, mixup, cutmix)
    assert mixed_x.shape == x.shape and mixed_target.shape == target.shape
    torch.testing.assert_close(mixed_target.sum(1), torch.ones(count))
    values = torch.arange(1.0, count + 1)
    torch.testing.assert_close(mixed_x.mean((1, 2, 3)), mixed_target @ values, rtol=1e-4, atol=1e-4)


@given(seed=st.integers(0, 2**31))
def test_cutmix_alone_shows_every_pixel_of_one_image_or_the_other(seed: int) -> None:
    torch.manual_seed(seed)
    x, target = plain(4)
    mixed_x, mixed_target = mixed(x, target, 0.0, 1.0)
    assert ((mixed_x == x) | (mixed_x == x.flip(0))).all()
    share = (mixed_x == x)[:, 0].float().mean((1, 2))
    torch.testing.assert_close(mixed_target.diagonal(), share)


def test_mixup_alone_blends_whole_frames() -> None:
    x, target = plain(4)
    mixed_x, mixed_target = mixed(x, target, 0.8, 0.0)
    assert (mixed_x.amax((1, 2, 3)) - mixed_x.amin((1, 2, 3))).max() < 1e-6
    assert ((mixed_target > 0).sum(1) == 2).all() and not torch.equal(mixed_target, target)


def test_both_give_each_sample_either() -> None:
    x, target = plain(64)
    mixed_x, _ = mixed(x, target, 0.8, 1.0)
    cut = ((mixed_x == x) | (mixed_x == x.flip(0))).all(dim=(1)).all(1).all(1)
    assert 0.25 < cut.float().mean() < 0.75


def test_neither_changes_nothing() -> None:
    x, target = plain(3)
    assert all(torch.equal(a, b) for a, b in zip(mixed(x, target, 0.0, 0.0), (x, target), strict=True))


def test_shares_are_drawn_from_the_beta_distribution() -> None:
    shares = draw_shares(20_000, 0.4, torch.zeros(()))
    assert shares.mean() == pytest.approx(0.5, abs=0.01)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.005)


@given(area=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_rectangles_are_one_block_no_larger_than_asked(area: float, seed: int) -> None:
    torch.manual_seed(seed)
    for mask in rectangles(3, 20, 30, torch.full((3,), area))[:, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask.bool(), rows[:, None] & columns[None, :])
        assert rows.sum() <= 20 * area**0.5 + 1 and columns.sum() <= 30 * area**0.5 + 1
        assert (rows.int().diff().abs().sum() <= 2) and (columns.int().diff().abs().sum() <= 2)


def test_erasing_blanks_at_most_a_third_of_the_chosen() -> None:
    x = torch.ones(400, 3, 24, 24)
    gone = 1 - erased(x, 0.5).mean((1, 2, 3))
    assert 0.4 < (gone > 0).float().mean() < 0.6
    assert gone.max() < 0.45 and torch.equal(erased(x, 0.0), x)


# --- the loss -------------------------------------------------------------------------------


def build(tiny: Callable[..., Any], **told: Any) -> Supervised:
    task = Supervised(tiny(), FACTS, **told)
    nn.init.normal_(task.classifier.weight)
    return task


def batch(count: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8), torch.arange(count) % 4


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_is_the_smoothed_cross_entropy_of_torch(tiny_backbone: Callable[..., Any], smoothing: float) -> None:
    task = build(tiny_backbone, label_smoothing=smoothing).eval()
    images, labels = batch()
    expected = F.cross_entropy(task.classify(task.normalize(images)), labels, label_smoothing=smoothing)
    assert task((images, labels))["classification"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_mixing_and_erasing_take_part_in_the_loss(tiny_backbone: Callable[..., Any]) -> None:
    data = batch()
    losses = {
        tuple(told): build(tiny_backbone, **told).eval()(data)["classification"].item()
        for told in ({}, {"mixup": 0.8}, {"cutmix": 1.0}, {"random_erase": 1.0})
        if torch.manual_seed(0)
    }
    assert len(set(losses.values())) == 4


def test_mixing_follows_the_random_state_of_the_loop(tiny_backbone: Callable[..., Any]) -> None:
    task, data, losses = build(tiny_backbone, mixup=0.8, cutmix=1.0).eval(), batch(), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(task(data)["classification"].item())
    assert losses[0] == losses[1] != losses[2]


# --- the metrics ----------------------------------------------------------------------------


class Oracle(nn.Module):
    """A backbone whose vector is written into the first pixels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, : self.width]


def by_hand(num_classes: int, rows: list[list[int]], labels: list[int]) -> dict[str, float]:
    """Metrics where row i of logits is written into image i, in batches of two."""
    facts = Facts(size=(16, 16), num_classes=num_classes, pixels=PIXEL_STATS["neutral"])
    task = Supervised(Oracle(num_classes), facts).eval()  # type: ignore[arg-type]
    nn.init.eye_(task.classifier.weight)
    images = torch.zeros(len(rows), 3, 16, 16, dtype=torch.uint8)
    for image, row in zip(images, rows, strict=True):
        image[0, 0, : len(row)] = torch.tensor(row, dtype=torch.uint8)
    truth = torch.tensor(labels)
    return task.evaluate([(images[i : i + 2], truth[i : i + 2]) for i in range(0, len(rows), 2)])


def test_top_one_and_top_five_are_those_counted_by_hand() -> None:
    rows = [
        [70, 60, 50, 40, 30, 20, 10],  # best 0, then 1, 2, 3, 4; class 0: both right
        [70, 60, 50, 40, 30, 20, 10],  # class 4 is fifth: top 5 alone
        [70, 60, 50, 40, 30, 20, 10],  # class 5 is sixth: neither
        [10, 20, 30, 40, 50, 60, 70],  # class 6: both right
        [10, 20, 30, 40, 50, 60, 70],  # class 1 is sixth: neither
    ]
    assert by_hand(7, rows, [0, 4, 5, 6, 1]) == {"top1": 2 / 5, "top5": 3 / 5}


def test_few_classes_have_no_top_five() -> None:
    assert by_hand(3, [[1, 2, 3], [3, 2, 1]], [2, 2]) == {"top1": 0.5}


# --- at the door ----------------------------------------------------------------------------


def test_data_without_classes_is_refused(tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="needs labels, and these shards have none; pack them with labels"):
        Supervised(tiny_backbone(), FACTS._replace(num_classes=None))


@pytest.mark.parametrize("told", [{"label_smoothing": 1.5}, {"random_erase": -0.1}, {"dropout": 2.0}])
def test_shares_that_are_none_are_refused(tiny_backbone: Callable[..., Any], told: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="it must be from 0 to (below )?1$"):
        method.build("supervised", tiny_backbone(), FACTS, **told)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"mixup": -0.2}, "mixup is -0.2; it must be from 0"),
        ({"crop_ratio": 0.5}, "crop_ratio is 0.5; it must be from 1 to 100"),
        ({"crop_scale": 0.0}, "crop_scale is 0.0; it must be greater than 0 and up to 1"),
        ({"val_share": 2.0}, "val_share is 2.0; it must be greater than 0 and up to 1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tiny_backbone: Callable[..., Any], told: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        method.build("supervised", tiny_backbone(), FACTS, **told)
