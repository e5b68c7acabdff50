"""Detectors, one file per detector or family. `detector.build("fcos", backbone, num_classes)` gives a `Detector`.

Facts that may be given with a name:

    size=(height, width)   default input size
    tiny={...}             options of `--scale tiny`
    finds=("masks",)       or ("keypoints",): what its targets and its detections have besides boxes
    several=True           learns several data sets, each with its own classes; has the option `set_sizes`
    segments=True          panoptic: its masks segment the whole image into things and stuff
    on_proposals=True      takes stored proposals, and has none of its own
    agnostic=True          finds objects without classes: all are label 0, "object"; measured by average recall
    like="faster_rcnn"     inherits the options of that network
    starts_from={"detr": "masks.*"}   networks whose weights it may start from, with patterns of the missing tensors

A network with keypoints has an option `num_keypoints`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from backbones.base import Backbone
from detection.types import Detections, Images, Target
from shared.errors import UsageError
from shared.recipes.registry import Registry


class Detector(nn.Module, ABC):
    """The interface of a detector: `forward` gives losses, `detect` gives detections.

    backbone: its backbone.
    used_maps: indices of the backbone's maps it uses; parameters that no used map depends on are frozen.
    multiple: height and width of a batch are rounded up to it.
    max_objects: the most objects it can find in an image, where it has so many queries; None where nothing limits it.
    graphs: paths of the calls below it of which --compile makes a graph each; their inputs are tensors, and none of
        their shapes is the number of objects of one image, which would make a graph for every batch.
    """

    backbone: Backbone
    used_maps: Sequence[int]
    multiple: int = 32
    max_objects: int | None = None
    graphs: Sequence[str] = ("backbone.forward_features",)

    @abstractmethod
    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Named, already weighted losses of a batch, scalars."""

    @abstractmethod
    def detect(self, images: Images) -> list[Detections]:
        """Detections of each image, best first, in pixels of the batch."""

    def propose(self, images: Images) -> list[Detections]:
        """Boxes with a score and no class (label 0) of each image, best first, for networks on stored proposals."""
        raise UsageError(
            f"{type(self).__name__} makes no proposals; give weights of unidetector_cln, or of a network with an RPN"
        )

    @abstractmethod
    def class_head(self) -> list[nn.Module]:
        """Modules of the classification head, which --freeze-body leaves trainable.

        All that depends on the number of classes is in them, as parameters or as buffers.
        """

    def continued(self) -> dict[str, nn.Module]:
        """Modules that an export of the backbone may fill besides it, by what their tensors' names begin with."""
        return {}


detector: Registry[Detector] = Registry("detector", "detection.nets")
SIZE = (640, 640)


def default_size(network: str) -> tuple[int, int]:
    """Default (height, width) of a detector."""
    return detector.facts(network).get("size", SIZE)


def fact(network: str, name: str, otherwise: Any) -> Any:
    """A fact of a detector, else of the one it is `like`, else `otherwise`."""
    facts = detector.facts(network)
    return facts[name] if name in facts else fact(facts["like"], name, otherwise) if "like" in facts else otherwise


def resize_rule(network: str) -> str:
    """The rule by which a detector's reference rounds sizes that keep the aspect ratio: "detr" or "torchvision"."""
    return fact(network, "resize_rule", "torchvision")


def trained_as(network: str) -> tuple[str, dict[str, Any]]:
    """How a detector's paper or reference trains it: whose settings they are, and recipe values by name."""
    values = dict(fact(network, "trained", {}))
    return values.pop("by"), values


def missing_from(network: str, other: str) -> tuple[str, ...]:
    """Patterns of the tensors that are missing when a detector starts from another's weights; () if it cannot."""
    lacking = detector.facts(network).get("starts_from", {}).get(other)
    return () if lacking is None else (lacking,)


def is_agnostic(network: str) -> bool:
    """Whether a detector finds objects without their classes."""
    return bool(fact(network, "agnostic", False))


def takes_proposals(network: str) -> bool:
    """Whether a detector needs stored proposals."""
    return bool(fact(network, "on_proposals", False))


def finds(network: str) -> tuple[str, ...]:
    """Fields of a detector's targets and detections besides boxes."""
    return tuple(detector.facts(network).get("finds", ()))


def segments(network: str) -> bool:
    """Whether a detector learns panoptic segmentation."""
    return bool(detector.facts(network).get("segments", False))


def takes_several(network: str) -> bool:
    """Whether a detector learns several data sets, each with its own classes."""
    return bool(fact(network, "several", False))
