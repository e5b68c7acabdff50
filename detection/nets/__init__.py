"""Detectors: one page each. `detector.build("fcos", backbone, num_classes)` gives a `Detector`.

Beside its name a page may say

    size=(height, width)   what it is trained at when nobody says
    tiny={...}             options that make it small enough to be seen running in a minute
    finds=("masks",)       or ("keypoints",): what its targets and its detections hold besides boxes
    segments=True          its masks are of whole images, and say whose each pixel is
    like="faster_rcnn"     takes that one's options as well as its own
    grows_from={"detr": "masks.*"}   whose weights it may start from, and what of its own these lack

A network that finds keypoints takes their number as its option `num_keypoints`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from backbones.base import Backbone
from detection.types import Detections, Images, Target
from shared.recipes.registry import Registry


class Detector(nn.Module, ABC):
    """Two verbs, each with one return type.

    backbone: what it stands on.
    used_maps: which of the backbone's maps it reads; what no used map depends on is frozen.
    multiple: height and width of a batch are rounded up to it.
    """

    backbone: Backbone
    used_maps: Sequence[int]
    multiple: int = 32

    @abstractmethod
    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Named losses of a batch, already weighted."""

    @abstractmethod
    def detect(self, images: Images) -> list[Detections]:
        """What is in each image, best first, in the pixels of the batch."""

    @abstractmethod
    def class_head(self) -> list[nn.Module]:
        """The part that names classes: what --freeze-body leaves to learn."""


detector: Registry[Detector] = Registry("detector", "detection.nets")
SIZE = (640, 640)


def default_size(network: str) -> tuple[int, int]:
    """(height, width) a detector is trained at when nobody says."""
    return detector.facts(network).get("size", SIZE)


def lacks_from(network: str, other: str) -> tuple[str, ...]:
    """What a detector lacks when it starts from the weights of another, as patterns; nothing when it cannot."""
    lacking = detector.facts(network).get("grows_from", {}).get(other)
    return () if lacking is None else (lacking,)


def finds(network: str) -> tuple[str, ...]:
    """What a detector learns and finds besides boxes: fields of its targets and detections."""
    return tuple(detector.facts(network).get("finds", ()))
