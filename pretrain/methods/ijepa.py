"""I-JEPA: predict the features of target blocks of an image from a context block.

Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", 2023.

    image -> context patches -> encoder -> predictor at the positions of each target block -> features    | smooth L1
    image -> all patches -> EMA encoder -> layer norm -> target features                                |

Letters: B images, K target blocks of T patches each, M patches of context, N patches of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.tokens import (
    fix_sincos_positions,
    forward_tokens,
    freeze_beyond_tokens,
    sincos_positions,
    take_tokens,
    token_grid,
    vit_of,
)
from pretrain.joint.teacher import copied, follow
from pretrain.masked.block_masks import BlockMasks
from pretrain.methods import Facts, Method, View, method
from pretrain.views.crops import RandomResizedCrop, ResizeCenterCrop
from shared.errors import UsageError
from shared.feeding.pixels import Normalize
from shared.recipes.values import Count, CountOrNone, Layers, Probability, Share, Width

TRAINED = {
    "by": "its paper",
    "opt": "adamw",
    "betas": (0.9, 0.999),
    "lr": 1e-3,
    "lr_batch": 2048,
    "wd": 0.04,
    "wd_end": 0.4,
    "norm_wd": 0,
    "bias_wd": 0,
    "lr_scheduler": "cosine",
    "lr_cosine_min": 1e-6,
    "epochs": 300,
    "warmup_epochs": 40,
    "warmup_start": 0.2,
}


@method("i-jepa", trained=TRAINED)
class IJEPA(Method):
    """I-JEPA with an EMA target encoder.

    The EMA encoder is `target`, without gradients and without stochastic depth.

    Args:
        predictor_width: channels of the predictor.
        predictor_depth: blocks of the predictor.
        predictor_heads: attention heads of the predictor; 0 for the backbone's number.
        momentum: initial EMA momentum; increases linearly to 1 at the end.
        num_targets: target blocks per image.
        min_keep: the context keeps more patches than this.
        crop_scale: smallest area of a training crop as a fraction of the image.
        fixed_positions: sine-cosine positions instead of learned ones; published weights keep their own.
        export_target: export the EMA encoder, as the paper evaluates, instead of the trained one.
    """

    needs = "a plain vision transformer whose patches divide the image"
    backbone_calls = ()  # its blocks, one by one, on the tokens that are seen
    graphs = ("differ",)

    def __init__(
        self,
        backbone: Backbone,
        facts: Facts,
        *,
        predictor_width: Width = 384,
        predictor_depth: Layers = 12,
        predictor_heads: CountOrNone = 0,
        momentum: Probability = 0.996,
        num_targets: Count = 4,
        min_keep: CountOrNone = 10,
        crop_scale: Share = 0.3,
        fixed_positions: bool = True,
        export_target: bool = True,
    ) -> None:
        super().__init__()
        grid = token_grid(backbone, facts.size)
        self.masks = BlockMasks(grid, num_targets=num_targets, min_keep=min_keep)
        heads = predictor_heads or heads_of(backbone)
        self.predictor = Predictor(grid, vit_of(backbone).embed_dim, predictor_width, predictor_depth, heads)
        if fixed_positions and backbone.pixels is None:
            fix_sincos_positions(backbone)
        freeze_beyond_tokens(backbone)
        self.backbone = backbone
        self.target = copied(backbone)
        self.normalize = Normalize(facts.pixels)
        self.size, self.momentum, self.crop_scale, self.export_target = facts.size, momentum, crop_scale, export_target
        self.step = 0

    def view(self) -> View:
        return RandomResizedCrop(self.size, scale=(self.crop_scale, 1.0))

    def val_view(self) -> View:
        return ResizeCenterCrop(self.size)

    def before_step(self, step: int) -> None:
        self.step = step

    def beside(self) -> Callable[[int, int], tuple[Tensor, Tensor]]:
        """The masks, drawn by the loading workers, so that a GPU does not wait for them."""
        return self.masks.beside

    def forward(self, batch: tuple[Any, ...]) -> dict[str, Tensor]:
        """Images (B, 3, H, W) uint8; labels, which are ignored; the masks, which are drawn here if they are missing."""
        x = self.normalize(batch[0])
        masks = batch[2] if len(batch) > 2 else self.masks.draw(len(x), self.step)
        context, targets = (indices.to(x.device) for indices in masks)
        return {"prediction": self.differ(x, context, targets)}

    def differ(self, x: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """Images (B, 3, H, W), indices (B, M) of the context and (B, K, T) of the targets -> ()"""
        wanted = self.look_up(x, targets)
        predicted = self.predictor(forward_tokens(self.backbone, x, context), context, targets)
        return F.smooth_l1_loss(predicted.float(), wanted)

    @torch.no_grad()
    def look_up(self, x: Tensor, targets: Tensor) -> Tensor:
        """Images (B, 3, H, W), indices (B, K, T) -> target features (B, K, T, width) of the EMA encoder."""
        features = forward_tokens(self.target, x).float()
        features = F.layer_norm(features, features.shape[-1:])
        return take_tokens(features, targets.flatten(1)).unflatten(1, targets.shape[1:])

    def after_step(self, progress: float) -> None:
        follow(self.target, self.backbone, (1 - self.momentum) * (1 - progress))

    def train(self, mode: bool = True) -> IJEPA:
        super().train(mode)
        self.target.eval()  # targets are computed without dropout
        return self

    def exports(self) -> dict[str, nn.Module]:
        return {"backbone": self.target if self.export_target else self.backbone}


class Predictor(nn.Module):
    """The predictor: a narrow transformer from context features to features at the target positions.

    Args:
        grid: rows and columns of patches.
        width: channels of input and output features.
        inner: channels of the predictor.
        depth, heads: blocks, and attention heads of each.

    Raises:
        UsageError: the heads or the positions do not fit the width.
    """

    positions: Tensor

    def __init__(self, grid: tuple[int, int], width: int, inner: int, depth: int, heads: int) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        if heads < 1 or inner % heads:
            raise UsageError(f"{heads} attention heads do not divide predictor_width {inner}; give --predictor-heads")
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.register_buffer("positions", sincos_positions(*grid, inner), persistent=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.narrow = nn.Linear(width, inner)
        *first, last = (Block(inner, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.blocks = nn.Sequential(*first)
        self.last = last  # separate, because its forward is not called
        self.norm = norm(inner)
        self.widen = nn.Linear(inner, width)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, seen: Tensor, context: Tensor, targets: Tensor) -> Tensor:
        """Context features (B, M, width), their indices (B, M), target indices (B, K, T) -> (B, K, T, width).

        Target blocks do not attend to each other.
        """
        blocks, asked = targets.shape[1:]
        known = self.narrow(seen) + self.positions[context]
        questions = (self.mask_token + self.positions[targets].flatten(0, 1)).to(known.dtype)
        x = torch.cat((known.repeat_interleave(blocks, 0), questions), 1)
        answers = last_tokens(self.last, self.blocks(x), asked)
        return self.widen(self.norm(answers)).unflatten(0, (-1, blocks))


def last_tokens(block: Any, x: Tensor, count: int) -> Tensor:
    """(B, N, D) -> (B, count, D): a timm block's output for the last tokens only, which attend to all.

    The predictor's last block needs no output for the context tokens.
    """
    attention, y = block.attn, block.norm1(x)
    q_and_kv = (x.shape[-1], 2 * x.shape[-1])
    weight_q, weight_kv = attention.qkv.weight.split(q_and_kv)
    bias_q, bias_kv = attention.qkv.bias.split(q_and_kv)
    heads = (attention.num_heads, attention.head_dim)
    q = F.linear(y[:, -count:], weight_q, bias_q).unflatten(2, heads).transpose(1, 2)
    k, v = F.linear(y, weight_kv, bias_kv).unflatten(2, (2, *heads)).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x[:, -count:] + attention.proj(attended)
    return x + block.mlp(block.norm2(x))


def heads_of(backbone: Backbone) -> int:
    """Attention heads of a vision transformer's blocks; 0 if unknown."""
    block = vit_of(backbone).blocks[0]
    return getattr(getattr(block, "attn", block), "num_heads", 0)
