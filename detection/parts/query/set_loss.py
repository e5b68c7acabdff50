"""Set prediction loss: one query is matched to each object, all others are background.

    logits, boxes of all layers + objects -> match -> classification of all queries, boxes and giou of the matched

    softmax   cross-entropy over the classes and a background of small weight   Carion et al., "DETR", 2020
    focal     independent sigmoids of the classes                               Zhu et al., "Deformable DETR", 2021
    varifocal the same, where the target of a class is the box's IoU            Zhao et al., "RT-DETR", 2023

Shape letters: L layers, B images, Q queries, K classes, N objects of an image, M matches of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from detection.parts.dense.focal import NOTHING, focal_losses, varifocal_losses
from detection.parts.known import hidden, unknown_of
from detection.parts.query.hungarian import CostKind, Matches, SetTarget, giou, iou, match
from detection.types import Target
from shared.devices import dist
from shared.devices.device import sent


def set_targets(targets: Sequence[Target], sizes: Sequence[tuple[int, int]]) -> list[SetTarget]:
    """Objects in pixels of unpadded images of (height, width) -> relative to these images."""
    counts = [len(target["boxes"]) for target in targets]
    flat = torch.cat([target["boxes"] for target in targets])
    whole = np.array([(width, height, width, height) for height, width in sizes], np.float32)
    relative = box_convert(flat, "xyxy", "cxcywh") / sent(whole.repeat(counts, 0), flat.device)
    return [SetTarget(t["labels"], boxes) for t, boxes in zip(targets, relative.split(counts), strict=True)]


class SetLoss(nn.Module):
    """Weighted losses of all decoder layers, each with its own matching.

    Args:
        kind: "softmax" for logits with an additional background class, "focal" for independent sigmoids.
        varifocal: with independent sigmoids, the varifocal loss; the matching is that of the focal loss.
        class_cost, l1_cost, giou_cost: weights of the matching costs.
        class_weight, l1_weight, giou_weight: weights of the losses.
        eos_coef: weight of the background class; softmax only.
    """

    def __init__(
        self,
        num_classes: int,
        kind: CostKind,
        *,
        varifocal: bool = False,
        class_cost: float,
        l1_cost: float,
        giou_cost: float,
        class_weight: float,
        l1_weight: float,
        giou_weight: float,
        eos_coef: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes, self.eos_coef = num_classes, eos_coef
        self.kind: CostKind = kind
        self.varifocal = varifocal
        self.costs = {"class_cost": class_cost, "l1_cost": l1_cost, "giou_cost": giou_cost}
        self.weights = {"classification": class_weight, "boxes": l1_weight, "giou": giou_weight}

    @torch.compiler.disable  # scipy runs on the host; the code around it can be compiled
    def forward(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: Sequence[Target],
        sizes: Sequence[tuple[int, int]],
        prefix: str = "",
        *,
        class_agnostic: bool = False,
        matches: Matches | None = None,
        copies: int = 1,
    ) -> dict[str, Tensor]:
        """Named losses: `classification`, `boxes`, `giou` of the last layer, and with `_0`, `_1`, ... of those before.

        Args:
            logits: (L, B, Q, K), or (L, B, Q, K + 1) for softmax.
            boxes: (L, B, Q, 4) as cx cy w h relative to the unpadded images.
            targets: objects in pixels.
            sizes: (height, width) of each unpadded image.
            prefix: put before every name.
            class_agnostic: treat every object as the first class, for proposals.
            matches: an existing matching, instead of a new one.
            copies: how often each object is among the queries; the losses are divided by it.
        """
        logits, boxes = logits.float(), boxes.float()
        objects = set_targets(targets, sizes)
        if class_agnostic:
            objects = [SetTarget(torch.zeros_like(labels), where) for labels, where in objects]
        if matches is None:
            matches = match(self.kind, logits, boxes, objects, **self.costs)
        place, object_of = flat_places(matches, [len(one.labels) for one in objects], logits.device)
        num_boxes = boxes_per_process(sum(len(one.labels) for one in objects), logits.device) * copies
        labels = torch.cat([one.labels for one in objects])[object_of]
        found, wanted = boxes[place], torch.cat([one.boxes.float() for one in objects])[object_of]
        layers = len(logits)
        if not class_agnostic:
            empty = torch.ones(logits.shape[:3], dtype=torch.bool, device=logits.device)
            empty[place] = False
            logits = hidden(logits, empty, unknown_of(targets), background="last" if self.kind == "softmax" else None)
        if self.varifocal:
            quality = iou(found.detach().unbind(-1), wanted.unbind(-1))
            classification = self.by_quality(logits, place, labels, quality, num_boxes)
        else:
            classify = self.cross_entropy if self.kind == "softmax" else self.focal
            classification = classify(logits, place, labels, num_boxes)
        by_name = {
            "classification": classification,
            "boxes": (found - wanted).abs().view(layers, -1).sum(1) / num_boxes,
            "giou": (1 - giou(found.unbind(-1), wanted.unbind(-1))).view(layers, -1).sum(1) / num_boxes,
        }
        return {
            f"{prefix}{name}{'' if layer == layers - 1 else f'_{layer}'}": loss * self.weights[name]
            for name, losses in by_name.items()
            for layer, loss in enumerate(losses.unbind())
        }

    def cross_entropy(self, logits: Tensor, place: tuple[Tensor, ...], labels: Tensor, _: Tensor) -> Tensor:
        """(L, B, Q, K + 1) -> (L,): mean over queries, weighted by `eos_coef` for background."""
        classes = labels.new_full(logits.shape[:3], self.num_classes)
        classes[place] = labels
        weight = logits.new_ones(self.num_classes + 1)
        weight[-1] = self.eos_coef
        losses = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weight, reduction="none")
        return losses.view(len(logits), -1).sum(1) / weight[classes].flatten(1).sum(1)

    def focal(self, logits: Tensor, place: tuple[Tensor, ...], labels: Tensor, num_boxes: Tensor) -> Tensor:
        """(L, B, Q, K) -> (L,): sum over queries and classes, divided by the number of objects."""
        classes = labels.new_full(logits.shape[:3], NOTHING)
        classes[place] = labels
        return focal_losses(logits, classes).flatten(1).sum(1) / num_boxes

    def by_quality(
        self, logits: Tensor, place: tuple[Tensor, ...], labels: Tensor, quality: Tensor, num_boxes: Tensor
    ) -> Tensor:
        """(L, B, Q, K) -> (L,): sum of the varifocal loss, divided by the number of objects."""
        classes = labels.new_full(logits.shape[:3], NOTHING)
        classes[place] = labels
        qualities = logits.new_zeros(logits.shape[:3])
        qualities[place] = quality
        return varifocal_losses(logits, classes, qualities).flatten(1).sum(1) / num_boxes

    @torch.compiler.disable
    def matched(
        self, logits: Tensor, boxes: Tensor, targets: Sequence[Target], sizes: Sequence[tuple[int, int]]
    ) -> Matches:
        """The matching of the layers, as of `forward`: of several parts of a network at once, one copy to the host."""
        return match(self.kind, logits, boxes, set_targets(targets, sizes), **self.costs)


def flat_places(
    matches: Matches, counts: Sequence[int], device: torch.device
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """((layer, image, query), object): four index tensors (L * M,), layer by layer; objects are numbered over the
    batch.
    """
    first = np.cumsum([0, *counts[:-1]])
    known = [(n, i, first[i], len(pair[0])) for n, layer in enumerate(matches) for i, pair in enumerate(layer)]
    layer, image, offset, length = np.array(known).T
    indices = sent(np.stack([np.repeat(row, length) for row in (layer, image, offset)]), device)
    query, target = (torch.cat([pair[side] for layer in matches for pair in layer]) for side in (0, 1))
    return (indices[0], indices[1], query), target + indices[2]


def boxes_per_process(count: int, device: torch.device) -> Tensor:
    """(): mean over processes, at least 1; stays on the device, without synchronization."""
    return dist.gather_rows(sent([float(count)], device)).mean().clamp(min=1)
