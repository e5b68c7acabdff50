"""Tokens of a ViT: timm's own features, from all patches or from the kept ones alone; positions by the formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from backbones import backbone
from backbones.base import Backbone
from backbones.timm_zoo import Row, TimmBackbone
from backbones.tokens import (
    fix_sincos_positions,
    forward_tokens,
    freeze_beyond_tokens,
    has_tokens,
    sincos_positions,
    take_tokens,
    token_grid,
    vit_of,
)
from shared.errors import UsageError

# a class token; registers and a norm behind the pooling; registers and attention pooling; class and distillation token
VITS = ["test_vit", "test_vit2", "test_vit3", "deit_tiny_distilled_patch16_224"]


def build(name: str) -> Backbone:
    torch.manual_seed(0)
    options = {"depth": 2} if name.startswith("deit") else {}
    return TimmBackbone(Row(name, options)).eval()


def keep(count: int, patches: int, kept: int) -> Tensor:
    return torch.stack([torch.randperm(patches)[:kept] for _ in range(count)])


# --- forward --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VITS)
@pytest.mark.parametrize("size", [(224, 224), (64, 96)])
def test_tokens_of_all_patches_are_the_features_of_timm(name: str, size: tuple[int, int]) -> None:
    net, x = build(name), torch.randn(2, 3, *size)
    vit = vit_of(net)
    expected = vit.forward_features(x)[:, vit.num_prefix_tokens :]
    assert expected.shape[1] == math.prod(token_grid(net, size))
    torch.testing.assert_close(forward_tokens(net, x), expected)


@pytest.mark.parametrize("name", VITS)
def test_kept_tokens_are_the_blocks_run_on_the_gathered_tokens(name: str) -> None:
    net, x = build(name), torch.randn(3, 3, 64, 96)
    vit, chosen = vit_of(net), keep(3, 24, 7)
    embedded = vit._pos_embed(vit.patch_embed(x))
    prefix = vit.num_prefix_tokens
    for image, indices, tokens in zip(embedded, chosen, forward_tokens(net, x, chosen), strict=True):
        rows = [*range(prefix), *(prefix + i for i in indices.tolist())]
        y = vit.norm_pre(image[rows][None])
        for block in vit.blocks:
            y = block(y)
        torch.testing.assert_close(tokens, vit.norm(y)[0, prefix:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VITS)
def test_patches_that_are_not_kept_are_never_seen(name: str) -> None:
    net, x, chosen = build(name), torch.randn(1, 3, 64, 64), torch.tensor([[0, 5, 10]])
    x.requires_grad_()
    forward_tokens(net, x, chosen).square().sum().backward()
    assert x.grad is not None
    moved = x.grad.abs().sum(1).unflatten(2, (4, 16)).unflatten(1, (4, 16)).sum((2, 4)).flatten()
    assert set(moved.nonzero().flatten().tolist()) == {0, 5, 10}


def test_keeping_every_patch_changes_nothing_but_the_order() -> None:
    net, x, order = build("test_vit"), torch.randn(2, 3, 64, 64), keep(2, 16, 16)
    torch.testing.assert_close(
        forward_tokens(net, x, order), take_tokens(forward_tokens(net, x), order), rtol=1e-4, atol=1e-5
    )


def test_a_net_of_one_fixed_size_has_tokens_too() -> None:
    import timm

    net, x = build("test_vit"), torch.randn(2, 3, 64, 64)
    net.net = timm.create_model("test_vit", img_size=64, dynamic_img_size=False, num_classes=0).eval()
    expected = vit_of(net).forward_features(x)[:, 1:]
    torch.testing.assert_close(forward_tokens(net, x), expected)
    assert forward_tokens(net, x, keep(2, 16, 4)).shape == (2, 4, 64)


@given(count=st.integers(1, 3), patches=st.integers(1, 6), kept=st.integers(1, 8), seed=st.integers(0, 2**31))
def test_taking_tokens_is_indexing_image_by_image(count: int, patches: int, kept: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, indices = torch.randn(count, patches, 5), torch.randint(patches, (count, kept))
    expected = torch.stack([image[chosen] for image, chosen in zip(x, indices, strict=True)])
    assert torch.equal(take_tokens(x, indices), expected)


# --- what has tokens ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "vit_tiny_r_s16_p8_224", "vit_pe_core_tiny_patch16_384"]
)
def test_other_nets_have_no_tokens_and_say_so(name: str) -> None:
    with torch.device("meta"):
        net = backbone.build(name)
    assert not has_tokens(net)
    for ask in (lambda: vit_of(net), lambda: token_grid(net, (224, 224)), lambda: freeze_beyond_tokens(net)):
        with pytest.raises(UsageError, match=r"use one such as vit_reg4_m16_rms_avg or vit_base_patch16_224"):
            ask()


@pytest.mark.parametrize(
    ("size", "way_out"), [((50, 64), "--size 48 64"), ((64, 90), "--size 64 96"), ((7, 7), "16 16")]
)
def test_a_patch_that_does_not_divide_the_image_is_refused_with_a_size_that_works(
    size: tuple[int, int], way_out: str
) -> None:
    with pytest.raises(UsageError, match=way_out):
        token_grid(build("test_vit"), size)
    assert token_grid(build("test_vit"), (48, 64)) == (3, 4)


@pytest.mark.parametrize("name", VITS)
def test_exactly_the_parameters_that_no_token_depends_on_stand_still(name: str) -> None:
    net = build(name)
    forward_tokens(net, torch.randn(1, 3, 32, 32)).square().sum().backward()
    without = {n.removeprefix("net.") for n, p in net.named_parameters() if p.grad is None}
    assert set(freeze_beyond_tokens(net)) == without
    assert {n.removeprefix("net.") for n, p in net.named_parameters() if not p.requires_grad} == without
    assert bool(without) == (name in ("test_vit2", "test_vit3"))


# --- positions ------------------------------------------------------------------------------


@given(rows=st.integers(1, 6), columns=st.integers(1, 6), quarter=st.integers(1, 6))
def test_positions_are_the_formula(rows: int, columns: int, quarter: int) -> None:
    positions = sincos_positions(rows, columns, 4 * quarter)
    for row in range(rows):
        for column in range(columns):
            waves = [10000 ** (-i / quarter) for i in range(quarter)]
            expected = [f(place * wave) for place in (column, row) for f in (math.sin, math.cos) for wave in waves]
            torch.testing.assert_close(positions[row * columns + column], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_width_that_four_does_not_divide_has_no_such_positions() -> None:
    with pytest.raises(UsageError, match="sine-cosine positions need a width divisible by 4, not 6"):
        sincos_positions(2, 2, 6)


@pytest.mark.parametrize("name", VITS)
def test_fixed_positions_stand_in_the_net_and_learn_nothing(name: str) -> None:
    net = build(name)
    fix_sincos_positions(net)
    vit: Any = vit_of(net)
    rows, columns = vit.patch_embed.grid_size
    assert torch.equal(vit.pos_embed[0, -rows * columns :], sincos_positions(rows, columns, vit.embed_dim))
    assert not vit.pos_embed.requires_grad
    assert not vit.pos_embed[0, : -rows * columns].any()


def test_a_vit_without_positions_stays_as_it_is() -> None:
    net = TimmBackbone(Row("test_vit", {"pos_embed": "none"}))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fix_sincos_positions(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert forward_tokens(net, torch.randn(1, 3, 32, 32), torch.tensor([[2]])).shape == (1, 1, 64)
