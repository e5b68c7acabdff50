"""The README's numbers and names are those of the registries and of the catalog of recipes."""

from __future__ import annotations

import re
from pathlib import Path

from backbones import backbone
from detection.nets import detector
from shared.recipes.files import recipe_names

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_numbers_on_offer_are_those_there_are() -> None:
    assert f"| backbones | {len(backbone.names())} by name" in README
    counts = [len(recipe_names(folder)) for folder in ("detect", "pretrain")]
    assert "| recipes | {} for detectors, {} for the backbones".format(*counts) in README


def test_every_network_is_named() -> None:
    named = set(re.findall(r"`(\w+)`", README))
    variants = ("_v2", "_boxref", "_mask")  # in words: "each also as torchvision's second version"
    for name in detector.names():
        plain = re.sub("|".join(f"{ending}$" for ending in variants), "", name)
        assert plain in named or plain.startswith("efficientdet_d"), f"{name} is not in the README"
