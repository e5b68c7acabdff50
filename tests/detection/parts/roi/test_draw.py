"""What is drawn is what torchvision's sampler draws from the same seed, for all images together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from detection.parts.roi.draw import draw

image = st.lists(st.sampled_from([-1, 0, 0, 0, 1]), min_size=12, max_size=12)


@given(
    images=st.lists(image, min_size=1, max_size=4),
    count=st.integers(1, 14),
    share=st.sampled_from([0.25, 0.5]),
    seed=st.integers(0, 9),
)
def test_draws_are_those_of_torchvision(images: list, count: int, share: float, seed: int) -> None:
    labels = torch.tensor(images)
    torch.manual_seed(seed)
    drawn = draw(labels >= 1, labels == 0, count, share)
    after = torch.rand(1)
    torch.manual_seed(seed)
    held, rest = BalancedPositiveNegativeSampler(count, share)(list(labels))
    assert torch.equal(after, torch.rand(1)), "as many random numbers were drawn"
    assert torch.equal(drawn.places, (torch.cat(held) | torch.cat(rest)).nonzero()[:, 0])
    assert torch.equal(drawn.places[drawn.positive], torch.cat(held).nonzero()[:, 0])
    assert drawn.positives == [int(own.sum()) for own in held]


@pytest.mark.parametrize("label", [0, 1, -1])
def test_images_of_one_kind_are_ordinary(label: int) -> None:
    labels = torch.full((2, 5), label)
    drawn = draw(labels >= 1, labels == 0, 4, 0.5)
    assert len(drawn.places) == {0: 8, 1: 4, -1: 0}[label]
    assert drawn.positives == [2 if label == 1 else 0] * 2
