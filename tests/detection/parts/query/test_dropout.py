"""Dropout: each value is dropped with the same chance, whatever happens to others, and the rest makes up for it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detection.parts.query.dropout import Dropout, drawn, dropout
from shared.errors import UsageError


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_what_is_dropped_is_as_much_and_as_scattered_as_independent_draws(share: float) -> None:
    """The mean, the chance that neighbors fall together, and that of each place, all within five deviations."""
    rounds, count = 400, 500
    dropped = torch.zeros(rounds, count)
    for row in dropped:
        row[drawn(count, share)] = 1
    deviation = (share * (1 - share)) ** 0.5
    assert abs(dropped.mean() - share) < 5 * deviation / (rounds * count) ** 0.5
    assert (dropped.mean(0) - share).abs().max() < 5 * deviation / rounds**0.5
    together = (dropped[:, 1:] * dropped[:, :-1]).mean()
    assert abs(together - share**2) < 5 * (share**2 * (1 - share**2)) ** 0.5 / (rounds * count) ** 0.5 + 1e-3


def test_places_are_ascending_and_inside() -> None:
    for count in (0, 1, 2, 1000):
        where = drawn(count, 0.3)
        assert torch.equal(where, where.unique()) and ((where >= 0) & (where < count)).all()


def test_values_are_zero_or_grown_and_gradients_follow_them() -> None:
    x = torch.randn(30, 40, requires_grad=True)
    dropped = dropout(x, 0.25)
    gone = dropped == 0
    assert 0.15 < gone.float().mean() < 0.35
    torch.testing.assert_close(dropped, torch.where(gone, 0.0, x / 0.75))
    gradient = torch.randn(40, 30).T
    dropped.backward(gradient)
    torch.testing.assert_close(x.grad, torch.where(gone, 0.0, gradient / 0.75))


def test_layout_of_what_comes_in_does_not_matter() -> None:
    x = torch.randn(6, 5, 4)
    for view in (x.transpose(0, 2), x[:, ::2], x.expand(3, 6, 5, 4)):
        torch.manual_seed(1)
        plain = dropout(view.contiguous(), 0.5)
        torch.manual_seed(1)
        assert torch.equal(dropout(view, 0.5), plain)


def test_seed_decides_what_is_dropped() -> None:
    x, found = torch.ones(1000), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(dropout(x, 0.5))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_nothing_is_dropped_outside_training_or_without_a_share() -> None:
    x = torch.ones(100)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x
    assert (Dropout(0.5)(x) == 0).any()


def test_elsewhere_it_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(F, "dropout", lambda x, share: asked.append(share))
    dropout(torch.ones(3, device="meta"), 0.5)
    assert asked == [0.5]


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="give a probability from 0 to below 1"):
        Dropout(share)
