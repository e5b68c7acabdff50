"""What every backbone is: an image becomes a pyramid of maps, or one vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from shared.pixels import PixelStats


class MapInfo(NamedTuple):
    """Shape of one feature map: `channels` x H/stride x W/stride, rounded up."""

    channels: int
    stride: int


class Backbone(nn.Module, ABC):
    """The contract between the halves. One level deep: nobody subclasses a subclass.

    maps: what `forward_features` returns, finest first; strides of 4 and more, one map per stride.
    width: channels of the pooled vector that `forward` returns.
    pixels: the statistics its published weights expect, or None when it has random weights.
    """

    maps: tuple[MapInfo, ...]
    width: int
    pixels: PixelStats | None = None

    @abstractmethod
    def forward_features(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, C_i, H/s_i, W/s_i) per entry of `maps`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width)"""

    @abstractmethod
    def stages(self) -> list[list[nn.Parameter]]:
        """Every parameter once: the stem, then stage k, which ends where the k-th map does. Freezing counts here."""

    @abstractmethod
    def blocks(self) -> list[list[nn.Parameter]]:
        """Every parameter once, in the finest steps of depth there are, stem first. Layer decay counts here."""
