"""Deformable attention is transformers', value and gradients, on a processor as on the way a GPU takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrMultiscaleDeformableAttention as Reference,
)
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention as Core

from detection.parts.fixed import fixed_shapes
from detection.parts.query import bilinear
from detection.parts.query.deform import DeformableAttention, Shapes, around, deformable_attention, in_maps, in_rows

Inputs = tuple[Tensor, Tensor, Tensor]
SHAPES = [(6, 9), (3, 5), (2, 2), (1, 1)]
ODD_SHAPES = {"pyramid": SHAPES, "lines": [(1, 7), (5, 1)], "one pixel": [(1, 1)], "grows": [(2, 2), (9, 8)]}
ways = pytest.mark.parametrize("way", [in_rows, in_maps])


def looks(shapes: Shapes, *, spread: float = 1.0, queries: int = 11, dtype: torch.dtype = torch.float32) -> Inputs:
    """Values, places around and in the image, weights: two images, three heads of four channels, two points."""
    count = sum(h * w for h, w in shapes)
    value = torch.randn(2, count, 3, 4, dtype=dtype)
    places = 0.5 + spread * (torch.rand(2, queries, 3, len(shapes), 2, 2, dtype=dtype) - 0.5)
    weights = torch.rand(2, queries, 3, len(shapes), 2, dtype=dtype)
    return value.requires_grad_(), places.requires_grad_(), weights.requires_grad_()


def by_reference(value: Tensor, places: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    tensor = torch.tensor(shapes)
    return Core()(value, tensor, shapes, tensor[:, 0], places, weights, 64)


def gradients(result: Tensor, inputs: Inputs, towards: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((result * towards).sum(), inputs))


@ways
@pytest.mark.parametrize("shapes", ODD_SHAPES.values(), ids=ODD_SHAPES)
@pytest.mark.parametrize("spread", [1.0, 3.0], ids=["inside", "mostly outside"])
def test_sums_and_all_three_gradients_are_transformers(
    way: Callable[..., Tensor], shapes: Shapes, spread: float
) -> None:
    inputs = looks(shapes, spread=spread)
    ours, theirs = way(*inputs, shapes), by_reference(*inputs, shapes)
    assert ours.shape == (2, 11, 12)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    towards = torch.randn_like(ours)
    wanted = gradients(theirs, inputs, towards)
    assert all(gradient.abs().max() > 0.1 for gradient in wanted[::2])
    for one, other in zip(gradients(ours, inputs, towards), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@ways
def test_looks_exactly_at_pixels_have_the_same_gradients_too(way: Callable[..., Tensor]) -> None:
    """As every look of an untrained encoder is; sides are powers of two, so that no rounding moves a look away."""
    shapes = [(4, 8), (2, 2)]
    value, _, weights = looks(shapes, queries=40)
    pixels = torch.randint(-2, 9, (2, 40, 3, 2, 2, 2)) + 0.5
    places = (pixels / torch.tensor([(w, h) for h, w in shapes])[:, None]).requires_grad_()
    inputs, towards = (value, places, weights), torch.randn(2, 40, 12)
    wanted = gradients(by_reference(*inputs, shapes), inputs, towards)
    for one, other in zip(gradients(way(*inputs, shapes), inputs, towards), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    inputs = looks([(3, 4), (1, 2)], spread=1.3, queries=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v, p, w: in_rows(v, p, w, [(3, 4), (1, 2)]), inputs, fast_mode=True)


def test_parts_of_the_queries_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = looks(SHAPES)
    towards = torch.randn(2, 11, 12)
    whole = in_rows(*inputs, SHAPES)
    wanted = gradients(whole, inputs, towards)
    monkeypatch.setattr(bilinear, "TOGETHER", 4)
    parts = in_rows(*inputs, SHAPES)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)  # sums of other lengths round differently
    for one, other in zip(gradients(parts, inputs, towards), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_place_outside_the_maps_says_nothing_and_hears_nothing() -> None:
    value, _, weights = looks(SHAPES)
    for far in (-0.6, 1.6, 1e8, -1e30, float("inf")):
        places = torch.full((2, 11, 3, 4, 2, 2), far, requires_grad=True)
        result = deformable_attention(value, SHAPES, places, weights)
        assert torch.equal(result, torch.zeros(2, 11, 12))
        for gradient in gradients(result, (value, places, weights), torch.ones(2, 11, 12)):
            assert torch.equal(gradient, torch.zeros_like(gradient))


def test_nan_places_give_nan_where_they_are_and_no_crash() -> None:
    value, places, weights = looks(SHAPES)
    with torch.no_grad():
        places[0, 3] = float("nan")
    result = deformable_attention(value, SHAPES, places, weights)
    assert result[0, 3].isnan().all() and result[0, 4:].isfinite().all() and result[1].isfinite().all()
    result.sum().backward()


def test_equal_inputs_give_equal_bits_with_any_number_of_threads() -> None:
    shapes = [(30, 40), (15, 20)]
    inputs = looks(shapes, queries=700)
    towards = torch.randn(2, 700, 12)
    found = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        result = in_rows(*inputs, shapes)
        found.append([result, *gradients(result, inputs, towards)])
    for again in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], again, strict=True))


def test_half_precision_answers_in_its_own_type_but_looks_exactly() -> None:
    value, places, weights = looks(SHAPES)
    half = deformable_attention(value.bfloat16(), SHAPES, places, weights)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, deformable_attention(value.bfloat16().float(), SHAPES, places, weights).bfloat16())


def test_a_step_under_autocast_is_the_step_without_it_but_for_rounding() -> None:
    attention, _ = pair()
    query, memory, references = torch.randn(2, 7, 32), torch.randn(2, 75, 32), torch.rand(2, 7, 4, 2)
    found = []
    for enabled in (False, True):
        attention.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = attention(query, references, memory, SHAPES)
        result.float().square().sum().backward()
        found.append(torch.cat([weight.grad.flatten() for weight in attention.parameters() if weight.grad is not None]))
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm()


# --- the module -----------------------------------------------------------------------------------


def pair(levels: int = 4) -> tuple[DeformableAttention, Reference]:
    """Ours and transformers', with the same random weights."""
    config = DeformableDetrConfig(d_model=32, num_feature_levels=levels, disable_custom_kernels=True)
    ours, theirs = DeformableAttention(32, heads=4, levels=levels, points=3), Reference(config, 4, 3)
    for weight in ours.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("sides", [2, 4], ids=["points", "boxes"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_module_is_transformers(sides: int, masked: bool) -> None:
    ours, theirs = pair()
    count = sum(h * w for h, w in SHAPES)
    query, memory = torch.randn(2, 7, 32), torch.randn(2, count, 32)
    references = torch.rand(2, 7, 4, sides)
    padding = torch.rand(2, count) < 0.3 if masked else None
    wanted, _ = theirs(
        query,
        attention_mask=None if padding is None else ~padding,
        encoder_hidden_states=memory,
        reference_points=references,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=SHAPES,
    )
    found = ours(query, references, memory, SHAPES, padding)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert masked == (not torch.allclose(found, ours(query, references, memory, SHAPES), atol=1e-4))


def test_untrained_heads_look_eight_ways_ever_farther_and_weigh_all_alike() -> None:
    attention = DeformableAttention(16)
    offsets = attention.sampling_offsets.bias.view(8, 4, 4, 2)
    ways = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, way in enumerate(ways):
        for point in range(4):
            wanted = torch.tensor(way, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(offsets[head, :, point], wanted.expand(4, 2), atol=1e-5, rtol=0)
    assert not attention.sampling_offsets.weight.any() and not attention.attention_weights.weight.any()
    assert attention.sampling_offsets.lr_scale == 0.1
    # a constant memory is what every query sees, wherever it looks inside
    memory, center = torch.ones(1, 400, 16), torch.full((1, 1, 4, 2), 0.5)
    seen = attention(torch.randn(1, 1, 16), center, memory, [(10, 10)] * 4)
    torch.testing.assert_close(seen[0, 0], attention.output_proj(attention.value_proj(memory[0, 0])))


def test_attention_learns_where_to_look() -> None:
    """Every parameter gets a gradient, and following it lowers the loss."""
    attention = DeformableAttention(16, heads=2, levels=2, points=2)
    memory, query = torch.randn(2, 20, 16), torch.randn(2, 5, 16)
    references, wanted = torch.rand(2, 5, 2, 2), torch.randn(2, 5, 16)
    optimizer = torch.optim.Adam(attention.parameters(), 0.02)
    losses = []
    for _ in range(30):
        loss = (attention(query, references, memory, [(4, 4), (2, 2)]) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in attention.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("coordinates", [2, 4])
def test_the_form_for_other_runtimes_is_the_same_function(coordinates: int) -> None:
    shapes, heads = [(6, 9), (3, 5), (1, 1)], 2
    cells = sum(h * w for h, w in shapes)
    attend = DeformableAttention(8, heads=heads, levels=3, points=4).double()
    with torch.no_grad():
        for value in attend.parameters():
            value += 0.3 * torch.randn_like(value)
    query, memory = torch.randn(2, 7, 8).double(), torch.randn(2, cells, 8).double()
    places = torch.rand(2, 7, 3, coordinates).double()
    own = attend(query, places, memory, shapes)
    with fixed_shapes():
        fixed = attend(query, places, memory, shapes)
    assert torch.allclose(own, fixed, atol=1e-9)
    offsets = torch.randn(2, 7, heads, 3, 4, 2)
    looks = around(places.float(), offsets, shapes)
    with fixed_shapes():
        assert torch.equal(around(places.float(), offsets, shapes), looks)
