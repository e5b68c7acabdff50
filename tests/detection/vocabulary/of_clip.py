"""A CLIP of open_clip with small random towers, as the files of OpenAI name its tensors."""

from __future__ import annotations

from typing import Any

import torch


def small_clip(seed: int = 0, *, gelu: bool = False) -> Any:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(seed)
    return CLIP(
        embed_dim=16,
        vision_cfg=CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32, patch_size=None),  # type: ignore[arg-type]
        text_cfg=CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=2),
        quick_gelu=not gelu,
    ).eval()
