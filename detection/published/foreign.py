"""Published detectors: recognize the key layout of a checkpoint and rename its tensors to those of our networks.

file -> tensors -> key layout, by a key that only it has -> network, backbone, options, from names and shapes
                                                         -> renamed tensors -> adjusted tensors, such as class heads

torchvision faster r-cnn | mask r-cnn | keypoint r-cnn | fcos | retinanet | ssd300 | ssdlite
detr | detr with masks | deformable detr | dino | smca | rt-detr
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from backbones.copies import NO_TENSORS, Copy, Tensors, state_dicts, take
from detection.published import rt_detr, torchvision, transformers
from detection.published.layout import Layout, Options
from shared.errors import WeightsError
from shared.weights.card import listed

LAYOUTS = [*torchvision.LAYOUTS, *rt_detr.LAYOUTS, *transformers.LAYOUTS]  # most specific first
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
    copies_note: the sentence about several copies; empty if there is one.
    """

    layout: Layout
    in_file: str
    network: str
    backbone: str | None
    options: Options
    num_classes: int
    tensors: Tensors
    copies_note: str = ""

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


def recognize(content: Any, key: str | None = None) -> Foreign:
    """Recognize the content of a checkpoint file.

    Args:
        key: which copy to take, where the file has several; None for the preferred one.

    Raises:
        WeightsError: it has no tensors, an unknown key layout, only a part of a known one, or no such copy.
    """
    dicts = list(state_dicts(content))
    if not dicts:
        raise WeightsError(NO_TENSORS)
    copies = copies_in(content)
    if not copies:
        path, tensors = max(dicts, key=lambda pair: len(pair[1]))
        copies = [Copy(path, "", unwrapped(tensors))]
    taken, copies_note = take(copies, key, "the detector")
    tensors, layout = taken.tensors, layout_of(taken.tensors)
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
    in_file = "".join(f" ({part})" for part in (*taken.path, taken.prefix.rstrip(".")) if part)
    return Foreign(layout, in_file, network, backbone_of(tensors), options, count, tensors, copies_note)


def layout_of(tensors: Mapping[str, Any]) -> Layout | None:
    return next((known for known in LAYOUTS if any(re.match(known.known_by, name) for name in tensors)), None)


def unwrapped(tensors: Tensors) -> Tensors:
    for wrapper in WRAPPERS:
        within = [name for name in tensors if name.startswith(wrapper)]
        if len(within) == len(tensors) or (wrapper == "detr." and within):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def copies_in(content: Any) -> list[Copy]:
    """Every detector of a known layout in the file, by path and prefix; their tensors are without the prefix.

    A copy lacks the tensors that it does not have and another has, but for counters of batches.
    """
    found = []
    for path, tensors in state_dicts(content):
        tensors = unwrapped(tensors)
        starts = {""} if layout_of(tensors) else prefixes_in(tensors)
        for start in sorted(starts):
            inside = {n.removeprefix(start): v for n, v in tensors.items() if n.startswith(start)}
            if layout_of(inside := unwrapped(inside)):
                found.append(Copy(path, start, inside))
    every = {name for copy in found for name in copy.tensors if not name.endswith("num_batches_tracked")}
    return [copy._replace(lacks=len(every - copy.tensors.keys())) for copy in found]


def prefixes_in(tensors: Mapping[str, Any]) -> set[str]:
    """What may stand before a detector's names, such as `ema_model.`: up to two words before a backbone's."""
    return {found[1] for name in tensors if (found := re.match(r"((?:\w+\.){1,2}?)backbone\.", name))}


def backbone_of(tensors: Mapping[str, Tensor]) -> str | None:
    """Name of our backbone, from the tensor names; None if it is not recognized."""
    tail = tensors.get("backbone.features.1.3.0.weight")  # SSDlite's last; 480 with reduce_tail
    if tail is not None:
        return "tv_mobilenet_v3_large_ssdlite" + ("_reduced" if len(tail) == 480 else "")
    for pattern, name in KNOWN_BACKBONES:
        if any(re.match(pattern, known) for known in tensors):
            return name
    return None


STAGE = r"model\.backbone\.model\.encoder\.stages\."
RESNET = r"backbone\.(?:0\.)?body\."
KNOWN_BACKBONES = [
    (r"backbone\.scale_weight$", "tv_vgg16"),
    (r"backbone\.body\.13\.block\.", "tv_mobilenet_v3_large_fpn"),
    (STAGE + r"2\.layers\.22\.layer\.2\.", "resnet101d"),
    (STAGE + r"2\.layers\.5\.layer\.2\.", "resnet50d"),
    (STAGE + r"2\.layers\.5\.", "resnet34_vd"),
    (STAGE + r"2\.layers\.1\.", "resnet18_vd"),
    (RESNET + r"layer3\.35\.", "resnet152"),
    (RESNET + r"layer3\.22\.", "resnet101_v1b"),
    (RESNET + r"layer3\.5\.conv3\.", "resnet_v1_50"),
    (RESNET + r"layer3\.5\.", "resnet34"),
    (RESNET + r"layer3\.1\.", "resnet18"),
]
