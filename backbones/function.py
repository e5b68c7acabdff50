"""Do two networks with the same tensors compute the same? What differs is named: activation, padding, epsilon.

modules of both, by name -> type, settings -> differences -> if there are any: the same weights in both, one image
                                                         -> equal features or not

timm has many networks with equal tensors that compute something else, such as `efficientnet_b0` and its `tf_` variant.
"""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.timm_zoo import Row, TimmBackbone
from shared.errors import UsageError

WITHOUT_EFFECT = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in evaluation
# settings for training, or that say nothing about what is computed from an image
IGNORED = {
    "training", "inplace", "momentum", "drop_prob", "scale_by_keep", "p", "drop", "drop_rate", "grad_checkpointing",
    "fused_attn", "num_batches_tracked", "track_running_stats", "drop_path_rate", "dynamic_img_pad", "dynamic_img_size",
    "strict_img_size", "num_classes", "global_pool", "always_partition", "pretrained_cfg", "default_cfg", "device",
}  # fmt: skip
CLOSE = 1e-7  # of float64 features, relative; rounding is below 1e-11, and an epsilon of 1e-5 for 1e-6 is above 1e-6


def on_meta(build: Any, *args: Any, **options: Any) -> Any:
    """Build a network without memory for its weights, or with it where it cannot be built so."""
    for place in (torch.device("meta"), nullcontext()):
        try:
            with place:
                return build(*args, **options)
        except UsageError:
            raise
        except Exception:  # some of timm's nets compute tables from values, which meta tensors lack
            if isinstance(place, nullcontext):
                raise
    raise AssertionError("the last place returns or raises")


def timm_net(name: str, args: dict[str, Any] | None = None) -> TimmBackbone:
    """A network as timm builds it, whatever the name means here. Raises UsageError."""
    return TimmBackbone(Row(name, args or {}))


def same_tensors(mine: Backbone, theirs: Backbone) -> bool:
    """True if both have tensors of the same names and shapes."""
    ours, others = mine.state_dict(), theirs.state_dict()
    return ours.keys() == others.keys() and all(value.shape == others[name].shape for name, value in ours.items())


def differences(mine: nn.Module, theirs: nn.Module) -> list[str]:
    """What differs between the modules of two networks, as "ours for theirs", most frequent first."""
    others, counts = dict(theirs.named_modules()), Counter[str]()
    for name, module in mine.named_modules():
        other = others.pop(name, None)
        if other is not None and not (isinstance(module, WITHOUT_EFFECT) and isinstance(other, WITHOUT_EFFECT)):
            counts.update(differing(module, other))
    return [f"{what} in {count} places" if count > 1 else what for what, count in counts.most_common()]


def differing(mine: nn.Module, theirs: nn.Module) -> list[str]:
    if kind(mine) != kind(theirs):
        harmless = {"DropPath", "Identity", "Dropout", "DropBlock2d"}
        return [] if {kind(mine), kind(theirs)} <= harmless else [f"{kind(mine)} for {kind(theirs)}"]
    ours, others = settings(mine), settings(theirs)
    odd = sorted(name for name in ours.keys() | others.keys() if ours.get(name) != others.get(name))
    return [f"{kind(mine)} with {name} {ours.get(name)} for {others.get(name)}" for name in odd]


def kind(module: nn.Module) -> str:
    return type(module).__name__


def settings(module: nn.Module) -> dict[str, Any]:
    """Numbers, words and functions among a module's attributes."""
    plain: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name in IGNORED:
            continue
        if isinstance(value, (int, float, str, bool, type(None))):
            plain[name] = value
        elif isinstance(value, (tuple, list)) and all(isinstance(v, (int, float, str)) for v in value):
            plain[name] = tuple(value)
        elif callable(value) and not isinstance(value, nn.Module):
            plain[name] = getattr(value, "__name__", type(value).__name__)
    return plain


def compute_the_same(mine: Backbone, theirs: Backbone, size: tuple[int, int]) -> bool:
    """Compare the maps of one random image of (height, width) in float64; `theirs` gets the weights of `mine`."""
    theirs.load_state_dict(mine.state_dict())
    image = torch.rand(1, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        maps = [net.eval().double().forward_features(image) for net in (deepcopy(mine), theirs)]
    return all(near(a, b) for a, b in zip(*maps, strict=True))


def near(mine: Tensor, theirs: Tensor) -> bool:
    return mine.shape == theirs.shape and float((mine - theirs).abs().max()) <= CLOSE * float(theirs.abs().max())
