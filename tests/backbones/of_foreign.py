"""A small ViT, and networks filled with somebody else's checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from backbones.conversions import fit_sizes
from backbones.foreign import Foreign, recognize
from backbones.timm_zoo import Row, TimmBackbone
from shared.weights.transfer import fill

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def tiny_vit(**args: Any) -> Any:
    told = TINY | {"img_size": 64, "patch_size": 16}
    return TimmBackbone(Row("vision_transformer", told | args)).eval()


def scrambled(net: Any) -> Any:
    """Every parameter and running statistic has a value of its own."""
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 1.5)
        elif value.is_floating_point():
            value.add_(torch.randn_like(value), alpha=0.02 if value.dim() > 1 else 0.2)
    return net.eval()


def taken(content: Any, net: Any, model: str = "some_net", allow_missing: tuple[str, ...] = ()) -> Foreign:
    """Understand the content and fill the net with all of it."""
    found = recognize(content, model, net)
    tensors, _ = fit_sizes(found.tensors, net)
    fill(net, tensors, source="file", digest="", allow_missing=("*.num_batches_tracked", *allow_missing))
    net.eval()
    return found


def behind(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}
