"""Pretraining methods, one file each. A method is a Task with a view.

`method.build("supervised", backbone, facts, label_smoothing=0.1)`; options of a method are keyword-only parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from backbones.base import Backbone
from shared.feeding.pixels import PixelStats
from shared.loop.task import Task
from shared.recipes.registry import Registry
from shared.weights.card import Exported

View = Callable[[Tensor, np.random.Generator], Any]


class Facts(NamedTuple):
    """Facts about the run that methods may use.

    size: (height, width) of the images the backbone sees.
    num_classes: of the data; None without labels.
    pixels: pixel mean and std of the backbone.
    weights_dir: folder of the exported weights, for methods that learn from some.
    """

    size: tuple[int, int]
    num_classes: int | None
    pixels: PixelStats
    weights_dir: Path | None = None


class Method(Task):
    """A pretraining task; its backbone is exported.

    labeled: it needs labels; otherwise labels are ignored.
    needs: required kind of backbone, for `pretrain list methods`.
    learns_from: exports it learns from, parents of what it exports.
    source: of published weights it learns from, for the card.
    """

    backbone: Backbone
    labeled: bool = False
    needs: str = "any backbone"
    learns_from: list[Exported] = []
    source: dict[str, str] = {}

    @abstractmethod
    def view(self) -> View:
        """The training view: (3, H, W) uint8 image and random generator -> sample."""

    @abstractmethod
    def val_view(self) -> View:
        """The evaluation view, deterministic."""

    def exports(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone}

    def embed(self, vectors: Tensor) -> Tensor | None:
        """Pooled vectors (B, width) -> (B, E) embeddings that the loss compares, scaled so that their target std is 1.

        None for methods without image embeddings. `--probe` checks them for a collapse.
        """
        return None


method: Registry[Method] = Registry("method", "pretrain.methods")


def trained_as(name: str) -> tuple[str, dict[str, Any]]:
    """How a method's paper or reference trains: whose settings they are, and recipe values by name; ("", {}) if unsaid.

    A method says it as `@method("name", trained={"by": ..., "opt": ..., "lr": ..., "epochs": ...})`.
    """
    values = dict(method.facts(name).get("trained", {}))
    return values.pop("by", ""), values
