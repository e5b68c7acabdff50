"""The transformer: attention is PyTorch's, layers are PyTorch's with positions in their queries and keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detection.parts.query.transformer import MLP, Attention, DecoderLayer, Encoder, EncoderLayer, hide
from shared.errors import UsageError

WIDTH, HEADS, HIDDEN = 16, 4, 24


def loud(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    shapes = {"query": (2, 5, WIDTH), "keys": (2, 7, WIDTH), "values": (2, 7, WIDTH)}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def reference(attention: Attention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    theirs.load_state_dict(attention.state_dict())
    return theirs


def test_attention_is_pytorchs_with_the_same_state(tensors: dict[str, Tensor]) -> None:
    attention = loud(Attention(WIDTH, HEADS))
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    bias = torch.randn(2, HEADS, 5, 7)
    expected, _ = reference(attention)(  # type: ignore[arg-type]
        **{"query": tensors["query"], "key": tensors["keys"], "value": tensors["values"]},
        attn_mask=(bias + hide(padding)).flatten(0, 1),  # type: ignore[operator]
    )
    found = attention(**tensors, bias=bias + hide(padding))  # type: ignore[operator]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_slope_of_a_learnt_bias_is_pytorchs(tensors: dict[str, Tensor]) -> None:
    attention, wanted = loud(Attention(WIDTH, HEADS)), torch.randn(2, 5, WIDTH)
    ours, theirs = (torch.arange(280.0).sin().view(2, HEADS, 5, 7).requires_grad_() for _ in range(2))
    given = {"query": tensors["query"], "key": tensors["keys"], "value": tensors["values"]}
    expected, _ = reference(attention)(**given, attn_mask=theirs.flatten(0, 1))  # type: ignore[arg-type]
    found = attention(**tensors, bias=ours)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for out in (found, expected):
        (out * wanted).sum().backward()
    assert theirs.grad is not None and theirs.grad.abs().max() > 1e-3
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_encoder_is_its_layers_one_after_the_other(tensors: dict[str, Tensor]) -> None:
    encoder, x = loud(Encoder(2, WIDTH, HEADS, HIDDEN, 0.0)), tensors["keys"]
    bias = hide(torch.tensor([[False] * 4 + [True] * 3]))
    first, second = encoder.children()
    expected = second(first(x, tensors["values"], bias), tensors["values"], bias)
    assert torch.equal(encoder(x, tensors["values"], bias), expected)


def test_attention_of_things_to_themselves_is_the_same_as_to_equal_ones(tensors: dict[str, Tensor]) -> None:
    attention, x, values = loud(Attention(WIDTH, HEADS)), tensors["keys"], tensors["values"]
    torch.testing.assert_close(attention(x, x, values), attention(x, x.clone(), values))


def test_what_is_hidden_does_not_matter(tensors: dict[str, Tensor]) -> None:
    attention = loud(Attention(WIDTH, HEADS))
    bias = hide(torch.tensor([[False] * 4 + [True] * 3]))
    found = attention(**tensors, bias=bias)
    for name in ("keys", "values"):
        tensors[name][:, 4:] = 1e3
    torch.testing.assert_close(attention(**tensors, bias=bias), found)
    assert not torch.allclose(attention(**tensors), found)
    assert hide(None) is None


def test_encoder_layer_without_positions_is_pytorchs(tensors: dict[str, Tensor]) -> None:
    for pre_norm in (False, True):
        ours = loud(EncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, pre_norm=pre_norm))
        theirs = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.0, batch_first=True, norm_first=pre_norm)
        theirs.load_state_dict(renamed(ours))
        x = tensors["keys"]
        torch.testing.assert_close(ours(x, torch.zeros_like(x)), theirs(x), rtol=1e-5, atol=1e-5)


def test_decoder_layer_without_positions_is_pytorchs(tensors: dict[str, Tensor]) -> None:
    for pre_norm in (False, True):
        ours = loud(DecoderLayer(WIDTH, HEADS, HIDDEN, 0.0, pre_norm=pre_norm))
        theirs = nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, 0.0, batch_first=True, norm_first=pre_norm)
        theirs.load_state_dict(renamed(ours))
        x, memory = tensors["query"], tensors["keys"]
        found = ours(x, torch.zeros_like(x), memory, memory)
        torch.testing.assert_close(found, theirs(x, memory), rtol=1e-5, atol=1e-5)


def renamed(layer: nn.Module) -> dict[str, Tensor]:
    """Our state as PyTorch calls it."""
    attentions = {"attention": "self_attn", "self_attention": "self_attn", "cross_attention": "multihead_attn"}
    norms = {"around_attention": "norm1", "around_self": "norm1", "around_cross": "norm2"}
    norms["around_feed"] = "norm2" if hasattr(layer, "attention") else "norm3"
    feeds = {"feed.0": "linear1", "feed.3": "linear2"}
    names = attentions | {f"{ours}.norm": theirs for ours, theirs in norms.items()} | feeds
    state = {}
    for name, value in layer.state_dict().items():
        start = next(ours for ours in names if name.startswith(f"{ours}."))
        state[names[start] + name.removeprefix(start)] = value
    return state


def test_positions_steer_who_looks_where_and_are_no_part_of_what_is_seen() -> None:
    """With one place to look at, what is seen is the same wherever that place is."""
    layer = loud(DecoderLayer(WIDTH, HEADS, HIDDEN, 0.0))
    x, memory = torch.randn(1, 1, WIDTH), torch.randn(1, 1, WIDTH)
    seen = [layer(x, at, memory + at, memory) for at in (torch.zeros(1, 1, WIDTH), torch.randn(1, 1, WIDTH))]
    torch.testing.assert_close(*seen)
    x, memory = torch.randn(1, 3, WIDTH), torch.randn(1, 4, WIDTH)
    seen = [layer(x, torch.zeros_like(x), keys, memory) for keys in (memory, memory + torch.randn_like(memory))]
    assert not torch.allclose(*seen)


def test_bias_per_head_and_query_decides_what_each_of_them_sees() -> None:
    """One that leaves every query and head a single place is that place's value."""
    layer = loud(DecoderLayer(WIDTH, HEADS, HIDDEN, 0.0))
    x, memory = torch.randn(1, 3, WIDTH), torch.randn(1, 4, WIDTH)
    only = torch.randint(4, (1, HEADS, 3, 1))
    bias = torch.full((1, HEADS, 3, 4), -torch.inf).scatter(-1, only, 0.0)
    attention = layer.cross_attention
    v = torch.nn.functional.linear(memory, attention.in_proj_weight[-WIDTH:], attention.in_proj_bias[-WIDTH:])
    by_head = v.unflatten(-1, (HEADS, -1))[0]
    expected = torch.stack([torch.cat([by_head[only[0, h, q, 0], h] for h in range(HEADS)]) for q in range(3)])
    torch.testing.assert_close(attention(x, memory, memory, bias)[0], attention.out_proj(expected))
    assert not torch.allclose(layer(x, x, memory, memory, bias), layer(x, x, memory, memory))


def test_dropout_is_for_training_alone(tensors: dict[str, Tensor]) -> None:
    layer, x = EncoderLayer(WIDTH, HEADS, HIDDEN, 0.5), tensors["keys"]
    assert not torch.equal(layer(x, x), layer(x, x))
    layer.eval()
    assert torch.equal(layer(x, x), layer(x, x))


def test_matrices_start_as_the_paper_draws_them() -> None:
    """Glorot's bound, with the three projections taken as one matrix."""
    layer = DecoderLayer(64, 8, 96, 0.0)
    for matrix in [p for p in layer.parameters() if p.dim() == 2]:
        bound = (6 / sum(matrix.shape)) ** 0.5
        assert 0.9 * bound < float(matrix.abs().max()) <= bound


def test_mlp_ends_where_it_is_told_to() -> None:
    mlp = MLP(WIDTH, 4, layers=3)
    assert [layer.out_features for layer in mlp if isinstance(layer, nn.Linear)] == [WIDTH, WIDTH, 4]
    assert (mlp(torch.randn(64, WIDTH)) < 0).any(), "the last has no ReLU behind it"


@pytest.mark.parametrize(("width", "heads"), [(30, 4), (18, 3)])
def test_width_that_does_not_suit_is_refused(width: int, heads: int) -> None:
    with pytest.raises(UsageError, match=f"width {width} does not fit {heads} heads; give a multiple of {heads} and"):
        Attention(width, heads)
