"""What timm needs to load exported weights: config.json, tried by loading them and comparing the vectors.

    {"architecture": timm's name, "num_features", "model_args", "pretrained_cfg": {mean, std, input_size, ...}}

timm.create_model("local-dir:FOLDER", pretrained=True) then gives what our network gives. A network that timm cannot
build from words alone, such as one with an activation of our own, gets no config.json, and the reason is told.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.timm_zoo import ZOO, Row, TimmBackbone, rms_norm
from shared.errors import UsageError
from shared.feeding.pixels import PixelStats
from shared.files import write_json

PREFIX = "net."  # of the names of our tensors
SPELLED = {rms_norm: "rmsnorm"}  # timm's words for arguments that are no JSON
# timm's settings of a network that its loader reads; others are of the weights that timm publishes
KEPT = ("pool_size", "fixed_input_size", "min_input_size", "interpolation", "first_conv", "classifier")


def config_of(
    name: str, net: Backbone, stats: PixelStats, *, args: dict[str, Any], size: tuple[int, int], share: float
) -> dict[str, Any]:
    """The content of config.json.

    Args:
        name: of the backbone.
        args: options it was built with.
        size: height and width of the images it was trained on.
        share: of the limiting side that a center crop keeps in evaluation.

    Raises:
        UsageError: timm has no such network, or cannot build it from words.
    """
    if not isinstance(net, TimmBackbone):
        raise UsageError(f"{name} is not a network of timm")
    row = ZOO.get(name, Row(name, vetted=False))
    if args.get("aws_compat") or row.modify is not None:
        raise UsageError(f"{name} is changed from timm's {row.timm_name}")
    inside: Any = net.net
    model_args: dict[str, Any] = {key: SPELLED.get(value, value) for key, value in row.args.items()}
    unsayable = [key for key, value in model_args.items() if callable(value)]
    if unsayable:
        raise UsageError(f"{name} has an argument that timm's config.json cannot say, {unsayable[0]}")
    if args.get("img_size"):
        model_args["img_size"] = list(args["img_size"])
    if getattr(inside, "dynamic_img_size", False):
        model_args["dynamic_img_size"] = True
    elif not getattr(getattr(inside, "patch_embed", None), "strict_img_size", True) and takes_strict(inside):
        model_args["strict_img_size"] = False
    architecture = row.timm_name.partition(".")[0]
    if architecture == "vision_transformer":  # timm builds any ViT by the name of one
        architecture, model_args = "vit_base_patch16_224", model_args | {"dynamic_img_size": True}
    known: dict[str, Any] = getattr(inside, "pretrained_cfg", None) or {}
    cfg = {key: known.get(key) for key in KEPT if known.get(key) is not None or key in ("first_conv", "classifier")}
    cfg |= {"num_classes": 0, "input_size": [3, *size], "crop_pct": share, "crop_mode": "center"}
    cfg |= {"interpolation": "bilinear", "mean": list(stats.mean), "std": list(stats.std)}
    told = {"architecture": architecture, "num_classes": 0, "num_features": int(inside.num_features)}
    return told | ({"model_args": model_args} if model_args else {}) | {"pretrained_cfg": cfg}


def takes_strict(inside: nn.Module) -> bool:
    return "strict_img_size" in inspect.signature(type(inside).__init__).parameters


def write_config(folder: Path, config: dict[str, Any], net: Backbone) -> None:
    """Write config.json to a folder that has the weights under timm's names; load both with timm and compare.

    Raises:
        UsageError: timm cannot load them, or gives other vectors; the file is then removed.
    """
    write_json(folder / "config.json", config)
    try:
        check_same(folder, net, config["pretrained_cfg"]["input_size"][1:])
    except UsageError:
        (folder / "config.json").unlink()
        raise


def check_same(folder: Path, net: Backbone, size: list[int]) -> None:
    """Raise UsageError unless timm loads the folder completely and gives the vectors of the network."""
    import timm

    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architecture"]
    try:
        with torch.random.fork_rng(devices=()):  # initial values are overwritten, and the caller's state stays
            theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        other = vector(theirs, image)
    except (RuntimeError, TypeError, ValueError, KeyError, AssertionError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UsageError(f"timm's {name} does not take these weights ({reason})") from None
    mine = vector(net.eval(), image)
    if mine.shape != other.shape or not torch.allclose(mine, other, rtol=1e-3, atol=1e-4 * float(mine.abs().max())):
        raise UsageError(f"timm's {name} gives something else with these weights")


def vector(net: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return net(image)
