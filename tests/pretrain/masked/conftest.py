"""Small vision transformers, and the weights of transformers' networks under timm's names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones.base import Backbone
from backbones.timm_zoo import Row, TimmBackbone

RENAMED = [
    (r"^(vit|swin)\.", ""),
    (r"^embeddings\.(cls_token|norm|patch_embeddings|position_embeddings)", r"\1"),
    (r"^patch_embeddings\.projection", "patch_embed.proj"),
    (r"^norm\.", "patch_embed.norm."),
    (r"^position_embeddings", "pos_embed"),
    (r"^layers\.(\d+)", r"blocks.\1"),
    (r"^encoder\.", ""),
    (r"^layers\.0\.downsample", "layers.1.downsample"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.o_proj", "attn.proj"),
    (r"attention\.relative_position_bias", "attn"),
    (r"attention\.q_proj", "attn.qkv"),
    (r"^layernorm", "norm"),
]


@pytest.fixture
def as_timm() -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """State of a ViT or Swin of transformers -> the same as timm's; what timm keeps elsewhere stays as it is."""

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {}
        for name, value in state.items():
            if "k_proj" in name or "v_proj" in name:
                continue
            if "q_proj" in name:
                value = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            for old, new in RENAMED:
                name = re.sub(old, new, name)
            named[name] = value
        return named

    return convert


@pytest.fixture
def small_vit() -> Callable[..., Backbone]:
    """A plain ViT of two blocks, width 32, built for 32 pixels in patches of 8; its class token may be left out."""

    def make(**told: Any) -> Backbone:
        args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2} | told
        if not args.get("class_token", True):
            args = {"global_pool": "avg", "fc_norm": False} | args
        return TimmBackbone(Row("vision_transformer", args))

    return make
