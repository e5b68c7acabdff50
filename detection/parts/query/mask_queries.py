"""The mask head of DETR: a mask for each query from its attention and the backbone's maps.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020: its part
on panoptic segmentation.

    query states, memory -> attention maps of H heads --------------------------+
    coarsest map, of the transformer's width -----------------------------------+-> two convolutions
        -> upsampled, a finer map added, a convolution, three times -> mask logits of each query

Everything except the attention is the same for all queries of an image: `look` computes it once, `draw` the rest,
only for the requested queries (in training, the matched ones).

Shape letters: B images, Q queries, S cells of the coarsest map, H heads, C channels, M requested queries of all images,
h w rows and columns of the mask logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align, sigmoid_focal_loss

from backbones.base import MapInfo
from detection.parts.fixed import no_fixed_form, shapes_are_fixed
from detection.types import Detections, Target
from shared.errors import UsageError

CELLS = 28  # side of the mask grid of a box
AT_ONCE = 32  # queries processed at a time at inference
STEPS = 3  # upsampling steps


class Segmented(Detections):
    """Detections with a mask of the whole image each."""

    segments: Tensor  # (M, h, w) logits over the unpadded image


class Sight(NamedTuple):
    """Inputs of the mask head that are shared by the queries of an image."""

    attention: Tensor  # (B, Q, H, rows, columns) of the coarsest map
    shared: Tensor  # (B, C + H, rows, columns): output of the first convolution for the coarsest map
    finer: list[Tensor]  # (B, C_i, h_i, w_i): maps that are added while upsampling


class MaskHead(nn.Module):
    """
    Args:
        width: C of the transformer; a multiple of 16.
        heads: H.
        maps: of the backbone; the coarsest is the transformer's, the three finer ones are added while upsampling.
            With fewer maps, as in a plain ViT, nothing is added, up to a stride of 4.
    """

    def __init__(self, width: int, heads: int, maps: Sequence[MapInfo]) -> None:
        super().__init__()
        if width % 16 or width % heads:
            raise UsageError(f"masks need a width of a multiple of 16 and of the {heads} heads, not {width}; give 256")
        self.heads, self.query, self.key = heads, nn.Linear(width, width), nn.Linear(width, width)
        self.used = list(range(len(maps) - 1))[::-1][:STEPS]
        widths = [width + heads, *(width // 2**step for step in range(1, STEPS + 2))]
        self.first = Block(widths[0], widths[0])
        self.second = Block(widths[0], widths[1])
        self.lateral = nn.ModuleList(
            nn.Conv2d(maps[i].channels, into, 1) for i, into in zip(self.used, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(Block(into, out) for into, out in pairwise(widths[1:]))
        self.mask = nn.Conv2d(widths[-1], 1, 3, padding=1)
        self.doubled = max(0, int(math.log2(maps[-1].stride / 4))) if not self.used else 0
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            elif isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def look(self, states: Tensor, memory: Tensor, hidden: Tensor | None, narrow: Tensor, maps: list[Tensor]) -> Sight:
        """
        Args:
            states: (B, Q, C) final query states.
            memory: (B, S, C) encoder output.
            hidden: broadcastable to (B, H, Q, S), -Inf at padding.
            narrow: (B, C, rows, columns) the coarsest map before the encoder.
            maps: of the backbone.
        """
        q, k = (x.unflatten(-1, (self.heads, -1)) for x in (self.query(states), self.key(memory)))
        logits = torch.einsum("bqhd,bshd->bqhs", q * q.shape[-1] ** -0.5, k).float()
        if hidden is not None:
            logits = logits + hidden.transpose(1, 2)
        attention = logits.flatten(2).softmax(-1).view_as(logits)  # over all heads together, as in the published model
        inner = narrow.shape[1]
        shared = F.conv2d(narrow, self.first.conv.weight[:, :inner], self.first.conv.bias, padding=1)
        finer = [lateral(maps[i]) for lateral, i in zip(self.lateral, self.used, strict=True)]
        return Sight(attention.unflatten(-1, narrow.shape[-2:]), shared, finer)

    def draw(self, sight: Sight, image: Tensor, query: Tensor) -> Tensor:
        """Image indices (M,), query indices (M,) -> mask logits (M, h, w)."""
        looks = sight.attention[image, query].to(sight.shared.dtype)
        inner = self.first.conv.in_channels - self.heads
        own = F.conv2d(looks, self.first.conv.weight[:, inner:], padding=1)
        x = self.second(self.first.rest(sight.shared[image] + own))
        for step, up in enumerate(self.up):
            if step < len(sight.finer):
                finer = sight.finer[step]
                x = F.interpolate(x, finer.shape[-2:]) + finer[image]
            elif step < self.doubled:
                x = F.interpolate(x, scale_factor=2.0)
            x = up(x)
        return self.mask(x)[:, 0].float()


class Block(nn.Module):
    """A 3x3 convolution, group norm, ReLU."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(into, out, 3, padding=1), nn.GroupNorm(math.gcd(8, out), out)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.conv(x))

    def rest(self, x: Tensor) -> Tensor:
        """Norm and activation."""
        return F.relu(self.norm(x))


def mask_losses(logits: Tensor, wanted: Tensor, count: Tensor) -> dict[str, Tensor]:
    """Focal loss, mean over pixels, and Dice loss, both summed over masks and divided by `count`.

    Args:
        logits: (M, h, w); resized to the size of `wanted`, bilinear.
        wanted: (M, height, width) uint8 of the padded batch, 1 where the object is.
    """
    logits = F.interpolate(logits[:, None], wanted.shape[-2:], mode="bilinear", align_corners=False)[:, 0].flatten(1)
    inside = wanted.flatten(1).to(logits.dtype)
    focal = sigmoid_focal_loss(logits, inside, alpha=0.25, gamma=2.0).mean(1)
    chances = logits.sigmoid()
    dice = 1 - (2 * (chances * inside).sum(1) + 1) / (chances.sum(1) + inside.sum(1) + 1)
    return {"masks": focal.sum() / count, "dice": dice.sum() / count}


def padded_masks(targets: Sequence[Target], objects: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Masks of the given objects of each image, padded to the batch: (M, *size) uint8.

    Raises:
        UsageError: the targets have no masks.
    """
    parts = []
    for target, chosen in zip(targets, objects, strict=True):
        if "masks" not in target:
            raise UsageError("detr_panoptic needs masks, and these annotations have none; use --dataset coco_panoptic")
        masks = target["masks"][chosen.to(target["masks"].device)]
        parts.append(F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1])))
    return torch.cat(parts)


# -- detections -----------------------------------------------------------------------------------


def segmented(found: Detections, logits: Tensor, whole: Sequence[int], size: tuple[int, int]) -> Segmented:
    """Detections with masks over each box and over the whole image.

    Args:
        logits: (M, h, w), over the padded image.
        whole: height and width of the padded image.
        size: height and width of the unpadded image.
    """
    if shapes_are_fixed():
        no_fixed_form("segments whole images, which are put together outside the network")
    rows, columns = logits.shape[-2:]
    index = torch.arange(len(logits), device=logits.device)[:, None]
    boxes = found["boxes"] * found["boxes"].new_tensor((columns / whole[1], rows / whole[0])).repeat(2)
    places = torch.cat((index.to(boxes), boxes), 1)
    over_boxes = roi_align(logits.sigmoid()[:, None], places, CELLS, aligned=True)[:, 0]
    return cast(Segmented, {**found, "masks": over_boxes, "segments": top_left(logits, whole, size)})


def top_left(logits: Tensor, whole: Sequence[int], size: tuple[int, int]) -> Tensor:
    """(M, h, w) over (height, width) -> (M, h', w') over its top left part of `size`, at the same scale."""
    cells = [side * length / full for side, length, full in zip(logits.shape[-2:], size, whole, strict=True)]
    if all(count == int(count) for count in cells):
        return logits[:, : int(cells[0]), : int(cells[1])]
    down, across = (
        (torch.arange(math.ceil(count), device=logits.device) + 0.5) / math.ceil(count) * 2 * length / full - 1
        for count, length, full in zip(cells, size, whole, strict=True)
    )
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
    return F.grid_sample(logits[None], grid[None], padding_mode="border", align_corners=False)[0]
