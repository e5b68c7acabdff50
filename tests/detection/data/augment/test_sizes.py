"""Sizes that keep the aspect ratio are those of the reference programs, on grids of sides from 32 to 2,000."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import RandomShortestSize

from detection.data.augment.sizes import RULES, fitted

LIMITS = [(800, 1333), (480, 1333), (320, 640), (608, 1024)]
SIDES = st.integers(32, 2000)
GRID = [(height, width) for height in range(32, 2001, 41) for width in range(32, 2001, 17)]
SHAPES = [(360, 640), (384, 640), (100, 298), *GRID]  # the first three tell the rules apart


class Decided(Exception):
    """Carries the size that an interpolation was asked for."""


@pytest.fixture
def torchvisions(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torchvision's resize up to the kernel, which would only cost time: (height, width), short, long -> size."""

    def stop(_: Any, size: list[int], *__: Any) -> None:
        raise Decided(tuple(size))

    monkeypatch.setattr(torch._C._nn, "upsample_bilinear2d", stop)
    pixel = torch.zeros(1, 1, 1)

    def size_of(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
        transform = GeneralizedRCNNTransform(short, long, [0.0], [1.0]).eval()
        try:
            transform.resize(pixel.expand(1, *size), None)
        except Decided as decided:
            return decided.args[0]
        raise AssertionError("torchvision did not interpolate")

    return size_of


def by_detr(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """The published rule of DETR's training and evaluation, with its two steps in exact arithmetic where it is exact.

    The short side becomes `short`; where the long side would then exceed `long`, the short side is what the ratio
    leaves of `long`, rounded half to even. The long side follows from that by the ratio, rounded down.
    """
    low, high = sorted(size)
    if high / low * short > long:
        short = round(long * low / high)
    if low == short:
        return size
    sides = {low: short, high: math.floor(short * high / low)} if low != high else {low: short}
    return sides[size[0]], sides[size[1]]


@pytest.mark.parametrize("limits", LIMITS)
def test_sizes_by_detrs_rule_are_those_of_its_authors(limits: tuple[int, int]) -> None:
    assert [shape for shape in SHAPES if fitted(shape, *limits, "detr") != by_detr(shape, *limits)] == []


@pytest.mark.parametrize("limits", LIMITS)
def test_sizes_by_the_rule_of_transformers_are_those_of_its_processors(limits: tuple[int, int]) -> None:
    from transformers.image_transforms import get_size_with_aspect_ratio

    wrong = [s for s in SHAPES if fitted(s, *limits, "transformers") != get_size_with_aspect_ratio(s, *limits)]
    assert wrong == []


@pytest.mark.parametrize("limits", LIMITS[:1] + LIMITS[2:3])
def test_sizes_by_torchvisions_rule_are_those_of_its_detectors(limits: tuple[int, int], torchvisions: Any) -> None:
    shapes = SHAPES[:3] + GRID[limits[0] % 3 :: 3]
    assert [s for s in shapes if fitted(s, *limits, "torchvision") != torchvisions(s, *limits)] == []


@pytest.mark.slow
@pytest.mark.parametrize("height", range(32, 2001, 3))
def test_sizes_by_torchvisions_rule_are_those_of_its_detectors_everywhere(height: int, torchvisions: Any) -> None:
    for width in range(height, 2001, 2):
        assert fitted((height, width), 800, 1333, "torchvision") == torchvisions((height, width), 800, 1333)


@given(SIDES, SIDES, st.integers(300, 900))
def test_torchvisions_random_short_side_has_the_same_rule(height: int, width: int, short: int) -> None:
    drawn = RandomShortestSize([short], max_size=1333)
    theirs = drawn.make_params([torch.zeros(1, 1, 1).expand(1, height, width)])["size"]
    assert fitted((height, width), short, 1333, "torchvision") == tuple(theirs)


@given(SIDES, SIDES, st.sampled_from(LIMITS), st.sampled_from(list(RULES)))
def test_turned_image_has_the_turned_size_and_a_limit_is_reached(
    height: int, width: int, limits: tuple[int, int], rule: str
) -> None:
    size = fitted((height, width), *limits, rule)
    assert fitted((width, height), *limits, rule) == size[::-1]
    assert min(size) <= limits[0] + 1 and max(size) <= limits[1] + 2 and min(size) >= 1
    assert min(size) >= limits[0] - 1 or max(size) >= limits[1] - 2


def test_rules_differ_where_they_are_known_to() -> None:
    known = {
        "torchvision": [(749, 1333), (799, 1333), (447, 1332)],
        "detr": [(750, 1333), (800, 1333), (447, 1332)],
        "transformers": [(750, 1333), (800, 1333), (447, 1333)],
        "legacy": [(749, 1333), (799, 1333), (447, 1333)],
    }
    assert {rule: [fitted(shape, 800, 1333, rule) for shape in SHAPES[:3]] for rule in RULES} == known
    assert {rule: fitted((1, 4000), 800, 1333, rule) for rule in RULES} == dict.fromkeys(RULES, (1, 1333))
