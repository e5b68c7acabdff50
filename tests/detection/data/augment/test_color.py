"""Colors: the table equals the arithmetic, and changes are as frequent as said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from detection.data.augment import color as C


def gradient() -> Tensor:
    down, across = np.meshgrid(np.linspace(0, 255, 40), np.linspace(0, 255, 40))
    return torch.from_numpy(np.stack((down, across, (down + across) / 2)).astype(np.uint8))


@pytest.mark.parametrize("level", [3, 4, 6])
def test_colors_begin_at_level_4(level: int) -> None:
    image = torch.full((3, 32, 32), 90, dtype=torch.uint8)
    image[0] = 180
    changed = sum(not torch.equal(C.recolor(image, level, np.random.default_rng(k)), image) for k in range(30))
    assert (changed == 0) == (level == 3)
    gray = sum(bool((C.recolor(image, level, np.random.default_rng(k)).float().std(0) < 1).all()) for k in range(30))
    assert (gray > 0) == (level == 6)


def test_a_color_table_equals_the_color_arithmetic_to_a_level_or_so() -> None:
    image = gradient()
    assert torch.equal(C.by_table(image, lambda colors: colors), image)
    by_hand = F.adjust_hue(F.adjust_saturation(image, 1.2), 0.03).int()
    by_table = C.by_table(image, lambda c: F.adjust_hue(F.adjust_saturation(c, 1.2), 0.03)).int()
    assert (by_hand - by_table).abs().float().mean() < 2


def test_a_share_of_0_leaves_the_colors_and_a_share_of_1_changes_them() -> None:
    image = gradient()
    for key in range(10):
        assert torch.equal(C.distort_colors(image, np.random.default_rng(key), share=0.0), image)
        assert not torch.equal(C.distort_colors(image, np.random.default_rng(key)), image)


def test_half_of_ssds_images_swap_their_channels() -> None:
    image = torch.zeros((3, 8, 8), dtype=torch.uint8)
    image[0], image[1] = 220, 90  # red, then green, far enough apart for everything but another order
    leads = [C.distort_colors(image, np.random.default_rng(k), share=0.5).float().mean((1, 2)) for k in range(300)]
    swapped = sum(lead.argsort(descending=True).tolist() != [0, 1, 2] for lead in leads)
    assert 0.3 < swapped / 300 < 0.55  # one of six orders is the old one
