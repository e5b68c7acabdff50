"""Published detectors: recognize the key layout of a checkpoint and rename its tensors to those of our networks.

file -> tensors -> key layout, by a key that only it has -> network, backbone, options, from names and shapes
                                                         -> renamed tensors -> adjusted tensors, such as class heads

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

LAYOUTS = [*torchvision.LAYOUTS, *transformers.LAYOUTS]  # most specific first
WRAPPERS = ("module.", "_orig_mod.", "detr.")  # of DistributedDataParallel, torch.compile, DETR with masks


class Foreign(NamedTuple):
    """A recognized checkpoint.

    layout: its key layout.
    in_file: path of the tensors in the file's nested dicts, such as " (model)".
    network: name of our network.
    backbone: name of our backbone, or None if it is not recognized.
    options: options of our network, from names and shapes.
    num_classes: number of classes of our network, without background.
    tensors: by the names in the file.
    """

    layout: Layout
    in_file: str
    network: str
    backbone: str | None
    options: Options
    num_classes: int
    tensors: Tensors

    def renamed(self) -> Tensors:
        """The tensors by the names of our network.

        Raises:
            WeightsError: two tensors have the same name after renaming.
        """
        named: Tensors = {}
        for theirs, value in self.tensors.items():
            ours = theirs
            for pattern, replacement in self.layout.rules:
                ours = re.sub(pattern, replacement, ours)
            if ours in named:
                raise WeightsError(f"the file has {ours} twice; save only the state_dict() of the network")
            named[ours] = value
        return self.layout.settle(named)


def recognize(content: Any) -> Foreign:
    """Recognize the content of a checkpoint file.

    Raises:
        WeightsError: it has no tensors, an unknown key layout, or only a part of a known one.
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
                f"the file contains a backbone, not a known detector ({some}); "
                f"import a backbone with `pretrain import FILE --model NAME --tag TAG`"
            )
        raise WeightsError(
            f"the file is not a checkpoint of a known detector ({some}); "
            f"give one of {', '.join(x.name for x in LAYOUTS)}"
        )
    name, rows, besides = layout.classes
    try:
        options = layout.options(tensors)
        count = len(tensors[name]) // rows - besides
    except KeyError as error:
        raise WeightsError(
            f"the file looks like {layout.name} but lacks {error.args[0]}; save the network's complete state_dict()"
        ) from None
    network = options.pop("network", layout.network)
    return Foreign(layout, "".join(f" ({p})" for p in path), network, backbone_of(tensors), options, count, tensors)


def backbone_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of our backbone, from the tensor names; None if it is not recognized."""
    tail = tensors.get("backbone.features.1.3.0.weight")  # SSDlite's last; 480 with reduce_tail
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
