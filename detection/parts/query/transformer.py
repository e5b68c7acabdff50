"""DETR's transformer: positions are added to queries and keys, not to values.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020.

    encoder layer   self-attention -> feed-forward
    decoder layer   self-attention of the queries -> attention to the memory -> feed-forward

Sublayers are residual, with layer norm after (post-norm) or before them (pre-norm). A `bias` is added to the attention
logits: -Inf masks padding, and SMCA adds Gaussians.

Shape letters: B images, Q queries, S cells of the memory, C channels, H heads, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.parts.fixed import shapes_are_fixed
from detection.parts.query.dropout import Dropout, dropout
from shared.errors import UsageError


class Attention(nn.Module):
    """Multi-head attention with the parameters of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_width(width, heads)
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, Q, C), (B, S, C), (B, S, C), bias broadcastable to (B, H, Q, S) -> (B, Q, C)"""
        width = query.shape[-1]
        if query is keys:  # one matrix product instead of two
            weights, biases = self.in_proj_weight.split((2 * width, width)), self.in_proj_bias.split((2 * width, width))
            q, k = F.linear(query, weights[0], biases[0]).chunk(2, -1)
            v = F.linear(values, weights[1], biases[1])
        else:
            each = zip((query, keys, values), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
            q, k, v = (F.linear(x, weight, bias) for x, weight, bias in each)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        bias = None if bias is None else bias.to(q.dtype)
        found = attend(q, k, v, bias, self.dropout if self.training else 0.0)
        return self.out_proj(found.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, share: float) -> Tensor:
    """(B, H, Q, D), (B, H, S, D), (B, H, S, D) -> (B, H, Q, D), with dropout of the attention weights."""
    learned = bias is not None and bias.requires_grad  # the fused CPU kernel has no gradient for it
    by_steps = learned or share or (bias is not None and shapes_are_fixed())  # not every exporter takes a bias apart
    if q.device.type != "cpu" or not by_steps:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=share)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # logits at first; in place to save memory
    if bias is not None:
        weights += bias
    weights = weights.softmax(-1)
    return (dropout(weights, share) if share else weights) @ v


class EncoderLayer(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        feedforward: int,
        dropout: float,
        *,
        pre_norm: bool = False,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feed = FeedForward(width, feedforward, dropout, activation)
        self.around_attention, self.around_feed = (ResidualNorm(width, dropout, pre_norm=pre_norm) for _ in range(2))

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, S, C), (B, S, C), bias of the logits -> (B, S, C)"""

        def attend(x: Tensor) -> Tensor:
            placed = x + positions
            return self.attention(placed, placed, x, bias)

        return self.around_feed(self.around_attention(x, attend), self.feed)


class Encoder(nn.ModuleList):
    """Encoder layers: self-attention over the cells of a map."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float, **told: Any) -> None:
        super().__init__(EncoderLayer(width, heads, feedforward, dropout, **told) for _ in range(layers))

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, S, C), (B, S, C), bias of the logits -> (B, S, C)"""
        for layer in self:
            x = layer(x, positions, bias)
        return x


class DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.cross_attention = Attention(width, heads, dropout)
        self.feed = FeedForward(width, feedforward, dropout)
        self.around_self, self.around_cross, self.around_feed = (
            ResidualNorm(width, dropout, pre_norm=pre_norm) for _ in range(3)
        )

    def forward(self, x: Tensor, positions: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, Q, C) query states.
            positions: (B, Q, C) query positions.
            keys: (B, S, C) memory plus positions.
            values: (B, S, C) memory.
            bias: added to the cross-attention logits; broadcastable to (B, H, Q, S).

        Returns:
            (B, Q, C).
        """

        def attend(x: Tensor) -> Tensor:
            placed = x + positions
            return self.self_attention(placed, placed, x)

        x = self.around_self(x, attend)
        x = self.around_cross(x, lambda x: self.cross_attention(x + positions, keys, values, bias))
        return self.around_feed(x, self.feed)


class FeedForward(nn.Sequential):
    """Feed-forward network: (..., C) -> (..., C)."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0, activation: type[nn.Module] = nn.ReLU) -> None:
        between = nn.ReLU(inplace=True) if activation is nn.ReLU else activation()
        super().__init__(nn.Linear(width, hidden), between, Dropout(dropout), nn.Linear(hidden, width))
        xavier(self)


class ResidualNorm(nn.Module):
    """Residual connection with dropout and layer norm around a sublayer."""

    def __init__(self, width: int, dropout: float, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.norm, self.drop, self.pre_norm = nn.LayerNorm(width), Dropout(dropout), pre_norm

    def forward(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.drop(step(self.norm(x)))
        return self.norm(x + self.drop(step(x)))


class MLP(nn.Sequential):
    """`layers` linear layers with ReLU between them; the input has `width` channels, or `into`."""

    def __init__(self, width: int, out: int, layers: int = 3, *, into: int | None = None) -> None:
        channels = [into or width, *[width] * (layers - 1)]
        inner = [x for a, b in pairwise(channels) for x in (nn.Linear(a, b), nn.ReLU(inplace=True))]
        super().__init__(*inner, nn.Linear(width, out))


def hide(padding: Tensor | None) -> Tensor | None:
    """Padding mask (B, S), True for padding -> attention bias (B, 1, 1, S) with -Inf there."""
    if padding is None:
        return None
    return torch.zeros(padding.shape, device=padding.device).masked_fill_(padding, -torch.inf)[:, None, None]


def xavier(module: nn.Module) -> None:
    """Xavier initialization of all weights, as in DETR."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)


def check_width(width: int, heads: int) -> None:
    """Raise UsageError unless the width is a multiple of the heads and of 4, for sine positions."""
    if width % heads or width % 4:
        raise UsageError(f"width {width} does not fit {heads} heads; give a multiple of {heads} and of 4")
