"""Published checkpoints: recognize the key layout and rename the tensors to those of our backbone.

    file -> nested dicts -> names as timm's -> every copy of the backbone -> one of them -> [heads left out]

    plain              names of the network itself: timm, and torchvision where the two agree, as in ResNets
    torchvision vit    encoder.layers.encoder_layer_0.ln_1 ...
    vicreg             a ResNet, alone or behind `module.backbone.` beside its projector
    i-jepa             encoder, predictor and target_encoder side by side; the target encoder is taken
    mae                an encoder, alone or beside `decoder_blocks`
    dinov2             register_tokens, w12 and w3, chunked blocks; class position apart
    dinov3             storage_tokens, ls1.gamma, masked key bias
    birder             its own names; by order, for the networks of its that stand in our table
    clip, regionclip   see clip_files.py

Torch files are read with `weights_only=True`. Only names are handled here; `shared.weights.transfer.fill` checks
that all tensors are present and of the right shape.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backbones.base import Backbone
from backbones.clip_files import image_part
from backbones.clip_resnet import ClipResNet50
from backbones.copies import NO_TENSORS, Copy, Tensors, copies_of, state_dicts, take
from backbones.older import TABLES, dropped, filtered, of_transformers, refuse_transformers
from backbones.timm_zoo import ZOO
from shared.errors import WeightsError
from shared.feeding.pixels import PixelStats
from shared.weights.card import listed

COUNTERS = "*.num_batches_tracked"  # missing in old files, and unused
# tensors that a file may have besides a backbone's
BESIDES = re.compile(
    r"(head|heads|head_dist|fc|classifier|last_linear|pre_logits|lm_head|dino_head|ibot_head|projector|predictor)\."
    r"|(decoder_.*|mask_token|decoder_pos_embed)$|local_cls_norm\.|rope_embed\.periods$"
    r"|.*\.(bias_mask|relative_position_index|relative_coords_table|attn_mask|attention_bias_idxs)$"
)


class Layout(NamedTuple):
    """A key layout. known_by: a key that only this layout has; rules: replacements, in order."""

    name: str
    known_by: str
    rules: tuple[tuple[str, str], ...] = ()


LAYOUTS = [
    Layout(
        "torchvision vit",
        r"encoder_layer_0\.ln_1\.weight$",
        (
            (r"conv_proj\.", "patch_embed.proj."), (r"class_token$", "cls_token"),
            (r"encoder\.pos_embedding$", "pos_embed"), (r"encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\.ln_(\d)\.", r".norm\1."), (r"self_attention\.in_proj_", "attn.qkv."),
            (r"self_attention\.out_proj\.", "attn.proj."), (r"mlp\.(?:0|linear_1)\.", "mlp.fc1."),
            (r"mlp\.(?:3|linear_2)\.", "mlp.fc2."), (r"encoder\.ln\.", "norm."),
        ),
    ),
    Layout(
        "dinov3",
        r"storage_tokens$",
        (
            (r"storage_tokens$", "reg_token"), (r"\.ls(\d)\.gamma$", r".gamma_\1"), (r"mlp\.w1\.", "mlp.fc1_g."),
            (r"mlp\.w2\.", "mlp.fc1_x."), (r"mlp\.w3\.", "mlp.fc2."),
        ),
    ),
    Layout("mae", r"decoder_blocks\.0\.norm1\.weight$"),
    Layout(
        "dinov2",
        r"register_tokens$|mlp\.w12\.weight$|mask_token$",
        (
            (r"register_tokens$", "reg_token"), (r"mlp\.w12\.", "mlp.fc1."), (r"mlp\.w3\.", "mlp.fc2."),
            (r"blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        ),
    ),
    Layout("vicreg", r"projector\.0\.weight$"),
]  # fmt: skip
# birder registers the same tensors in the same order, except within the blocks of these two
FIRST_IN_A_BLOCK = {"regnet_y_4g": "downsample.", "hieradet_base": "norm1."}


class Foreign(NamedTuple):
    """A recognized checkpoint.

    layout: name of the key layout.
    tensors: by the names of our network.
    left_out: keys of the file that are not part of a backbone.
    pixels: mean and std, if the file has them.
    copies_note: the sentence about several copies; empty if there is one.
    rest: tensors that are exported beside the backbone's, by the names of the module that its `rest` returns.
    """

    layout: str
    tensors: Tensors
    left_out: list[str]
    pixels: PixelStats | None
    copies_note: str = ""
    rest: Tensors = {}


def recognize(
    content: Any, model: str, net: Backbone, *, key: str | None = None, like: Backbone | None = None
) -> Foreign:
    """Recognize the content of a file for a network.

    Args:
        key: which copy to take, where the file has the network several times; None for the preferred one.
        like: the network of the size that the file was trained at; None for `net`.

    Raises:
        WeightsError: no tensors, none of this network, or this network twice.
    """
    if isinstance(net, ClipResNet50):
        found = image_part(content, model, net, key)
        return Foreign(found.layout, found.trunk, found.left_out, net.pixels, found.copies_note, found.rest)
    if isinstance(content, Mapping) and "birder_version" in content:
        return from_birder(content, model, net)
    dicts = list(state_dicts(content))
    if not dicts:
        raise WeightsError(NO_TENSORS)
    copies = found_copies(dicts, model, net, like or net)
    taken, copies_note = take(copies, key, model)
    wanted = names_of(net)
    inside = inside_of(taken, wanted, net)
    places = tuple(copy.prefix for copy in copies if copy.tensors is taken.tensors)
    left_out = [name for name in taken.tensors if not name.startswith(places)]
    left_out += [taken.prefix + name for name in inside if name not in wanted and BESIDES.match(name)]
    kept = {f"net.{name}": value for name, value in inside.items() if name in wanted or not BESIDES.match(name)}
    words = "i-jepa" if taken.layout == "plain" and taken.path[:1] == ("target_encoder",) else taken.layout
    layout = " ".join([words, *(f"({part})" for part in taken.path)])
    return Foreign(layout, kept, [*left_out, *taken.dropped], None, copies_note)


def found_copies(dicts: list[tuple[tuple[str, ...], Tensors]], model: str, net: Backbone, like: Backbone) -> list[Copy]:
    """All copies of the network in the dicts, by today's names, or by older ones where those do not cover it.

    Raises:
        WeightsError: names of transformers, or none of this network.
    """
    wanted = names_of(net)
    weights = {name.removeprefix("net.") for name, _ in net.named_parameters()} & wanted
    whole = {name for name in wanted if not name.endswith(COUNTERS[1:])}
    copies = copies_of(dicts, weights, whole, renamed)
    if any(covers(inside_of(copy, wanted, net), net) for copy in copies):
        return copies
    if family := next(filter(None, (of_transformers(tensors) for _, tensors in dicts)), None):
        refuse_transformers(family, model)
    older = []
    for path, tensors in dicts:
        made = filtered(tensors, like.net, lambda made: covers(made, like))
        if made is not None:
            older.append(Copy(path, "", made, 0, "older names, by timm's filter", dropped(tensors, made)))
    if not older and not copies:
        some = [name for _, tensors in dicts for name in tensors]
        raise WeightsError(
            f"the file has no tensors of {model}: it has {listed(some)}, expected {listed(sorted(wanted))}; "
            f"give its --model"
        )
    return older or copies


def names_of(net: Backbone) -> set[str]:
    """The names of its tensors in timm's network."""
    return {name.removeprefix("net.") for name in net.state_dict()}


def inside_of(copy: Copy, wanted: set[str], net: Backbone) -> Tensors:
    """The tensors behind the prefix of a copy, by the network's names."""
    inside = {n[len(copy.prefix) :]: value for n, value in copy.tensors.items() if n.startswith(copy.prefix)}
    return settled(inside, wanted, net)


def covers(tensors: Tensors, net: Backbone) -> bool:
    """True if all of the network's tensors are there, of its shapes up to tables that depend on the image size."""
    mine = {name.removeprefix("net."): value for name, value in net.state_dict().items()}
    return all(
        name in tensors and (tensors[name].shape == value.shape or name.endswith(TABLES))
        for name, value in mine.items()
        if not name.endswith(COUNTERS[1:])
    )


def renamed(tensors: Tensors) -> tuple[str, Tensors]:
    """The name of the key layout, and the tensors by the names of timm."""
    layout = next((known for known in LAYOUTS if any(re.search(known.known_by, name) for name in tensors)), None)
    if layout is None:
        return "plain", tensors
    return layout.name, {rewritten(name, layout): value for name, value in tensors.items()}


def rewritten(name: str, layout: Layout) -> str:
    for pattern, replacement in layout.rules:
        name = re.sub(pattern, replacement, name)
    return name


def settled(tensors: Tensors, wanted: set[str], net: Backbone) -> Tensors:
    """Split or join tensors: class token positions, and biases of queries, keys and values."""
    made = dict(tensors)
    if getattr(net.net, "no_embed_class", False) and {"cls_token", "pos_embed"} <= made.keys() & wanted:
        count = made["pos_embed"].shape[1]
        if isqrt(count) ** 2 != count and isqrt(count - 1) ** 2 == count - 1:  # the first position is the class token's
            made["cls_token"] = made["cls_token"] + made["pos_embed"][:, :1]
            made["pos_embed"] = made["pos_embed"][:, 1:]
    for name in [name for name in made if name.endswith(".qkv.bias") and name not in wanted]:
        place = name.removesuffix("qkv.bias")
        queries, _, values = made[name].chunk(3)  # the key bias has no effect
        if {f"{place}q_bias", f"{place}v_bias"} <= wanted:
            made |= {f"{place}q_bias": queries, f"{place}v_bias": values}
            del made[name]
        elif not queries.any() and not values.any():
            del made[name]
    return made


def from_birder(content: Mapping[str, Any], model: str, net: Backbone) -> Foreign:
    """A birder file, matched by order: its networks register the same tensors in the same order. Shapes must agree.

    Raises:
        WeightsError: a network that is not in our table, or shapes that do not agree.
    """
    if model not in ZOO:
        raise WeightsError(
            f"birder's files can be imported only for the named backbones (`detect list backbones`), and "
            f"{model} is not one"
        )
    theirs = next((tensors for _, tensors in state_dicts(content.get("state"))), None)
    if theirs is None:
        raise WeightsError(NO_TENSORS)
    left_out = [name for name in theirs if name.startswith("classifier.")]
    theirs = {name: value for name, value in theirs.items() if name not in left_out}
    mine = {name: value for name, value in net.state_dict().items() if value is not None}
    pairs = list(zip(in_birders_order(list(mine), model), theirs.items(), strict=False))
    odd = [f"{other} {tuple(value.shape)} for {name}" for name, (other, value) in pairs if not alike(value, mine[name])]
    if odd or len(theirs) != len(mine):
        raise WeightsError(
            f"birder's {len(theirs)} tensors do not match the {len(mine)} of {model} one to one "
            f"({odd[0] if odd else 'different numbers'}); give its --model, and the --size it was trained at"
        )
    stats = content.get("rgb_stats")
    pixels = PixelStats(tuple(stats["mean"]), tuple(stats["std"])) if isinstance(stats, Mapping) else None
    tensors = {name: value.reshape(mine[name].shape) for name, (_, value) in pairs}
    return Foreign(f"birder {content['birder_version']}, by order", tensors, left_out, pixels)


def in_birders_order(names: list[str], model: str) -> list[str]:
    first = FIRST_IN_A_BLOCK.get(model)
    if first is None:
        return names
    block = {name: (re.match(r"net\.(blocks\.\d+|s\d+\.b\d+)\.", name) or [name])[0] for name in names}
    begin: dict[str, int] = {}
    for place, name in enumerate(names):
        begin.setdefault(block[name], place)
    return sorted(names, key=lambda name: (begin[block[name]], not name.startswith(block[name] + first)))


def alike(theirs: Tensor, mine: Tensor) -> bool:
    """True if the shapes are equal up to dimensions of size 1."""
    return [side for side in theirs.shape if side != 1] == [side for side in mine.shape if side != 1]


# --- reading --------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> Any:
    """The content of a safetensors or torch file: tensors and plain values, in dicts.

    Raises:
        WeightsError: no such file, another format, or a pickle with code, which is not executed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); give a checkpoint file") from None
    if head[8:9] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, ValueError) as error:
            raise WeightsError(f"{path} is not a complete safetensors file ({error}); download it again") from None
    if is_torchscript(path):
        new = path.with_name(f"{path.stem}-tensors.pt")
        raise WeightsError(
            f"{path} is a TorchScript archive, which contains code; it was not executed; save its state_dict first, in "
            f"python: import torch; torch.save(torch.jit.load('{path}', map_location='cpu').state_dict(), '{new}')"
        )
    try:
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):  # MAE's flags
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types of errors for invalid files
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is not None or head[:1] == b"\x80":
            what = f" ({code[1]})" if code else ""
            raise WeightsError(
                f"{path} is a pickle that contains code{what}; it was not executed; "
                f"use a safetensors file, or save only the tensors"
            ) from None
        raise WeightsError(
            f"{path} is neither a complete safetensors file nor a torch file; download it again"
        ) from None


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of a compiled program, as OpenAI's of CLIP are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False
