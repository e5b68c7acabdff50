"""Places: how many are seen, which, what pixels they hold, how far a prediction is from them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pretrain.masked.places import count_seen, patches_of, pixel_loss, split_places, taken
from shared.errors import UsageError


@pytest.mark.parametrize(
    ("places", "ratio", "seen"),
    [(196, 0.75, 49), (49, 0.6, 19), (36, 0.6, 14), (100, 0.55, 45), (4, 0.75, 1), (2, 0.5, 1), (10, 0.7, 3)],
)
def test_counts_are_those_of_the_papers(places: int, ratio: float, seen: int) -> None:
    assert count_seen(places, ratio) == seen


@given(st.integers(2, 400), st.floats(0.01, 0.99))
def test_something_is_seen_and_something_hidden_or_it_is_refused(places: int, ratio: float) -> None:
    try:
        seen = count_seen(places, ratio)
    except UsageError as refusal:
        assert places * (1 - ratio) < 1 and "nothing to see; take one between 0 and 1, or larger images" in str(refusal)
    else:
        assert 0 < seen < places and abs((places - seen) - places * ratio) < 1 + 1e-6


@pytest.mark.parametrize(
    ("ratio", "left"), [(0.0, "nothing to predict"), (1.0, "nothing to see"), (0.9, "nothing to see")]
)
def test_a_ratio_that_leaves_nothing_is_refused(ratio: float, left: str) -> None:
    with pytest.raises(UsageError, match=f"mask_ratio {ratio} of 4 places leaves {left}; take one between 0 and 1"):
        count_seen(4, ratio)


def test_every_place_is_either_seen_or_hidden_and_the_least_noise_is_seen() -> None:
    noise = torch.rand(3, 10)
    seen, hidden = split_places(noise, 4)
    assert seen.shape == (3, 4) and hidden.shape == (3, 6)
    assert torch.equal(torch.cat((seen, hidden), 1).sort(1).values, torch.arange(10).expand(3, -1))
    assert (noise.gather(1, seen).amax(1) <= noise.gather(1, hidden).amin(1)).all()


def test_pixels_of_a_patch_lie_as_a_convolution_weighs_them() -> None:
    x, conv = torch.randn(2, 3, 24, 40), torch.nn.Conv2d(3, 5, (6, 8), stride=(6, 8))
    patches = patches_of(x, 6, 8)
    assert patches.shape == (2, 20, 144)
    products = F.linear(patches, conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(products, conv(x).flatten(2).transpose(1, 2))
    last_of_first_row = x[1, :, :6, 32:40].flatten()
    assert torch.equal(patches[1, 4], last_of_first_row)


def test_taken_rows_are_those_asked_for_and_get_their_gradient() -> None:
    x, places = torch.randn(2, 5, 3, requires_grad=True), torch.tensor([[4, 0], [1, 1]])
    rows = taken(x, places)
    assert torch.equal(rows, torch.stack([x[i, places[i]] for i in range(2)]))
    rows.sum().backward()
    assert x.grad is not None and x.grad[:, :, 0].tolist() == [[1, 0, 0, 0, 1], [0, 2, 0, 0, 0]]


def test_loss_is_the_mean_squared_distance_to_pixels_less_their_mean_over_their_deviation() -> None:
    predicted, pixels = torch.randn(2, 3, 12), 5 * torch.randn(2, 3, 12) + 7
    raw = sum((p - t) ** 2 for p, t in zip(predicted.flatten(), pixels.flatten(), strict=True)) / 72
    torch.testing.assert_close(pixel_loss(predicted, pixels, normalize=False), torch.as_tensor(raw))
    white = torch.stack([(row - row.mean()) / row.std() for row in pixels.flatten(0, 1)]).view_as(pixels)
    torch.testing.assert_close(
        pixel_loss(predicted, pixels, normalize=True), (predicted - white).square().mean(), rtol=1e-4, atol=0
    )
    assert pixel_loss(predicted, torch.ones_like(pixels), normalize=True).isfinite(), "an even patch has no deviation"
