"""Hiera: timm's network at timm's size, the same network at any other, and blind to units left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backbones import backbone
from backbones.hiera import ROWS, Hiera, forward_units, has_units, hiera_of, in_squares, in_units
from backbones.reach import map_reach
from backbones.timm_zoo import Row
from shared.errors import UsageError, WeightsError

SIZE = (96, 160)  # 3 x 5 units


def small_hiera(size: tuple[int, int] = SIZE, **told: Any) -> Hiera:
    args = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 1, 2), "img_size": size} | told
    return Hiera(Row("hiera_tiny_224", args), drop_path=0.0).eval()


both = pytest.mark.parametrize("windows", [False, True], ids=["learned positions", "window positions"])


@both
@torch.no_grad()
def test_maps_and_vector_equal_timms_at_the_size_timm_was_built_for(windows: bool) -> None:
    net, x = small_hiera(abs_win_pos_embed=windows), torch.randn(2, 3, *SIZE)
    for mine, theirs in zip(
        net.forward_features(x), net.net.forward_intermediates(x, intermediates_only=True), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x), net.net(x), rtol=1e-4, atol=1e-5)


@both
@torch.no_grad()
def test_kept_units_equal_timms_masked_walk(windows: bool) -> None:
    net, x = small_hiera(abs_win_pos_embed=windows), torch.randn(2, 3, *SIZE)
    keep = torch.tensor([[0, 3, 4, 11], [2, 5, 7, 14]])
    mask = torch.zeros(2, 15, dtype=torch.bool).scatter_(1, keep, True)
    _, theirs = net.net.forward_features(x, mask, return_intermediates=True)
    for mine, wanted in zip(forward_units(net, x, keep), theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)
    turned = forward_units(net, x, keep.flip(1))
    for mine, wanted in zip(turned, theirs, strict=True):
        torch.testing.assert_close(mine.flip(1), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_with_window_positions_a_network_built_for_one_size_is_that_of_any_other() -> None:
    built_here, elsewhere = small_hiera((224, 224), abs_win_pos_embed=True), small_hiera(abs_win_pos_embed=True)
    elsewhere.load_state_dict(built_here.state_dict())
    x = torch.randn(1, 3, *SIZE)
    wanted = elsewhere.net.forward_intermediates(x, intermediates_only=True)
    for mine, theirs in zip(built_here.forward_features(x), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_learned_positions_are_resampled_as_timm_resamples_them() -> None:
    from timm.layers.pos_embed import resample_abs_pos_embed

    net, elsewhere = small_hiera((224, 224)), small_hiera()
    state = net.state_dict()
    state["net.pos_embed"] = resample_abs_pos_embed(state["net.pos_embed"], [24, 40], num_prefix_tokens=0)
    elsewhere.load_state_dict(state)
    x = torch.randn(1, 3, *SIZE)
    torch.testing.assert_close(net(x), elsewhere(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_maps_keep_the_places_of_the_image() -> None:
    """A bright spot changes the finest map most around itself, and nowhere outside its mask unit."""
    net, image = small_hiera((224, 224), abs_win_pos_embed=True), torch.zeros(1, 3, *SIZE)
    marked = image.clone()
    marked[..., 40:44, 104:108] = 5.0  # unit (1, 3), token (10, 26)
    change = (net.forward_features(marked)[0] - net.forward_features(image)[0]).abs().sum(1)[0]
    row, column = divmod(int(change.argmax()), 40)
    assert abs(row - 10) <= 1 and abs(column - 26) <= 1, "as far as the first convolution looks"
    change[8:16, 24:32] = 0
    assert not change.any()


def test_tokens_come_back_from_their_units_in_the_order_of_the_image() -> None:
    tokens = torch.arange(16 * 24).view(1, -1, 1)
    units = in_units(tokens, 2, 3)
    assert units.shape == (1, 6, 64, 1)
    squares = in_squares(units.transpose(1, 2).flatten(1, 2), 6, 3)
    assert torch.equal(squares[0, 4, :, :, 0], tokens.view(16, 24)[8:16, 8:16])
    pooled = units.transpose(1, 2).flatten(1, 2).view(1, 4, -1, 1).amax(1)  # as the blocks pool
    best = torch.nn.functional.max_pool2d(tokens.view(1, 1, 16, 24).float(), 2)[0, 0]
    assert torch.equal(in_squares(pooled, 6, 2)[0, 4, :, :, 0].float(), best[4:8, 4:8])


@torch.no_grad()
def test_units_left_out_are_not_even_seen_by_the_edges_of_their_neighbors() -> None:
    net, x = small_hiera(), torch.randn(1, 3, *SIZE)
    keep = torch.tensor([[0, 2, 6, 12]])
    other = x.clone()
    other[..., :32, 32:64] = 9.0  # unit 1, between two that are kept
    for a, b in zip(forward_units(net, x, keep), forward_units(net, other, keep), strict=True):
        assert torch.equal(a, b)


def test_the_last_stage_pools_or_not_with_the_same_weights() -> None:
    net, x = small_hiera(), torch.randn(1, 3, *SIZE)
    shapes = [tuple(t.shape[2:4]) for t in forward_units(net, x, poolings=2)]
    assert shapes == [(8, 8), (4, 4), (2, 2), (2, 2)]
    assert [tuple(t.shape[2:4]) for t in forward_units(net, x)] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    coarse, fine = (forward_units(net, x, poolings=n)[2] for n in (3, 2))
    assert torch.equal(coarse, fine), "up to there the walks are one"


@both
def test_stage_k_ends_where_the_kth_map_does(windows: bool) -> None:
    net = small_hiera(abs_win_pos_embed=windows)
    names = {id(p): n for n, p in net.named_parameters()}
    staged = [{names[id(p)] for p in stage} for stage in net.stages()]
    assert len(staged) == 5 and len(net.blocks()) == 7
    seen = staged[0]
    assert seen == {n for n in names.values() if ".pos_embed" in n or ".patch_embed" in n}
    for stage, reach in zip(staged[1:], map_reach(net), strict=True):
        seen = seen | stage
        assert seen - {"net.head.norm.weight", "net.head.norm.bias"} == reach
    assert seen == set(names.values())


def test_drop_path_comes_with_the_name_unless_it_is_told() -> None:
    with torch.device("meta"):
        rates = [
            max(getattr(m, "drop_prob", 0.0) or 0.0 for m in backbone.build("hiera_tiny", **told).modules())
            for told in ({}, {"drop_path": 0.3}, {"drop_path": 0.0})
        ]
    assert rates == pytest.approx([ROWS["hiera_tiny"].drop_path, 0.3, 0.0])


def test_positions_may_be_made_for_another_size() -> None:
    with torch.device("meta"):
        assert backbone.build("hiera_tiny", img_size=(96, 160)).net.pos_embed.shape == (1, 24 * 40, 96)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="units of 32 pixels do not divide an image of 100x160; take --size 96 160"):
        backbone.build("hiera_tiny", img_size=(100, 160))


def test_images_that_units_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="units of 32 pixels do not divide an image of 90x160; take --size 96 160"):
        small_hiera().forward_features(torch.zeros(1, 3, 90, 160))


def test_a_backbone_without_units_says_so(tiny_backbone: type) -> None:
    assert has_units(small_hiera()) and not has_units(tiny_backbone())
    with pytest.raises(UsageError, match="mask units of a Hiera; use one such as hiera_abswin_base"):
        hiera_of(tiny_backbone())


def test_published_weights_that_nobody_publishes_are_refused() -> None:
    with pytest.raises(WeightsError, match="timm has no published weights for a Hiera with window positions"):
        backbone.build("hiera_abswin_base", pretrained=True)
