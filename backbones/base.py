"""The interface of a backbone: an image becomes a pyramid of feature maps, or one vector."""

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
    """The interface between pretraining and detection. Subclasses are not subclassed further.

    maps: what `forward_features` returns, finest first; strides of 4 and more, one map per stride; where dilation
        replaces the stride of the last stage, the last two share theirs, as in `tv_mobilenet_v3_large_fpn`.
    width: channels of the pooled vector that `forward` returns.
    pixels: mean and std of its published weights; None with random weights.
    only: the only image size (height, width) it accepts; None for any size.
    beside: what the names of tensors begin with that its exports may hold besides its own, for a detector that
        continues with them, as with the module that `rest` returns; empty if there are none.
    """

    maps: tuple[MapInfo, ...]
    width: int
    pixels: PixelStats | None = None
    only: tuple[int, int] | None = None
    beside: str = ""

    def check_size(self, size: Sequence[int]) -> None:
        """Raise UsageError if it does not accept images of (height, width)."""
        if self.only is not None and tuple(size) != self.only:
            height, width = self.only
            raise UsageError(
                f"this backbone accepts only images of {height}x{width}, not {size[0]}x{size[1]}; "
                f"give --size {height} {width}, or use a backbone without a fixed size"
            )

    def rest(self) -> nn.Module | None:
        """A new module for what its exports may hold besides, named as behind `beside`; None if there is nothing."""
        return None

    @abstractmethod
    def forward_features(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, C_i, H/s_i, W/s_i) per entry of `maps`."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, width)"""

    def forward_both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> the coarsest map (B, C, H/s, W/s) and the pooled vector (B, width); here by two passes."""
        return self.forward_features(x)[-1], self.forward(x)

    @abstractmethod
    def stages(self) -> list[list[nn.Parameter]]:
        """Every parameter once: the stem, then stage k, which ends with the k-th map. Used for freezing."""

    @abstractmethod
    def blocks(self) -> list[list[nn.Parameter]]:
        """Every parameter once, by block, stem first. Used for layer decay."""
