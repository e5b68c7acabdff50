"""The decoder of masked autoencoders: a small transformer that is thrown away once the encoder has learnt.

    seen tokens -> linear -> + mask tokens -> + positions -> blocks -> norm -> linear -> pixels of the hidden places

Attention does not ask in which order its tokens come, so nothing is put back into the order of the image: a token knows
its place from its position alone. Only hidden ones are predicted, and only they go through the last block.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.errors import UsageError


class Decoder(nn.Module):
    """
    Args:
        seen_width: channels of the tokens it is given.
        positions: (N, width), one for each place: a Parameter where they are learned, a tensor where they are fixed.
        values: to predict for each place.
        depth, heads: of the transformer.

    Raises:
        UsageError: no block, or heads that do not divide the width.
    """

    positions: Tensor

    def __init__(self, seen_width: int, positions: Tensor, values: int, *, depth: int, heads: int) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        width = positions.shape[1]
        if depth < 1 or heads < 1 or width % heads:
            raise UsageError(
                f"a decoder of {depth} blocks, {heads} heads and width {width} cannot be built; "
                f"take one or more blocks, and a width that the heads divide"
            )
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(seen_width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        if isinstance(positions, nn.Parameter):
            self.positions = positions
        else:
            self.register_buffer("positions", positions, persistent=False)
        *blocks, self.last = (Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(width)
        self.predict = nn.Linear(width, values)
        nn.init.normal_(self.mask_token, std=0.02)
        draw_weights(self)

    def forward(self, seen: Tensor, at: Tensor, hidden: Tensor) -> Tensor:
        """(B, T + M, seen_width) tokens, T of no place first; (B, M) places seen; (B, K) places hidden -> (B, K, P)"""
        places = F.embedding(torch.cat((at, hidden), 1), self.positions)  # (B, N, width)
        known, free = self.embed(seen), seen.shape[1] - at.shape[1]
        visible = known[:, free:] + places[:, : at.shape[1]]
        asked = self.mask_token + places[:, at.shape[1] :]
        x = self.blocks(torch.cat((known[:, :free], visible, asked), 1))
        return self.predict(self.norm(answers(self.last, x, hidden.shape[1])))


def answers(block: Any, x: Tensor, asked: int) -> Tensor:
    """(B, N, width) -> (B, asked, width): a timm block's output for the last tokens, which attend to all N."""
    attn, normed, mine = block.attn, block.norm1(x), x[:, -asked:]
    width, weight, bias = x.shape[-1], attn.qkv.weight, attn.qkv.bias
    q = F.linear(normed[:, -asked:], weight[:width], bias[:width]).unflatten(-1, (attn.num_heads, -1))
    kv = F.linear(normed, weight[width:], bias[width:]).unflatten(-1, (2, attn.num_heads, -1))
    k, v = kv.permute(2, 0, 3, 1, 4)
    mine = mine + attn.proj(F.scaled_dot_product_attention(q.transpose(1, 2), k, v).transpose(1, 2).flatten(2))
    return mine + block.mlp(block.norm2(mine))


def draw_weights(net: nn.Module) -> None:
    """Initialize the linear layers of a transformer as masked autoencoders do: Xavier uniform weights, zero bias.

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    embed = getattr(net, "patch_embed", None)
    if embed is not None:  # a linear layer on the pixels of a patch, written as a convolution
        nn.init.xavier_uniform_(embed.proj.weight.flatten(1))
