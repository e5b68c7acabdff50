"""Query selection: the encoder's most certain cells become the queries' first boxes; losses of all that is predicted.

Zhu et al., "Deformable DETR", 2021 (two stages); Zhang et al., "DINO", 2022; Zhao et al., "RT-DETR", 2023.

    memory -> class of each cell -> the Q best -> their boxes

Shape letters: B images, S cells of all levels, Q queries, P denoising queries, C channels, K classes, N decoder layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detection.parts.query.denoising import Noise
from detection.parts.query.multiscale import Memory, first_boxes
from detection.parts.query.set_loss import SetLoss
from detection.types import Target

Layer = Callable[[Tensor], Tensor]


class Selected(NamedTuple):
    """The best cells."""

    states: Tensor  # (B, Q, C)
    logits: Tensor  # (B, Q, K)
    boxes: Tensor  # (B, Q, 4) before the sigmoid, Inf where a cell has no usable place


class Predicted(NamedTuple):
    """Predictions of a batch; boxes as cx cy w h relative to the unpadded images."""

    logits: Tensor  # (N, B, P + Q, K)
    boxes: Tensor  # (N, B, P + Q, 4)
    selected: Selected
    noise: Noise | None


def select(memory: Memory, look: Layer, classify: Layer, locate: Layer, most: int) -> Selected:
    """The `most` cells with the highest logit of any class.

    Args:
        look: changes the cells for what follows.
        classify, locate: heads, applied to the changed cells.
    """
    boxes, usable = first_boxes(memory)
    seen = look(memory.tokens.masked_fill(~usable, 0))
    logits = classify(seen)
    best = logits.max(-1).values.topk(min(most, seen.shape[1])).indices[..., None]
    states = seen.gather(1, best.expand(-1, -1, seen.shape[-1]))
    own = boxes.gather(1, best.expand(-1, -1, 4))
    return Selected(
        states, logits.gather(1, best.expand(-1, -1, logits.shape[-1])).float(), locate(states).float() + own
    )


def losses_of(
    loss: SetLoss, found: Predicted, targets: Sequence[Target], sizes: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    """Losses of every decoder layer, of the selected cells (`enc_`) and of denoising (`dn_`); one matching for all."""
    count = 0 if found.noise is None else found.noise.count
    logits, boxes = found.logits[:, :, count:], found.boxes[:, :, count:]
    cells = found.selected.logits[None], found.selected.boxes.sigmoid()[None]
    with torch.no_grad():
        every = torch.cat((cells[0], logits)), torch.cat((cells[1], boxes))
        matches = loss.matched(*every, targets, sizes)  # type: ignore[call-arg]
    losses = loss(logits, boxes, targets, sizes, matches=matches[1:])
    losses |= loss(*cells, targets, sizes, "enc_", matches=matches[:1])
    if found.noise is None:
        return losses
    noise = (found.logits[:, :, :count], found.boxes[:, :, :count])
    again, copies = found.noise.matches * len(logits), found.noise.groups
    return losses | loss(*noise, targets, sizes, "dn_", matches=again, copies=copies)
