"""Pixel statistics have names, and the buffer that applies them does what torchvision's Normalize does."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2.functional import normalize, to_dtype

from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS, Normalize, pixel_stats


@pytest.mark.parametrize("name", PIXEL_STATS)
def test_normalising_is_that_of_torchvision(name: str) -> None:
    pixels = torch.randint(256, (2, 3, 5, 7), dtype=torch.uint8)
    stats = pixel_stats(name)
    expected = normalize(to_dtype(pixels, torch.float32, scale=True), list(stats.mean), list(stats.std))
    normalized = Normalize(stats)(pixels)
    assert normalized.dtype == torch.float32
    torch.testing.assert_close(normalized, expected, rtol=1e-5, atol=1e-5)


def test_pixels_handed_in_stay_as_they_are() -> None:
    for pixels in (torch.full((3, 2, 2), 128, dtype=torch.uint8), torch.full((3, 2, 2), 128.0)):
        Normalize(PIXEL_STATS["imagenet"])(pixels)
        assert (pixels == 128).all()


def test_statistics_are_saved_with_the_network() -> None:
    assert set(Normalize(PIXEL_STATS["clip"]).state_dict()) == {"mean", "std"}


def test_unknown_statistics_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no pixel statistics 'imagnet', did you mean 'imagenet'"):
        pixel_stats("imagnet")
    assert pixel_stats("none") == pixel_stats("centered")
