"""Pretraining methods: one page each. A method is a Task with a view.

`method.build("supervised", backbone, facts, label_smoothing=0.1)`; what a method alone understands is a keyword.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from backbones.base import Backbone
from shared.feeding.pixels import PixelStats
from shared.loop.task import Task
from shared.recipes.registry import Registry

View = Callable[[Tensor, np.random.Generator], Any]


class Facts(NamedTuple):
    """What a method may want to know about the run.

    size: (height, width) of the images the backbone sees.
    num_classes: of the data, or None when it is not labelled.
    pixels: what the backbone wants its pixels to be.
    """

    size: tuple[int, int]
    num_classes: int | None
    pixels: PixelStats


class Method(Task):
    """A Task whose purpose is its backbone.

    labelled: it learns from classes; otherwise labels may be there and are left alone.
    needs: what it asks of a backbone, in words for `pretrain list methods`.
    """

    backbone: Backbone
    labelled: bool = False
    needs: str = "any backbone"

    @abstractmethod
    def view(self) -> View:
        """How one (3, H, W) uint8 image becomes one sample of a training batch."""

    @abstractmethod
    def val_view(self) -> View:
        """The same for evaluation, without chance."""

    def exports(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone}

    def embed(self, vectors: Tensor) -> Tensor | None:
        """Pooled vectors (B, width) -> (B, E): what the loss compares, in units of the deviation it aims at.

        None for methods whose loss compares no vectors of whole images; `--probe` watches it for a collapse.
        """
        return None


method: Registry[Method] = Registry("method", "pretrain.methods")
