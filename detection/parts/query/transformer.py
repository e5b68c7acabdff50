"""A transformer whose queries and keys know where they are and whose values do not.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020.

    encoder layer   self-attention -> feed-forward
    decoder layer   self-attention of the queries -> attention to the memory -> feed-forward

Every step is added to what it was given, and normalized after that (post-norm) or before it (pre-norm). A `bias` is
added to the logits of attention: minus infinity hides padding, and who wants queries to look somewhere says so there.

Shape letters: B images, Q queries, S places of the memory, C channels, H heads, L layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.parts.query.dropout import Dropout, dropout
from shared.errors import UsageError


class Attention(nn.Module):
    """Multi-head attention whose parameters are those of `nn.MultiheadAttention`."""

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
        """(B, Q, C), (B, S, C), (B, S, C), something that broadcasts to (B, H, Q, S) -> (B, Q, C)"""
        width = query.shape[-1]
        if query is keys:  # one product instead of two
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
    """(B, H, Q, D), (B, H, S, D), (B, H, S, D) -> (B, H, Q, D), leaving out a share of all that is looked at."""
    learnt = bias is not None and bias.requires_grad  # a processor's fused kernel has no slope for it
    if q.device.type != "cpu" or not (share or learnt):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=share)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # logits as yet; no more of their size than must be
    if bias is not None:
        weights += bias
    weights = weights.softmax(-1)
    return (dropout(weights, share) if share else weights) @ v


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int, dropout: float, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.feed = FeedForward(width, feedforward, dropout)
        self.around_attention, self.around_feed = (ResidualNorm(width, dropout, pre_norm=pre_norm) for _ in range(2))

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, S, C), (B, S, C), bias of the logits -> (B, S, C)"""

        def attend(x: Tensor) -> Tensor:
            placed = x + positions
            return self.attention(placed, placed, x, bias)

        return self.around_feed(self.around_attention(x, attend), self.feed)


class Encoder(nn.ModuleList):
    """Layers in which the places of a map look at one another."""

    def __init__(
        self, layers: int, width: int, heads: int, feedforward: int, dropout: float, *, pre_norm: bool = False
    ) -> None:
        super().__init__(EncoderLayer(width, heads, feedforward, dropout, pre_norm=pre_norm) for _ in range(layers))

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
            x: (B, Q, C) what the queries hold.
            positions: (B, Q, C) where they are.
            keys: (B, S, C) the memory and where it is.
            values: (B, S, C) the memory.
            bias: added to the logits of the attention to the memory; it broadcasts to (B, H, Q, S).

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
    """(..., C) -> (..., C): every place by itself."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(inplace=True), Dropout(dropout), nn.Linear(hidden, width))
        xavier(self)


class ResidualNorm(nn.Module):
    """What is around each step of a layer: it is added to what it was given, and normalized after that or before it."""

    def __init__(self, width: int, dropout: float, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.norm, self.drop, self.pre_norm = nn.LayerNorm(width), Dropout(dropout), pre_norm

    def forward(self, x: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre_norm:
            return x + self.drop(step(self.norm(x)))
        return self.norm(x + self.drop(step(x)))


class MLP(nn.Sequential):
    """`layers` linear layers with ReLU between them, all of one width but the last."""

    def __init__(self, width: int, out: int, layers: int = 3) -> None:
        inner = [x for _ in range(layers - 1) for x in (nn.Linear(width, width), nn.ReLU(inplace=True))]
        super().__init__(*inner, nn.Linear(width, out))


def hide(padding: Tensor | None) -> Tensor | None:
    """(B, S) bool, true where nothing is to be seen -> (B, 1, 1, S): a bias of attention logits that hides it."""
    if padding is None:
        return None
    return torch.zeros(padding.shape, device=padding.device).masked_fill_(padding, -torch.inf)[:, None, None]


def xavier(module: nn.Module) -> None:
    """Weights of every linear layer inside, as the transformer's authors draw them."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)


def check_width(width: int, heads: int) -> None:
    """Raise UsageError for channels that heads cannot share, or that no sines of y and x can fill."""
    if width % heads or width % 4:
        raise UsageError(f"width {width} does not suit {heads} heads; give a multiple of {heads} and of 4")
