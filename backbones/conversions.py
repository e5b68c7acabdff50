"""Conversion of weights from one backbone to another.

    vit-to-vitdet       a plain ViT -> windows, relative positions and a neck; Li et al., "Exploring Plain Vision
                        Transformer Backbones for Object Detection", 2022
    hiera-to-hieradet   a Hiera with window positions -> images of any size, windows to the end; Bolya et al., "Window
    hieradet-to-hiera   Attention is Bugged", 2023
    resize              position and window embeddings to another size

A conversion is a function {tensors of the parent} -> {tensors of the child}; tensors it does not know stay in the
result and make `shared.weights.transfer.fill` raise. A table does not say whether its 64 positions are 8x8 or 4x16;
the parent does, the network that the tensors are of, built without weights. Layer scales that the child lacks are
multiplied into the preceding projection, which is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from math import isqrt
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.base import Backbone
from shared.errors import WeightsError

Tensors = dict[str, Tensor]
SPECIAL = ("net.cls_token", "net.reg_token")  # tokens of a ViT besides patches
SCALES = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}  # layer scale -> the preceding projection


class Conversion(NamedTuple):
    """One conversion.

    reads: True if the tensors are of a known parent.
    writes: True if the net is a known child.
    convert: tensors of the parent, the child, the parent -> tensors of the child.
    may_stay: patterns of the child's tensors that the parent lacks; they keep their initial values.
    """

    name: str
    reads: Callable[[Tensors], bool]
    writes: Callable[[Any], bool]
    convert: Callable[[Tensors, Backbone, Backbone | None], Tensors]
    may_stay: tuple[str, ...] = ()

    def __call__(self, tensors: Tensors, child: Backbone, parent: Backbone | None = None) -> tuple[Tensors, list[str]]:
        """The child's tensors, and the names of those that were converted.

        Args:
            parent: the network that the tensors are of, which may lie on the meta device; None if all its images are
                square.
        """
        made, _ = fit_sizes(fold_scales(self.convert(tensors, child, parent), child), child, parent)
        return made, [name for name, value in made.items() if value is not tensors.get(name)]

    def lets_stay(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.may_stay)


def conversion_for(tensors: Tensors, child: Backbone) -> Conversion | None:
    """The conversion from a parent's tensors to this child, or None."""
    net = getattr(child, "net", None)
    return next((way for way in CONVERSIONS if way.writes(net) and way.reads(tensors)), None)


# --- conversions ------------------------------------------------------------------------------


def vit_to_vitdet(tensors: Tensors, child: Backbone, parent: Backbone | None) -> Tensors:
    """Position embeddings become a grid; other tokens and the final norm are dropped. The child's neck is new.

    Raises:
        WeightsError: the position embeddings are not for a square image.
    """
    gone = (*SPECIAL, "net.norm.", "net.fc_norm.", "net.head")
    made = {name: value for name, value in tensors.items() if not name.startswith(gone)}
    others = sum(tensors[name].shape[1] for name in SPECIAL if name in tensors)
    made["net.pos_embed"] = as_grid(tensors["net.pos_embed"], others, grid_of(getattr(parent, "net", None)))
    return made


def grid_of(net: Any) -> tuple[int, int] | None:
    """Rows and columns of patches that a network was built for; None if it does not say."""
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    return None if grid is None else (int(grid[0]), int(grid[1]))


def as_grid(positions: Tensor, others: int, grid: tuple[int, int] | None = None) -> Tensor:
    """(1, N, C) -> (1, H, W, C), without the positions of other tokens, if there are any; a square without a grid."""
    count = positions.shape[1]
    for ahead in (others, 0):
        if grid is not None:
            if grid[0] * grid[1] == count - ahead:
                return positions[:, ahead:].unflatten(1, grid)
            continue
        side = isqrt(max(count - ahead, 0))
        if side * side == count - ahead:
            return positions[:, ahead:].unflatten(1, (side, side))
    raise WeightsError(f"{count} position embeddings are not for a square image; train the parent on square images")


def hiera_to_hieradet(tensors: Tensors, child: Backbone, parent: Backbone | None) -> Tensors:
    return {renamed(name, "net.pos_embed_win", "net.pos_embed_window"): value for name, value in tensors.items()}


def hieradet_to_hiera(tensors: Tensors, child: Backbone, parent: Backbone | None) -> Tensors:
    return {renamed(name, "net.pos_embed_window", "net.pos_embed_win"): value for name, value in tensors.items()}


def renamed(name: str, old: str, new: str) -> str:
    return new if name == old else name


def fold_scales(tensors: Tensors, child: Backbone) -> Tensors:
    """Multiply layer scales that the child lacks into its projections: gamma * (W x + b) = (gamma W) x + gamma b."""
    places, made = child.state_dict().keys(), dict(tensors)
    for name, gamma in tensors.items():
        scale = next((scale for scale in SCALES if name.endswith(scale)), None)
        if scale is None or name in places:
            continue
        before = name.removesuffix(scale) + SCALES[scale]
        if {f"{before}.weight", f"{before}.bias"} <= made.keys():
            del made[name]
            made[f"{before}.weight"] = made[f"{before}.weight"] * gamma[:, None]
            made[f"{before}.bias"] = made[f"{before}.bias"] * gamma
    return made


# --- sizes ----------------------------------------------------------------------------------


def fit_sizes(tensors: Tensors, child: Backbone, parent: Backbone | None = None) -> tuple[Tensors, list[str]]:
    """Resize position and window embeddings to the child's size; the tensors, and the names of the changed ones.

    Tensors of another shape for another reason are left as they are.

    Args:
        parent: the network that the tensors are of; None if all its images and windows are square.
    """
    mine, theirs, changed = child.state_dict(), dict(parent.named_modules()) if parent else {}, {}
    for name, value in tensors.items():
        place, _, leaf = name.rpartition(".")
        if name in mine and leaf in RESIZERS:
            module, old = child.get_submodule(place), theirs.get(place)
            if mine[name].shape == value.shape and not reshaped(module, old):
                continue
            resized = RESIZERS[leaf](value.float(), mine[name], module, old)
            if resized is not None and resized.shape == mine[name].shape:
                changed[name] = resized.to(value.dtype)
    return tensors | changed, list(changed)


def has_tables(net: Backbone) -> bool:
    """True if it has tensors that depend on the size of images or windows."""
    return any(name.rpartition(".")[2] in RESIZERS for name in net.state_dict())


def reshaped(module: Any, old: Any) -> bool:
    """True if the grids or windows of two modules differ, though they may have as many positions: 4x16 and 8x8."""
    grids, windows = ([read(net) for net in (module, old)] for read in (grid_of, window_of))
    return any(None not in pair and pair[0] != pair[1] for pair in (grids, windows))


def window_of(module: Any) -> tuple[int, int] | None:
    window = getattr(module, "window_size", None)
    return (int(window[0]), int(window[1])) if isinstance(window, (tuple, list)) and len(window) == 2 else None


def resized_positions(old: Tensor, like: Tensor, net: Any, parent: Any = None) -> Tensor | None:
    """(1, N, C), (1, H, W, C) or (1, C, H, W) -> the same for another grid; only patch positions are resized."""
    if old.dim() == like.dim() == 4 and old.shape == like.shape:
        return None
    if old.dim() == like.dim() == 4 and old.shape[-1] == like.shape[-1]:
        return resampled(old.permute(0, 3, 1, 2), like.shape[1:3]).permute(0, 2, 3, 1)
    if old.dim() == like.dim() == 4 and old.shape[1] == like.shape[1]:
        return resampled(old, like.shape[2:])
    grid = grid_of(net)
    if old.dim() != 3 or like.dim() != 3 or grid is None or old.shape[2] != like.shape[2]:
        return None
    ahead = like.shape[1] - grid[0] * grid[1]
    count = max(old.shape[1] - ahead, 0)
    rows, cols = grid_of(parent) or (isqrt(count), isqrt(count))
    if rows * cols != count:
        return None
    patches = old[:, ahead:].unflatten(1, (rows, cols)).permute(0, 3, 1, 2)
    return torch.cat((old[:, :ahead], resampled(patches, grid).flatten(2).transpose(1, 2)), 1)


def resized_line(old: Tensor, like: Tensor, module: Any, parent: Any = None) -> Tensor | None:
    """(L, C) relative positions along one side, resized as in SAM's attention."""
    return F.interpolate(old.T[None], like.shape[0], mode="linear")[0].T


def resized_window(old: Tensor, like: Tensor, module: Any, parent: Any = None) -> Tensor | None:
    """(offsets, heads) of a Swin window, resized."""
    side, before = isqrt(old.shape[0]), window_of(parent)
    rows, cols = (2 * before[0] - 1, 2 * before[1] - 1) if before else (side, side)
    tall, wide = (2 * edge - 1 for edge in module.window_size)
    if rows * cols != old.shape[0] or tall * wide != like.shape[0]:
        return None
    return resampled(old.T.unflatten(1, (rows, cols))[None], (tall, wide))[0].flatten(1).T


def resized_offsets(old: Tensor, like: Tensor, module: Any, parent: Any = None) -> Tensor | None:
    """(heads, offsets) of a LeViT or TinyViT window: vertical and horizontal distances, row by row."""
    side, wanted = isqrt(old.shape[1]), isqrt(like.shape[1])
    if side * side != old.shape[1] or wanted * wanted != like.shape[1]:
        return None
    return resampled(old.unflatten(1, (side, side))[None], (wanted, wanted))[0].flatten(1)


def resampled(planes: Tensor, size: Any) -> Tensor:
    """(1, C, h, w) -> (1, C, H, W)"""
    return F.interpolate(planes, tuple(size), mode="bicubic", antialias=True)


RESIZERS: dict[str, Callable[[Tensor, Tensor, Any, Any], Tensor | None]] = {
    "pos_embed": resized_positions,
    "rel_pos_h": resized_line,
    "rel_pos_w": resized_line,
    "relative_position_bias_table": resized_window,
    "attention_biases": resized_offsets,
}


# --- architectures ----------------------------------------------------------------------------


def is_vit(tensors: Tensors) -> bool:
    positions = tensors.get("net.pos_embed")
    return positions is not None and positions.dim() == 3 and "net.blocks.0.attn.qkv.weight" in tensors


def is_vitdet(net: Any) -> bool:
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    return isinstance(net, VisionTransformerSAM)


def is_hieradet(net: Any) -> bool:
    from timm.models.hieradet_sam2 import HieraDet

    return isinstance(net, HieraDet)


def is_hiera(net: Any) -> bool:
    from timm.models.hiera import Hiera

    return isinstance(net, Hiera)


CONVERSIONS = [
    Conversion("vit-to-vitdet", is_vit, is_vitdet, vit_to_vitdet, ("net.neck.*", "*.rel_pos_h", "*.rel_pos_w")),
    Conversion("hiera-to-hieradet", lambda t: "net.pos_embed_win" in t, is_hieradet, hiera_to_hieradet),
    Conversion("hieradet-to-hiera", lambda t: "net.pos_embed_window" in t, is_hiera, hieradet_to_hiera),
]
RESIZE = Conversion("resize", lambda tensors: True, lambda net: True, lambda tensors, child, parent: tensors)
