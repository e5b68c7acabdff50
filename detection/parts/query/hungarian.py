"""Bipartite matching of queries and objects, for all decoder layers at once.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020; the focal
cost is that of Zhu, Su, Lu, Li, Wang, Dai, "Deformable DETR", 2021.

    logits, boxes of all layers -> costs of each image's own objects -> one copy to the host -> scipy -> (query, object)

Queries are compared only with the objects of their image. Cost matrices have one row per object, which is the faster
orientation for the solver.

Shape letters: L layers, B images, Q queries, K classes, N objects of the most crowded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detection.parts.dense.objects import padded_index
from shared.devices.device import sent

CostKind = Literal["softmax", "focal"]
Matches = list[list[tuple[Tensor, Tensor]]]  # by layer, by image: query indices, ascending, and their objects

ALPHA, GAMMA = 0.25, 2
# above every real cost, but small enough that float64 sums in the solver stay exact
NEVER = 1e6
TINY = 1e-12  # avoids division by an area of 0


class SetTarget(NamedTuple):
    """The objects of one image, relative to its height and width."""

    labels: Tensor  # (N,) int64 from 0
    boxes: Tensor  # (N, 4) as center x, center y, width, height from 0 to 1


@torch.no_grad()
def match(
    cost_kind: CostKind,
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[SetTarget],
    *,
    class_cost: float,
    l1_cost: float,
    giou_cost: float,
) -> Matches:
    """The assignment with the lowest total cost, for every image and layer.

    Args:
        cost_kind: "softmax" with background as the last class, "focal" for independent sigmoids.
        logits: (L, B, Q, K).
        boxes: (L, B, Q, 4) as cx cy w h relative to the image.

    Returns:
        Per layer and image, min(Q, objects) query indices, ascending, and their objects.
    """
    layers, _, queries, _ = logits.shape
    counts = [len(target.labels) for target in targets]
    weights = (class_cost, l1_cost, giou_cost)
    parts = [
        costs(cost_kind, logits[:, group].float(), boxes[:, group].float(), targets[group], weights)
        for group in groups(counts, layers * queries, logits.device)
    ]
    flat = torch.cat([part.flatten() for part in parts]).cpu().numpy()  # the only synchronization with the device
    if not np.isfinite(flat).all():
        # NaN gets the highest cost instead of an error in scipy: the loop then stops with the name of the loss that
        # is NaN
        flat = np.nan_to_num(flat, nan=NEVER, posinf=NEVER, neginf=NEVER)
    ends = np.cumsum([part.numel() for part in parts])
    by_group = [piece.reshape(part.shape) for piece, part in zip(np.split(flat, ends[:-1]), parts, strict=True)]
    matrices = [cost[:, image] for cost in by_group for image in range(cost.shape[1])]
    found = [
        [solved(cost[layer, :count]) for cost, count in zip(matrices, counts, strict=True)] for layer in range(layers)
    ]
    return on_device(found, logits.device)


def solved(cost: np.ndarray) -> np.ndarray:
    """(N, Q) -> (2, min(N, Q)): queries, ascending, over their objects."""
    objects, queries = linear_sum_assignment(cost)
    order = np.argsort(queries)
    return np.stack((queries[order], objects[order]))


def on_device(found: list[list[np.ndarray]], device: torch.device) -> Matches:
    """The pairs as views of a single tensor, copied to the device once."""
    pairs = [pair for layer in found for pair in layer]
    views = iter(sent(np.concatenate(pairs, axis=1), device).split([pair.shape[1] for pair in pairs], dim=1))
    return [[(queries, objects) for queries, objects in islice(views, len(layer))] for layer in found]


def groups(counts: list[int], cells: int, device: torch.device) -> list[slice]:
    """Groups of images whose costs are computed together: on a CPU what fits in its cache, on a GPU usually all.

    Args:
        cells: matrix entries per object.
    """
    room = 2**17 if device.type == "cpu" else 2**25
    together = max(1, room // max(1, cells * max(counts, default=0)))
    return [slice(first, first + together) for first in range(0, len(counts), together)]


def costs(
    kind: CostKind, logits: Tensor, boxes: Tensor, targets: Sequence[SetTarget], weights: tuple[float, float, float]
) -> Tensor:
    """(L, B, Q, K) logits, (L, B, Q, 4) boxes -> (L, B, N, Q); rows beyond an image's own objects are undefined."""
    class_cost, l1_cost, giou_cost = weights
    rows = sent(padded_index([len(target.labels) for target in targets]), logits.device)
    labels = torch.cat([*(target.labels for target in targets), rows.new_zeros(1)])[rows]
    objects = torch.cat([*(target.boxes for target in targets), boxes.new_zeros(1, 4)])[rows].float()
    cost = class_costs(kind, logits, labels).mul_(class_cost)
    theirs, ours = objects[:, :, None].unbind(-1), boxes[:, :, None].unbind(-1)  # (B, N, 1) and (L, B, 1, Q) each
    for one, other in zip(theirs, ours, strict=True):
        cost.add_((one - other).abs_(), alpha=l1_cost)
    return cost.sub_(giou(theirs, ours), alpha=giou_cost)


def class_costs(kind: CostKind, logits: Tensor, labels: Tensor) -> Tensor:
    """(L, B, Q, K) logits, (B, N) labels -> (L, B, N, Q): cost of the class."""
    images = torch.arange(len(labels), device=labels.device)[:, None]
    if kind == "softmax":
        return -logits.softmax(-1).transpose(2, 3)[:, images, labels]
    x = logits.transpose(2, 3)[:, images, labels]
    log_yes = F.logsigmoid(x)
    log_no = log_yes - x
    miss = (GAMMA * log_no).exp_().mul_(log_yes)
    return (GAMMA * log_yes).exp_().mul_(log_no).mul_(1 - ALPHA).sub_(miss, alpha=ALPHA)


def giou(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Generalized IoU, from -1 to 1, of boxes given as separate cx, cy, w, h, broadcast together.

    Rezatofighi et al., "Generalized Intersection over Union", 2019.
    """
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = corners(a), corners(b)
    inside, union = overlap(a, b)
    width = torch.maximum(ax1, bx1) - torch.minimum(ax0, bx0)
    height = torch.maximum(ay1, by1) - torch.minimum(ay0, by0)
    hull = (width * height).clamp(min=TINY)
    return inside / union + union / hull - 1


def iou(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """IoU, from 0 to 1, of boxes given as separate cx, cy, w, h, broadcast together."""
    inside, union = overlap(a, b)
    return inside / union


def overlap(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of boxes given as separate cx, cy, w, h, broadcast together."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = corners(a), corners(b)
    across = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp(min=0)
    down = (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp(min=0)
    inside = across * down
    return inside, (a[2] * a[3] + b[2] * b[3] - inside).clamp(min=TINY)


def corners(box: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y, width, height = box
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
