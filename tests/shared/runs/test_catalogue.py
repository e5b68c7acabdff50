"""What `list` says of a builder: its own first words, or its page's."""

from __future__ import annotations

import inspect

import pytest

from detection.nets import detector
from shared.runs.catalogue import first_words


@pytest.mark.parametrize(
    ("name", "words"),
    [("mask_rcnn", "Mask R-CNN:"), ("faster_rcnn", "Faster R-CNN:"), ("fcos", "FCOS:"), ("efficientdet_d3", "Effic")],
)
def test_a_network_is_listed_with_words_of_its_own(name: str, words: str) -> None:
    assert first_words(detector.builder(name)).startswith(words)


def test_a_builder_without_words_is_listed_with_those_of_its_page() -> None:
    build = detector.builder("fcos")
    assert build.__doc__ is not None and build.__doc__.strip().startswith("Args:")
    page = inspect.getmodule(build)
    assert page is not None and page.__doc__ is not None and page.__doc__.startswith(first_words(build))
