"""Gaussians of attention: hand tables of a 3x3 map, the formula spelled out, and how little of it is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from detection.parts.query.gaussian import LEARNED, Gaussian
from shared.errors import UsageError

WIDTH, HEADS = 8, 2
# D of the nine places around a center in the second row and the first column: dx2 is 0, 1, 4 and dy2 is 1, 0, 1
HAND = {
    "type1": [[1, 2, 5], [0, 1, 4], [1, 2, 5]],
    "type2": [[2, 4, 10], [0, 2, 8], [2, 4, 10]],  # s = 2
    "type3": [[3, 5, 11], [0, 2, 8], [3, 5, 11]],  # sx = 2, sy = 3
    "type4": [[3, 10, 31], [0, 2, 8], [3, 10, 31]],  # and sxy = 5
}
# with scales of 1 around a center in the last row, halfway between the first columns: 1/4, 1/4, 9/4 and 4, 1, 0
OTHER = [[4.25, 4.25, 6.25], [1.25, 1.25, 3.25], [0.25, 0.25, 2.25]]
OTHER_TYPE4 = [[5.25, 5.25, 15.25], [1.5, 1.5, 5.5], [0.25, 0.25, 2.25]]
each_type = pytest.mark.parametrize("kind", LEARNED)


def loud(gaussian: Gaussian) -> Gaussian:
    with torch.no_grad():
        for parameter in gaussian.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return gaussian


def given(batch: int = 2, queries: int = 5, shape: tuple[int, int] = (4, 6), smooth: float = 8.0) -> dict[str, Any]:
    return {
        "queries": torch.randn(batch, queries, WIDTH),
        "references": torch.rand(batch, queries, 2) * torch.tensor(shape[::-1]),
        "strength": torch.full((HEADS, queries, 1), 1 / smooth),
        "shape": shape,
        "hidden": None,
    }


def spelled_out(gaussian: Gaussian, kind: str, told: dict[str, Any]) -> Tensor:
    """-strength |D| with D place by place, as the paper's equations stand: (B, H, Q, S)"""
    rows, columns = told["shape"]
    z = gaussian.norm(told["queries"])
    centers = told["references"][:, :, None] + gaussian.move(z).unflatten(-1, (HEADS, 2))  # (B, Q, H, 2)
    grid = torch.tensor([(x, y) for y in range(rows) for x in range(columns)], dtype=torch.float32)
    dx2, dy2 = (centers[:, :, :, None] - grid).square().unbind(-1)  # (B, Q, H, S)
    scales = [torch.ones(())] if gaussian.scale is None else [
        s[..., None] for s in gaussian.scale(z).unflatten(-1, (HEADS, LEARNED[kind])).square().unbind(-1)
    ]  # fmt: skip
    if kind in ("type1", "type2"):
        distance = scales[0] * (dx2 + dy2)
    else:
        distance = scales[0] * dx2 + scales[1] * dy2
        if kind == "type4":
            distance = distance + scales[2] * dx2 * dy2
    return -told["strength"] * distance.abs().transpose(1, 2)


@each_type
def test_costs_are_those_of_the_hand_table(kind: str) -> None:
    """One query, whose heads have centers and scales of their own."""
    gaussian = Gaussian(WIDTH, HEADS, kind)
    roots = torch.tensor({"type1": [], "type2": [2.0], "type3": [2.0, 3.0], "type4": [2.0, 3.0, 5.0]}[kind]).sqrt()
    with torch.no_grad():
        gaussian.move.weight.zero_()
        gaussian.move.bias.copy_(torch.tensor([-1.0, 0.0, -0.5, 1.0]))  # x and y of the first head, then of the second
        if gaussian.scale is not None:
            gaussian.scale.bias.copy_(torch.cat((-roots, torch.ones_like(roots))))
    told = given(batch=1, queries=1, shape=(3, 3)) | {"references": torch.ones(1, 1, 2)}
    found = gaussian(**told).view(HEADS, 3, 3)
    torch.testing.assert_close(found[0], torch.tensor(HAND[kind]) / -8.0)
    torch.testing.assert_close(found[1], torch.tensor(OTHER_TYPE4 if kind == "type4" else OTHER) / -8.0)


@each_type
def test_bias_and_its_slopes_are_those_of_the_equations(kind: str) -> None:
    gaussian, told = loud(Gaussian(WIDTH, HEADS, kind)), given()
    told["references"].requires_grad_()
    of = [told["references"], *gaussian.parameters()]
    found, expected = gaussian(**told), spelled_out(gaussian, kind, told)
    assert found.shape == (2, HEADS, 5, 24)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    wanted = torch.randn_like(found)
    slopes = [torch.autograd.grad((out * wanted).sum(), of) for out in (found, expected)]
    for ours, theirs in zip(*slopes, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_types_one_to_three_are_one_at_the_start_and_type_four_adds_the_product() -> None:
    told, plain = given(), Gaussian(WIDTH, HEADS, "type1")
    found = {}
    for kind in LEARNED:
        gaussian = Gaussian(WIDTH, HEADS, kind)
        gaussian.load_state_dict(plain.state_dict(), strict=False)
        found[kind] = gaussian(**told)
    torch.testing.assert_close(found["type2"], found["type1"])
    torch.testing.assert_close(found["type3"], found["type1"])
    assert (found["type4"] <= found["type1"] + 1e-5).all() and not torch.allclose(found["type4"], found["type1"])


def test_more_smoothness_is_less_of_the_same() -> None:
    gaussian = loud(Gaussian(WIDTH, HEADS, "type3"))
    told = given(smooth=4.0)
    torch.testing.assert_close(gaussian(**told), 4 * gaussian(**told | {"strength": told["strength"] / 4}))


def test_padding_is_hidden_and_everything_else_stays() -> None:
    gaussian, told = loud(Gaussian(WIDTH, HEADS, "type4")), given()
    padding = torch.zeros(2, 24, dtype=torch.bool)
    padding[1, [5, 11, 17, 18, 19, 20, 21, 22, 23]] = True
    hidden = torch.zeros(2, 24).masked_fill(padding, -torch.inf)[:, None, None]
    plain, found = gaussian(**told), gaussian(**told | {"hidden": hidden})
    assert torch.equal(found, plain.masked_fill(padding[:, None, None], -torch.inf))
    found.masked_fill(padding[:, None, None], 0).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in gaussian.parameters())  # type: ignore[union-attr]


@each_type
def test_nothing_of_the_size_of_the_bias_is_kept_for_the_way_back(kind: str) -> None:
    gaussian, told = Gaussian(WIDTH, HEADS, kind), given(queries=20, shape=(20, 30))
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = gaussian(**told)
    assert kept and sum(kept) < found.numel() / 2


@each_type
def test_under_mixed_precision_the_bias_is_as_precise_as_products_are_and_near_the_exact_one(kind: str) -> None:
    gaussian, told = loud(Gaussian(WIDTH, HEADS, kind)), given()
    exact = gaussian(**told)
    with torch.autocast("cpu", torch.bfloat16):
        found = gaussian(**told)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.1)


def test_unknown_type_is_refused() -> None:
    with pytest.raises(UsageError, match="dynamic_scale is 'type5'; it can be type1, type2, type3, type4"):
        Gaussian(WIDTH, HEADS, "type5")
