"""RT-DETR's hybrid encoder: attention within the coarsest map, convolutions between the maps.

Zhao, Lv, Xu, Wei, Wang, Dang, Liu, Chen, "DETRs Beat YOLOs on Real-time Object Detection", 2023.

    maps -> equal width -> the coarsest: self-attention of its cells (AIFI)
                        -> down: coarser map, doubled, with the next finer one -> fuse   (CCFM)
                        -> up:   finer map, halved, with the next coarser one  -> fuse

    fuse    1x1 convolution -> three blocks of (3x3 + 1x1) | 1x1 convolution -> sum

Shape letters: B images, S cells of the coarsest map, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detection.parts.query.position import extent, padding
from detection.parts.query.transformer import Encoder, hide
from detection.types import Images


class HybridEncoder(nn.Module):
    """
    Args:
        channels: of each map, finest first.
        width: C.
        layers: of self-attention.
        expansion: channels inside of `fuse`, as a share of C.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        heads: int,
        layers: int,
        feedforward: int,
        dropout: float,
        expansion: float,
    ) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(conv_norm(into, width, 1, active=False) for into in channels)
        self.attend = Encoder(layers, width, heads, feedforward, dropout, activation=nn.GELU)
        steps, inside = len(channels) - 1, max(1, round(width * expansion))
        self.lateral = nn.ModuleList(conv_norm(width, width, 1) for _ in range(steps))
        self.fuse_down = nn.ModuleList(Fuse(width, inside) for _ in range(steps))
        self.halve = nn.ModuleList(conv_norm(width, width, 3, stride=2) for _ in range(steps))
        self.fuse_up = nn.ModuleList(Fuse(width, inside) for _ in range(steps))

    def forward(self, images: Images, maps: Sequence[Tensor]) -> list[Tensor]:
        """Batch, maps (B, channels, H, W), finest first -> the same of C channels."""
        *finer, x = [narrow(x) for narrow, x in zip(self.narrow, maps, strict=True)]
        x = self.within(images, x)
        down = []
        for lateral, fuse, finer_map in zip(self.lateral, self.fuse_down, reversed(finer), strict=True):
            down.append(x := lateral(x))
            doubled = F.interpolate(x, size=finer_map.shape[-2:], mode="nearest")
            x = fuse(torch.cat((doubled, finer_map), 1))
        up = [x]
        for halve, fuse, coarser in zip(self.halve, self.fuse_up, reversed(down), strict=True):
            up.append(x := fuse(torch.cat((halve(x), coarser), 1)))
        return up

    def within(self, images: Images, x: Tensor) -> Tensor:
        """Self-attention of the cells of one map (B, C, H, W), but for padding."""
        _, width, rows, columns = x.shape
        positions = grid_positions(rows, columns, width, x.device)
        found = self.attend(x.flatten(2).transpose(1, 2), positions, hide(padding(extent(images, [x]))))
        return found.transpose(1, 2).unflatten(2, (rows, columns))


class Fuse(nn.Module):
    """Two maps of C channels each, concatenated -> one of C channels."""

    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.into, self.beside = (conv_norm(2 * width, inside, 1) for _ in range(2))
        self.blocks = nn.Sequential(*(Block(inside) for _ in range(3)))
        self.out = nn.Identity() if inside == width else conv_norm(inside, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.into(x)) + self.beside(x))


class Block(nn.Module):
    """A 3x3 and a 1x1 convolution of the same map, added, as in Ding et al., "RepVGG", 2021."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.narrow = (conv_norm(width, width, size, active=False) for size in (3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.wide(x) + self.narrow(x))


def conv_norm(into: int, out: int, size: int, *, stride: int = 1, active: bool = True) -> nn.Sequential:
    """Convolution, batch norm and, if `active`, SiLU."""
    conv = nn.Conv2d(into, out, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), *([nn.SiLU(inplace=True)] if active else []))


def grid_positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """-> (1, rows * columns, width): sines and cosines of the row, then of the column, counted from 0."""
    slower = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float32, device=device) / (width // 4))
    parts = []
    for side, shape in ((rows, (-1, 1, width // 4)), (columns, (1, -1, width // 4))):
        angles = (torch.arange(side, dtype=torch.float32, device=device)[:, None] * slower).view(shape)
        parts += [wave.expand(rows, columns, -1) for wave in (angles.sin(), angles.cos())]
    return torch.cat(parts, -1).flatten(0, 1)[None]
