"""Optimizer and parameter groups, each with its own learning rate and weight decay.

    rate    backbone block i of n: backbone_lr * layer_decay ** (n - i);  everything else: lr
    decay   normalization layers: norm_wd;  biases: bias_wd;  everything else: wd

The learning rates of a layer with an attribute `lr_scale` are multiplied by it.

Layer decay applies to the backbone's blocks; neck and heads stay at 1, as in
Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", 2022.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from shared.errors import UsageError
from shared.loop.lars import LARS
from shared.recipes.recipe import OptimConfig


def parameter_groups(task: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Trainable parameters grouped by (learning rate, weight decay); each group has a readable `name`."""
    depth_of = block_depths(task)
    kinds, scales = parameter_kinds(task), parameter_scales(task)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in task.named_parameters():
        if not parameter.requires_grad:
            continue
        lr, part = config.lr, "head"
        if id(parameter) in depth_of:
            below, part = depth_of[id(parameter)], "backbone"
            lr = config.lr if config.backbone_lr is None else config.backbone_lr
            if config.layer_decay is not None:
                lr *= config.layer_decay**below
        lr *= scales.get(id(parameter), 1.0)
        wd = {"norm": config.norm_wd, "bias": config.bias_wd}.get(kinds.get(id(parameter), "weight"), config.wd)
        wd = config.wd if wd is None else wd
        group = groups.setdefault((lr, wd), {"params": [], "names": [], "lr": lr, "weight_decay": wd, "parts": set()})
        group["params"].append(parameter)
        group["names"].append(name)
        group["parts"].add(part)
    if not groups:
        raise UsageError("every parameter is frozen; remove one of the --freeze flags")
    return [
        {
            "params": g["params"],
            "lr": g["lr"],
            "initial_lr": g["lr"],
            "weight_decay": g["weight_decay"],
            "initial_wd": g["weight_decay"],
            "name": " and ".join(sorted(g["parts"])),
            "names": g["names"],
        }
        for g in groups.values()
    ]


def for_batch(config: OptimConfig, step_size: int) -> OptimConfig:
    """The config with learning rates scaled linearly from --lr-batch to `step_size` images per optimizer step.

    Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """
    if config.lr_batch is None:
        return config
    share = step_size / config.lr_batch
    backbone_lr = None if config.backbone_lr is None else config.backbone_lr * share
    return replace(config, lr=config.lr * share, backbone_lr=backbone_lr)


def block_depths(task: nn.Module) -> dict[int, int]:
    """Depth of each backbone parameter by id, counted in blocks below the head; 1 is the last block."""
    backbone = getattr(task, "backbone", None)
    if backbone is None:
        return {}
    blocks = backbone.blocks()
    return {id(p): len(blocks) - i for i, block in enumerate(blocks) for p in block}


def parameter_scales(module: nn.Module) -> dict[int, float]:
    """Learning rate multiplier by parameter id, for layers with an attribute `lr_scale`."""
    slow = [layer for layer in module.modules() if hasattr(layer, "lr_scale")]
    return {id(p): float(layer.lr_scale) for layer in slow for p in layer.parameters()}  # type: ignore[arg-type]


def parameter_kinds(module: nn.Module) -> dict[int, str]:
    """'norm' or 'bias' by parameter id, for parameters of normalization layers and biases of other layers."""
    kinds: dict[int, str] = {}
    for layer in module.modules():
        named = type(layer).__name__.lower()
        is_norm = isinstance(layer, _NormBase | nn.LayerNorm | nn.GroupNorm) or named.endswith(("norm", "norm2d"))
        for name, parameter in layer.named_parameters(recurse=False):
            if is_norm:
                kinds[id(parameter)] = "norm"
            elif name.endswith("bias"):
                kinds[id(parameter)] = "bias"
    return kinds


def build_optimizer(task: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The recipe's optimizer over `parameter_groups`."""
    groups = [{k: v for k, v in g.items() if k not in ("names", "name")} for g in parameter_groups(task, config)]
    fused = all(p.is_cuda for g in groups for p in g["params"])
    how: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    if config.opt == "adamw":
        if len(config.betas) != 2:
            raise UsageError(f"--betas takes two numbers, such as 0.9 0.999; there are {len(config.betas)}")
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.betas[0], config.betas[1]), **how)
    if config.opt == "lars":
        return LARS(groups, config.lr, momentum=config.momentum)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.opt == "nesterov", **how)
