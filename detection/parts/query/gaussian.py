"""Gaussian attention bias of SMCA: 0 at a predicted center, decreasing with the squared distance from it.

Gao, Zheng, Wang, Dai, Li, "Fast Convergence of DETR with Spatially Modulated Co-Attention", 2021.

    query -> norm -> moves  + reference      -> a center for each head
                  -> scales squared / smooth -> weight of squared distances

    dynamic_scale   distance D of a cell dx columns, dy rows away    predicted per head
    type1           dx2 + dy2                                         0
    type2           s (dx2 + dy2)                                     1
    type3           sx dx2 + sy dy2                                   2
    type4           sx dx2 + sy dy2 + sxy dx2 dy2                     3

Written as D = 1 (sx dx2) + dy2 (sy + sxy dx2) it is, for each query, the product of a (rows, 2) and a (2, columns)
matrix: no other tensor of its size is created, and none is saved for the backward pass.

Shape letters: B images, Q queries, H heads, C channels, S places of a map, in Y rows and X columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.parts.query.transformer import xavier
from shared.devices.device import sent
from shared.errors import UsageError

LEARNED = {"type1": 0, "type2": 1, "type3": 2, "type4": 3}  # predicted scales per head


class Gaussian(nn.Module):
    """The bias of one decoder layer's cross-attention; scales are initialized to 1.

    Args:
        dynamic_scale: type1 to type4, as above.

    Raises:
        UsageError: an unknown type.
    """

    def __init__(self, width: int, heads: int, dynamic_scale: str) -> None:
        super().__init__()
        if dynamic_scale not in LEARNED:
            raise UsageError(f"dynamic_scale is {dynamic_scale!r}; it can be {', '.join(LEARNED)}")
        self.heads, learned = heads, LEARNED[dynamic_scale]
        self.norm = nn.LayerNorm(width)
        self.move = nn.Linear(width, heads * 2)
        self.scale = nn.Linear(width, heads * learned) if learned else None
        xavier(self)
        if self.scale is not None:
            nn.init.zeros_(self.scale.weight)
            nn.init.ones_(self.scale.bias)

    def forward(
        self, queries: Tensor, references: Tensor, strength: Tensor, shape: tuple[int, int], hidden: Tensor | None
    ) -> Tensor:
        """
        Args:
            queries: (B, Q, C) states plus positions.
            references: (B, Q, 2) x and y of the reference points, in columns and rows from 0.
            strength: (H, Q, 1) factor of D: 1 / smooth, and 0 for no Gaussian.
            shape: rows and columns of the map.
            hidden: (B, 1, 1, S) -Inf at padding, or None.

        Returns:
            (B, H, Q, S), to be added to the logits.
        """
        z = self.norm(queries)
        centers = references[:, :, None] + self.by_head(self.move(z))
        bias = costs(centers.transpose(1, 2), -strength * self.scales(z).transpose(-3, -2), shape)
        if hidden is not None:
            bias += hidden.unflatten(-1, shape)
        return bias.flatten(3)

    def scales(self, z: Tensor) -> Tensor:
        """(B, Q, C) -> scales of x, y and their product, (B, Q, H, 3) or broadcastable to it."""
        if self.scale is None:
            return sent((1.0, 1.0, 0.0), z.device, z.dtype).expand(1, 1, 3)
        learned = self.by_head(self.scale(z)).square()
        if learned.shape[-1] == 1:
            learned = learned.expand(-1, -1, -1, 2)
        return F.pad(learned, (0, 3 - learned.shape[-1]))

    def by_head(self, x: Tensor) -> Tensor:
        """(B, Q, H * N) -> (B, Q, H, N), float32"""
        return x.float().unflatten(-1, (self.heads, -1))


def costs(centers: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    """D of every cell.

    Args:
        centers: (B, H, Q, 2) x and y in columns and rows.
        scales: (B, H, Q, 3), or broadcastable to it: of x, y and their product.
        shape: Y rows and X columns.

    Returns:
        (B, H, Q, Y, X), in the precision of matrix products.
    """
    rows, columns = (torch.arange(side, device=centers.device) for side in shape)
    dx2, dy2 = (centers[..., :1] - columns).square(), (centers[..., 1:] - rows).square()
    of_x, of_y, of_both = scales.split(1, -1)
    return torch.stack((torch.ones_like(dy2), dy2), -1) @ torch.stack((of_x * dx2, of_y + of_both * dx2), -2)
