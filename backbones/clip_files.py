"""CLIP's files: where the image part is, whose copy it is, and what belongs to the trunk.

    OpenAI, open_clip   visual.conv1.weight ...  beside the text part; a TorchScript archive is refused when read
    RegionCLIP          model -> backbone.conv1.weight ...  beside copies of the teacher, which are left out
    the image part      conv1.weight ...

stem, layer1 to layer3 -> the trunk;  layer4, attnpool -> beside it;  all else is left out, and said.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from backbones.base import Backbone
from backbones.copies import NO_TENSORS, Copy, Tensors, prefixes, state_dicts, take
from shared.errors import WeightsError
from shared.weights.card import listed

COUNTERS = ".num_batches_tracked"
OF_THE_TEACHER = re.compile(r"(^|\.)(offline_backbone|teacher_backbone)\.")
TEXT = re.compile(r"(^|\.)(token_embedding\.weight|text_projection|transformer\.resblocks\.0\.)")
A_VIT = re.compile(r"(^|\.)visual\.(class_embedding|transformer\.)")
TRUNK = re.compile(r"(conv|bn)[123]\.|layer[123]\.")
REST = re.compile(r"layer4\.|attnpool\.")


class Image(NamedTuple):
    """The image part of a file.

    trunk, rest: tensors by CLIP's names, in float32.
    left_out: keys of the file that belong to neither.
    """

    layout: str
    trunk: Tensors
    rest: Tensors
    left_out: list[str]
    copies_note: str


def image_part(content: Any, model: str, net: Backbone, key: str | None) -> Image:
    """The image part of a file.

    Args:
        key: which copy to take, if there are several that are not a teacher's.

    Raises:
        WeightsError: no tensors, no ResNet of CLIP's, only a text part, only a teacher's copy, or several copies.
    """
    dicts = list(state_dicts(content))
    if not dicts:
        raise WeightsError(NO_TENSORS)
    wanted = {name for name, _ in net.named_parameters()}
    essential = {name for name in net.state_dict() if not name.endswith(COUNTERS)}
    copies = [
        Copy(path, prefix, tensors, sum(prefix + name not in tensors for name in essential), layout_of(prefix))
        for path, tensors in dicts
        for prefix, count in prefixes(tensors, wanted).items()
        if count >= 0.5 * len(wanted)
    ]
    own = [copy for copy in copies if not OF_THE_TEACHER.search(copy.prefix)]
    if not own:
        raise WeightsError(why_none([name for _, tensors in dicts for name in tensors], model, teacher=bool(copies)))
    taken, note = take(own, key, model)
    inside = {n.removeprefix(taken.prefix): value for n, value in taken.tensors.items() if n.startswith(taken.prefix)}
    trunk, rest = (
        {
            name: value.float() if value.is_floating_point() else value
            for name, value in inside.items()
            if part.match(name)
        }
        for part in (TRUNK, REST)
    )
    ours = {taken.prefix + name for name in (*trunk, *rest)}
    return Image(taken.layout, trunk, rest, [name for name in taken.tensors if name not in ours], note)


def layout_of(prefix: str) -> str:
    last = prefix.rstrip(".").rpartition(".")[2]
    return {"visual": "clip", "backbone": "regionclip"}.get(last, "clip, image part")


def why_none(names: list[str], model: str, *, teacher: bool) -> str:
    if teacher:
        return "the file has only the teacher's copy of the backbone; give RegionCLIP's pretrained file itself"
    if any(A_VIT.search(name) for name in names):
        return f"the file is of a CLIP whose image part is a ViT, not {model}; give the one of CLIP's RN50"
    if any(TEXT.search(name) for name in names):
        return (
            f"the file has only the text part of CLIP, and {model} is its image part; give the whole file here, and "
            f"this one to `detect vocabulary --text-weights`"
        )
    return f"the file has no tensors of {model}: it has {listed(names)}; give the file of CLIP's RN50 or RegionCLIP's"
