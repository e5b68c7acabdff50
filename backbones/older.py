"""Checkpoints with other names than timm's networks have today: timm's older ones and their authors', transformers'.

names do not cover the network -> of transformers: refused, and said -> timm's own filter -> names that do, or as before

timm's filters also resize position tables by assuming a square, and kernels of another patch size. Neither is wanted
here, so a filter is run on a network of the file's own size, and a tensor that it resampled is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from shared.errors import WeightsError
from shared.weights.card import listed

Tensors = dict[str, Tensor]
FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained", "pretrained_filter_fn")
TABLES = ("pos_embed", "relative_position_bias_table", "attention_biases", "rel_pos_h", "rel_pos_w")
# a key of each family of transformers, whatever stands before it
TRANSFORMERS = {
    "Swin": r"encoder\.layers\.\d+\.blocks\.\d+\.attention\.(self\.|[qkv]_proj)",
    "ConvNeXt": r"encoder\.stages\.\d+\.layers\.\d+\.(dwconv|depthwise_conv)\.",
    "ResNet": r"(embedder\.embedder|encoder\.stages\.\d+\.layers\.\d+\.(shortcut|layer\.\d+))\.convolution\.",
    "DINOv2": r"layer\.\d+\.layer_scale1\.lambda1$",
    "CLIP": r"(embeddings\.class_embedding|encoder\.layers\.\d+\.self_attn\.q_proj\.weight)$",
    "ViT": r"(layer\.\d+\.attention\.(attention\.query|q_proj)\.|embeddings\.patch_embeddings\.(projection\.)?weight$)",
}


def of_transformers(names: Mapping[str, Any]) -> str | None:
    """The family whose names in transformers these are, such as ViT; None if they are not of transformers."""
    for family, pattern in TRANSFORMERS.items():
        if any(re.search(rf"(^|\.){pattern}", name) for name in names):
            return family
    return None


def refuse_transformers(family: str, model: str) -> None:
    """Raise WeightsError."""
    raise WeightsError(
        f"the file has the tensor names of transformers ({family}), and {model} has timm's; import the file that timm "
        f"publishes of the same weights, or rename the tensors to timm's names"
    )


def filtered(tensors: Tensors, net: Any, covers: Callable[[Tensors], bool]) -> Tensors | None:
    """The tensors by timm's names of today, as its own filter for this network maps them; None where none does.

    Args:
        net: timm's network, of the size that the file was trained at.
        covers: True for tensors that have all names of the network.

    Raises:
        WeightsError: the filter resized a position table or a kernel.
    """
    for mapped in mappings(net):
        for candidate in (tensors, without_wrapper(tensors)):
            try:
                made = {name: v for name, v in mapped(dict(candidate), net).items() if isinstance(v, Tensor)}
            except Exception:  # a filter that is written for other files fails in any way
                continue
            if covers(made):
                refuse_resampled(candidate, made)
                return made
    return None


def mappings(net: Any) -> list[Callable[..., Any]]:
    found = []
    for owner in dict.fromkeys(kind.__module__ for kind in type(net).__mro__ if kind.__module__.startswith("timm.")):
        for name in FILTERS:
            mapped = getattr(sys.modules.get(owner), name, None)
            if mapped is not None:
                found += [mapped, partial(mapped, adapt_layer_scale=True)]  # the second is DeiT III's
    return found


def without_wrapper(tensors: Tensors) -> Tensors:
    """The tensors without the words that all names begin with, such as `module.`."""
    made = dict(tensors)
    while made:
        first = {name.partition(".")[0] for name in made}
        if len(first) > 1 or not all("." in name for name in made):
            return made
        made = {name.partition(".")[2]: value for name, value in made.items()}
    return made


def refuse_resampled(before: Tensors, after: Tensors) -> None:
    """Raise WeightsError if a table or kernel was changed instead of renamed."""
    there = {value.untyped_storage().data_ptr() for value in before.values()}
    fixed = [name for name, value in after.items() if value.dim() == 4 or name.endswith(TABLES)]
    changed = [name for name in fixed if after[name].untyped_storage().data_ptr() not in there]
    if changed:
        raise WeightsError(
            f"timm would resample {listed(changed)} from another patch or image size; give the size of the images that "
            f"the file was trained on with --trained-size, and the --model with its patch size"
        )


def dropped(before: Tensors, after: Tensors) -> tuple[str, ...]:
    """Names of the file's tensors that a filter left out, other than those it joined to larger ones."""
    there = {value.untyped_storage().data_ptr() for value in after.values()}
    gone = [name for name, value in before.items() if value.untyped_storage().data_ptr() not in there]
    known = {value.untyped_storage().data_ptr() for value in before.values()}
    joined = sum(v.numel() for v in after.values() if v.untyped_storage().data_ptr() not in known)
    return tuple(gone) if sum(before[name].numel() for name in gone) != joined else ()
