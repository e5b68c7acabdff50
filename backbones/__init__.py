"""Backbones: `backbone.build("hrnet_w32c")` gives a `Backbone`. timm's own names work, too."""

from __future__ import annotations

from typing import Any

from backbones.base import Backbone, MapInfo
from shared.recipes.registry import Registry

backbone: Registry[Backbone] = Registry("backbone", "backbones")


def build_backbone(name: str, *, pretrained: bool, **options: Any) -> Backbone:
    """A backbone by its name; `pretrained` is passed on only if set, so a builder without published weights needs none.

    Raises:
        UsageError: an unknown name or option, or `pretrained` for a backbone that has no published weights.
    """
    return backbone.build(name, **options, **({"pretrained": True} if pretrained else {}))


__all__ = ["Backbone", "MapInfo", "backbone", "build_backbone"]
