"""The decoder: knows places by their positions alone, and its last block answers only what is asked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.masked.decoder import Decoder, answers, draw_weights
from shared.errors import UsageError


def make(positions: torch.Tensor | None = None) -> Decoder:
    return Decoder(6, torch.randn(9, 16) if positions is None else positions, 12, depth=3, heads=4)


def test_the_order_in_which_places_are_handed_over_changes_nothing() -> None:
    net, seen = make(), torch.randn(2, 1 + 4, 6)
    at, hidden = torch.tensor([[3, 0, 8, 5], [1, 2, 3, 4]]), torch.tensor([[1, 7, 2], [0, 8, 6]])
    straight = net(seen, at, hidden)
    assert straight.shape == (2, 3, 12)
    shuffled = net(seen[:, [0, 3, 1, 4, 2]], at[:, [2, 0, 3, 1]], hidden.flip(1))
    torch.testing.assert_close(shuffled.flip(1), straight)


def test_the_last_block_makes_of_hidden_places_what_a_whole_block_would() -> None:
    net, x = make(), torch.randn(2, 7, 16)
    torch.testing.assert_close(answers(net.last, x, 3), net.last(x)[:, -3:])


def test_positions_are_learned_when_they_are_a_parameter_and_fixed_otherwise() -> None:
    fixed, learned = make(), make(nn.Parameter(torch.zeros(9, 16)))
    assert "positions" not in dict(fixed.named_parameters()) and "positions" not in fixed.state_dict()
    assert "positions" in dict(learned.named_parameters())
    learned(torch.randn(1, 2, 6), torch.tensor([[0, 1]]), torch.tensor([[2, 3]])).square().sum().backward()
    assert learned.positions.grad is not None
    assert learned.positions.grad.abs().sum(1).ne(0).tolist() == [True] * 4 + [False] * 5


@pytest.mark.parametrize(("depth", "heads"), [(0, 4), (2, 3), (2, 0)])
def test_a_decoder_that_cannot_be_built_is_refused(depth: int, heads: int) -> None:
    with pytest.raises(UsageError, match=f"{depth} blocks, {heads} heads and width 16 cannot be built; take one or"):
        Decoder(6, torch.zeros(9, 16), 12, depth=depth, heads=heads)


def test_weights_drawn_anew_have_the_spread_of_glorot_and_no_bias() -> None:
    net = nn.Sequential(nn.Linear(200, 100), nn.LayerNorm(100))
    draw_weights(net)
    assert net[0].weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.03)
    assert not net[0].bias.any()
    patches = nn.Module()
    patches.patch_embed = nn.Module()
    patches.patch_embed.proj = nn.Conv2d(3, 50, 16, stride=16)
    draw_weights(patches)
    assert patches.patch_embed.proj.weight.std().item() == pytest.approx((2 / (768 + 50)) ** 0.5, rel=0.03)
