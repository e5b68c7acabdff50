"""A trained backbone as a network of the library it comes from: the same tensors, the same function.

to_timm           the timm network inside, without classifier
to_torchvision    torchvision's network of the same tensors, its classifier an identity; compared on an image
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from backbones.base import Backbone
from backbones.function import on_meta
from backbones.published import BACKBONES
from backbones.timm_zoo import TimmBackbone
from backbones.torchvision_zoo import TorchvisionBackbone
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PixelStats

NAMES = tuple(name.removesuffix("_Weights").lower() for name in BACKBONES)  # of torchvision's builders
SIDE = 64  # pixels; of the comparison


def to_timm(net: Backbone, stats: PixelStats) -> nn.Module:
    """A copy of the timm network, in eval mode: (B, 3, H, W) -> (B, width); `forward_features` and the rest as in timm.

    Its `pretrained_cfg` has the pixel mean and std that the weights expect.

    Raises:
        UsageError: the backbone is none of timm's.
    """
    if not isinstance(net, TimmBackbone):
        raise UsageError(f"{named(net)} is not a network of timm; {other_ways(net)}")
    copy: Any = deepcopy(net.net).eval()
    known = getattr(copy, "pretrained_cfg", None) or {}
    copy.pretrained_cfg = {**known, "mean": tuple(stats.mean), "std": tuple(stats.std), "num_classes": 0}
    return copy


def to_torchvision(net: Backbone) -> nn.Module:
    """torchvision's network of the same tensors, in eval mode.

    Its classifier is an identity: ResNets return (B, width), MobileNetV3 too, VGG16 (B, 512 * 7 * 7).

    Raises:
        UsageError: torchvision has no such network.
        WeightsError: it has, and computes something else.
    """
    from torchvision.models import get_model

    inside = {name.removeprefix("net."): value for name, value in net.state_dict().items()}
    for name in NAMES if isinstance(net, TimmBackbone | TorchvisionBackbone) else ():
        theirs = body_of(headless(on_meta(get_model, name))).state_dict()
        if theirs.keys() != inside.keys() or any(theirs[key].shape != value.shape for key, value in inside.items()):
            continue
        with torch.random.fork_rng(devices=()):  # initial values are overwritten, and the caller's state stays
            made = headless(get_model(name)).eval()
        body_of(made).load_state_dict(inside)
        check_same(net, made, name)
        return made
    raise UsageError(f"torchvision has no network with the tensors of {named(net)}; {other_ways(net)}")


def headless(made: Any) -> Any:
    """The network with an identity for its classifier."""
    for head in ("fc", "classifier"):
        if hasattr(made, head):
            setattr(made, head, nn.Identity())
    return made


def body_of(made: Any) -> nn.Module:
    """The part whose tensors a backbone has: all of a ResNet, the features of the others."""
    return made.features if hasattr(made, "features") else made


def check_same(net: Backbone, made: Any, name: str) -> None:
    """Raise WeightsError if two networks of the same tensors have other maps of an image."""
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    was = net.training
    with torch.no_grad():
        mine = net.eval().forward_features(image)[-1]
        layers = [made.features] if hasattr(made, "features") else list(made.children())[:-2]
        if name.startswith("vgg"):
            layers = list(made.features)[:-1]  # all but the last pooling
        theirs = nn.Sequential(*layers)(image)
    net.train(was)
    if mine.shape != theirs.shape or not torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5):
        raise WeightsError(f"torchvision's {name} has the same tensors and computes something else; {other_ways(net)}")


def named(net: Backbone) -> str:
    return type(getattr(net, "net", net)).__name__


def other_ways(net: Backbone) -> str:
    ways = "to_torchvision()" if isinstance(net, TorchvisionBackbone) else "to_timm()"
    return f"use {ways}, or the backbone itself, a torch module"
