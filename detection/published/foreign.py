"""Detectors of others: which layout a file has, which network of ours that is, and its tensors under our names.

file -> the tensors inside -> layout, by a name that only it has -> network, backbone, options, by names and shapes
                                                                 -> names as ours -> what is held otherwise

torchvision faster r-cnn | mask r-cnn | keypoint r-cnn | fcos | retinanet | ssd300 | ssdlite
detr | detr with masks | deformable detr | smca
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from backbones.foreign import Tensors, tensors_in
from detection.published import torchvision, transformers
from detection.published.layout import Layout, Options
from shared.errors import WeightsError
from shared.weights.card import listed

LAYOUTS = [*torchvision.LAYOUTS, *transformers.LAYOUTS]  # most particular first
WRAPPERS = ("module.", "_orig_mod.", "detr.")  # of other processes, of a compiler, of DETR with masks


class Foreign(NamedTuple):
    """A file understood.

    layout: which.
    told: where in the file its tensors were.
    network: ours.
    backbone: ours, or None where names do not tell.
    options: of our network.
    num_classes: as our network counts them.
    tensors: under their own names.
    """

    layout: Layout
    in_file: str
    network: str
    backbone: str | None
    options: Options
    num_classes: int
    tensors: Tensors

    def renamed(self) -> Tensors:
        """Under our names, and as our networks hold them."""
        named: Tensors = {}
        for theirs, value in self.tensors.items():
            ours = theirs
            for pattern, replacement in self.layout.rules:
                ours = re.sub(pattern, replacement, ours)
            if ours in named:
                raise WeightsError(f"the file holds {ours} twice; save the network's state_dict() alone")
            named[ours] = value
        return self.layout.settle(named)


def recognize(content: Any) -> Foreign:
    """What a file's content is.

    Raises:
        WeightsError: it holds no tensors, or no detector that is known here.
    """
    tensors, path = tensors_in(content)
    for wrapper in WRAPPERS:
        within = [name for name in tensors if name.startswith(wrapper)]
        if len(within) == len(tensors) or (wrapper == "detr." and within):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    layout = next((known for known in LAYOUTS if any(re.match(known.known_by, name) for name in tensors)), None)
    if layout is None:
        some = listed(list(tensors))
        if any(re.match(r"(.*\.)?(layer1\.0|features\.0|blocks\.0|stages\.0)\.", name) for name in tensors):
            raise WeightsError(
                f"the file holds a backbone and no detector that is known here ({some}); "
                f"bring a backbone in with `pretrain import FILE --model NAME --tag TAG`"
            )
        raise WeightsError(
            f"the file holds no detector that is known here ({some}); known are {', '.join(x.name for x in LAYOUTS)}"
        )
    name, rows, besides = layout.classes
    try:
        options = layout.options(tensors)
        count = len(tensors[name]) // rows - besides
    except KeyError as error:
        raise WeightsError(
            f"the file looks like {layout.name} and lacks {error.args[0]}; save the network's whole state_dict()"
        ) from None
    network = options.pop("network", layout.network)
    return Foreign(layout, "".join(f" ({p})" for p in path), network, backbone_of(tensors), options, count, tensors)


def backbone_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Our name of the backbone, by what only it has."""
    tail = tensors.get("backbone.features.1.3.0.weight")  # SSDlite's last convolution
    if tail is not None:
        return "tv_mobilenet_v3_large_ssdlite" + ("_reduced" if len(tail) == 480 else "")
    for pattern, name in KNOWN_BACKBONES:
        if any(re.match(pattern, known) for known in tensors):
            return name
    return None


RESNET = r"backbone\.(?:0\.)?body\."
KNOWN_BACKBONES = [
    (r"backbone\.scale_weight$", "tv_vgg16"),
    (r"backbone\.body\.13\.block\.", "tv_mobilenet_v3_large_fpn"),
    (RESNET + r"layer3\.35\.", "resnet152"),
    (RESNET + r"layer3\.22\.", "resnet101_v1b"),
    (RESNET + r"layer3\.5\.conv3\.", "resnet_v1_50"),
    (RESNET + r"layer3\.5\.", "resnet34"),
    (RESNET + r"layer3\.1\.", "resnet18"),
]
