"""Backbones: `backbone.build("hrnet_w32c")` gives a `Backbone`. timm's own names work, too."""

from __future__ import annotations

from backbones.base import Backbone, MapInfo
from shared.recipes.registry import Registry

backbone: Registry[Backbone] = Registry("backbone", "backbones")

__all__ = ["Backbone", "MapInfo", "backbone"]
