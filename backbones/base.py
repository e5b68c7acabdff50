"""What every backbone is: an image becomes a pyramid of maps, or one vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from shared.errors import UsageError
from shared.feeding.pixels import PixelStats


class MapInfo(NamedTuple):
    """Shape of one feature map: `channels` x H/stride x W/stride, rounded up."""

    channels: int
    stride: int


class Backbone(nn.Module, ABC):
    """The contract between the halves. One level deep: nobody subclasses a subclass.

    maps: what `forward_features` returns, finest first; strides of 4 and more, one map per stride; where dilation
        replaces the stride of the last stage, the last two share theirs, as in `tv_mobilenet_v3_large_fpn`.
    width: channels of the pooled vector that `forward` returns.
    pixels: the statistics its published weights expect, or None when it has random weights.
    only: the one image size (height, width) that it takes, or None when it takes any.
    """

    maps: tuple[MapInfo, ...]
    width: int
    pixels: PixelStats | None = None
    only: tuple[int, int] | None = None

    def check_size(self, size: Sequence[int]) -> None:
        """Raise UsageError for an image of (height, width) that it does not take."""
        if self.only is not None and tuple(size) != self.only:
            height, width = self.only
            raise UsageError(
                f"this backbone takes images of {height}x{width} alone, and got {size[0]}x{size[1]}; "
                f"give --size {height} {width}, or take a backbone without a fixed size"
            )

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
