"""Contrastive denoising: in training, further queries start from objects with noise, and shall find these again.

Zhang, Li, Liu, Zhang, Su, Zhu, Ni, Shum, "DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object
Detection", 2022.

    objects -> G groups, each with every object twice: a little noise (its object), more noise (nothing)
            -> labels, boxes | which query shall find which object

A group sees itself and the other queries of the network, which see no group. All counts are known on the host, so a GPU
does not wait. Random numbers are torch's, of the device.

Shape letters: B images, N objects of the most crowded image, P = 2 G N denoising queries, Q other queries, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from detection.parts.dense.objects import padded_index
from detection.parts.query.hungarian import Matches, SetTarget, on_device
from shared.devices.device import sent


class Noise(NamedTuple):
    """Denoising queries of a batch; P is 0 where no image has an object."""

    labels: Tensor  # (B, P), some exchanged; K for padding
    boxes: Tensor  # (B, P, 4) before the sigmoid
    groups: int
    size: int  # P / G, queries of a group
    matches: Matches  # of one layer

    @property
    def count(self) -> int:
        return self.labels.shape[1]

    def bias(self, queries: int) -> Tensor:
        """-> (P + Q, P + Q) of self-attention logits: -Inf where a query does not see another, else 0.

        Args:
            queries: Q; they stand behind the denoising queries.
        """
        place = torch.arange(self.count + queries, device=self.labels.device)
        group = torch.where(place < self.count, place // max(1, self.size), -1)
        hidden = (group >= 0) & (group[:, None] != group)
        return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)


@torch.compiler.disable  # the number of queries differs from batch to batch
def noised(
    objects: Sequence[SetTarget],
    num_classes: int,
    *,
    count: int,
    label_noise: float,
    box_noise: float,
    edge: float,
) -> Noise:
    """
    Args:
        count: about this many pairs of queries for an image: there are count / N groups, at least one.
        label_noise: half this share of the labels is exchanged for a random one.
        box_noise: a side moves by up to this share of half the box, and in the second half of a group by more than it
            and up to twice as much.
        edge: boxes are moved so far from 0 and 1 before the sigmoid is inverted.
    """
    counts = [len(one.labels) for one in objects]
    most, device = max(counts), objects[0].labels.device
    groups = max(1, count // max(1, most))
    index = sent(padded_index(counts), device)[:, :most]
    labels = torch.cat([*(one.labels for one in objects), index.new_full((1,), num_classes)])[index]
    boxes = torch.cat([*(one.boxes.float() for one in objects), torch.zeros(1, 4, device=device)])[index]
    labels, boxes = labels.repeat(1, 2 * groups), boxes.repeat(1, 2 * groups, 1)
    flips = torch.rand(labels.shape, device=device) < label_noise / 2
    others = torch.randint(num_classes, labels.shape, device=device)
    ways = torch.randint(2, boxes.shape, device=device) * 2 - 1
    far = (torch.arange(len(labels[0]), device=device) // max(1, most) % 2)[:, None]  # 1 in the second half of a group
    moves = (torch.rand(boxes.shape, device=device) + far) * ways
    reach = boxes[..., 2:].repeat(1, 1, 2) * (0.5 * box_noise)
    moved = (box_convert(boxes, "cxcywh", "xyxy") + moves * reach).clamp(0, 1)
    return Noise(
        torch.where(flips & (labels < num_classes), others, labels),
        box_convert(moved, "xyxy", "cxcywh").clamp(edge, 1 - edge).logit(),
        groups,
        2 * most,
        on_device([[near_queries(own, most, groups) for own in counts]], device),
    )


def near_queries(own: int, most: int, groups: int) -> np.ndarray:
    """-> (2, groups * own): the queries with little noise over their objects."""
    objects = np.arange(own)
    queries = 2 * most * np.arange(groups)[:, None] + objects
    return np.stack((queries.flatten(), np.tile(objects, groups)))
