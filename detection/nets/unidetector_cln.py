"""UniDetector's class-agnostic localizer (CLN): where is something, whatever it is? Every detection has label 0.

Wang et al., "Detecting Everything in the Open World: Towards Universal Object Detection", 2023; all but the 2-way
classification is from Kim, Lin, Angelova, Kweon, Kuo, "Learning Open-World Object Proposals without Learning to
Classify", 2021.

    image -> backbone -> pyramid -> per cell: sides of a box, centerness q      the best of each level: proposals
    proposals -> RoIAlign -> two linear layers -> object or background p, box, how well the proposal fits u
    eta = p^alpha * (q * u)^(1 - alpha) -> NMS at a high IoU -> the best

Boxes and centerness learn from positive places alone: what nobody annotated is not pushed down to background there.
Shape letters: B images, P anchors of all levels, R regions of all images, N objects of one image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import nms

from backbones.base import Backbone
from backbones.freeze import hold_statistics
from detection.nets import Detector, detector
from detection.parts.dense import boxes as box
from detection.parts.dense.assign import by_overlap
from detection.parts.dense.focal import NOTHING
from detection.parts.dense.necks import build_pyramid
from detection.parts.dense.sides import as_sides, centerness, from_sides, inside, overlap_of_pairs, squares
from detection.parts.fixed import above, best_after_nms, shapes_are_fixed
from detection.parts.roi.aligned import aligned
from detection.parts.roi.regions import box_loss, moved_boxes
from detection.parts.roi.sampling import Regions, sampled, some
from detection.types import Detections, Images, Target
from shared.recipes.values import Count, Probability, Width

CELLS = 7  # of a region, along a side
ANCHORS = 256  # places of an image that the dense part learns from
BOX_WEIGHT = 10.0  # of the dense part's box loss

TRAINED = {
    "by": "UniDetector's reference",
    "opt": "sgd",
    "lr": 0.02,
    "lr_batch": 16,
    "wd": 1e-4,
    "lr_scheduler": "multistep",
    "lr_steps": (8, 11),
    "epochs": 12,
    "warmup_steps": 500,
    "warmup_epochs": 1,
    "warmup_start": 0.001,
    "aug_type": "hflip",
}


class Dense(NamedTuple):
    """What the dense part says of every anchor of all levels, in float32."""

    sides: Tensor  # (B, P, 4) t b l r in units of the anchor's side
    center: Tensor  # (B, P) centerness logit
    anchors: Tensor  # (P, 4)
    counts: list[int]  # anchors per level


class LocationHead(nn.Module):
    """A 3x3 convolution whose channels have length 1 in every cell, then the sides of a box and centerness."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.sides, self.center = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 1, 1)
        for layer in (self.conv, self.sides, self.center):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.sides.bias, 0.5)  # type: ignore[arg-type]  # a box starts as its anchor: IoU has a slope

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> sides (B, H * W, 4), centerness logits (B, H * W)"""
        x = F.normalize(self.conv(x).relu(), dim=1)
        return self.sides(x).flatten(2).mT.float(), self.center(x).flatten(1).float()


@detector(
    "unidetector_cln",
    agnostic=True,
    tiny={"width": 32, "hidden": 64, "regions": 64, "candidates": 200},
    trained=TRAINED,
)
class CLN(Detector):
    """
    Args:
        backbone: any with maps of strides 4 to 32, or a plain ViT.
        num_classes: not used; everything is label 0.
        width: channels of the pyramid.
        hidden: width of the two linear layers.
        regions: per image in training, of which at most a quarter overlap with an object.
        candidates: proposals per level, in training and at inference; they are not suppressed.
        alpha: share of objectness in the score, the rest is centerness and fit; as powers.
        hold_statistics: batch norm of the backbone keeps its statistics while its scale and shift learn; for
            pretrained weights.
        min_score: detections with this score or less are dropped.
        nms_iou: IoU threshold of NMS over all detections.
        max_detections: per image.
    """

    graphs = ("maps", "look_everywhere")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: Width = 256,
        hidden: Width = 1024,
        regions: Count = 512,
        candidates: Count = 2000,
        alpha: Probability = 0.3,
        hold_statistics: bool = False,
        min_score: Probability = 0.0,
        nms_iou: Probability = 0.9,
        max_detections: Count = 1500,
    ) -> None:
        super().__init__()
        self.backbone, self.hold_statistics = backbone, hold_statistics
        self.neck = build_pyramid(backbone, width, finest=4, coarser="pool")
        self.used_maps = self.neck.used
        self.head = LocationHead(width)
        self.layers = TwoMLPHead(width * CELLS**2, hidden)
        self.is_object, self.offsets, self.fit = nn.Linear(hidden, 2), nn.Linear(hidden, 4), nn.Linear(hidden, 1)
        for layer in (self.layers.fc6, self.layers.fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer, std in ((self.is_object, 0.01), (self.offsets, 0.001), (self.fit, 0.01)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.regions, self.candidates, self.alpha = regions, candidates, alpha
        self.min_score, self.nms_iou, self.max_detections = min_score, nms_iou, max_detections

    def train(self, mode: bool = True) -> CLN:
        super().train(mode)
        if self.hold_statistics:
            hold_statistics(self.backbone)
        return self

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of the dense part, divided by the places it learns from, and of the regions, by their number."""
        maps = self.maps(images)
        dense = self.look_everywhere(maps)
        proposals = [boxes for boxes, _ in self.proposals(dense, images)]
        regions = [sampled(p, t["boxes"], count=self.regions) for p, t in zip(proposals, targets, strict=True)]
        return dense_losses(dense, images, targets) | self.region_losses(maps, regions, targets)

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        maps = self.maps(images)
        boxes, quality = zip(*self.proposals(self.look_everywhere(maps), images), strict=True)
        logits, offsets, fit = self.look_at(maps, list(boxes))
        moved, counts = moved_boxes(list(boxes), offsets, images.sizes), [len(b) for b in boxes]
        scores = eta(logits.softmax(1)[:, 1], torch.cat(quality), fit.sigmoid(), self.alpha).split(counts)
        return [self.best(*of_image) for of_image in zip(moved, scores, strict=True)]

    def propose(self, images: Images) -> list[Detections]:
        return self.detect(images)

    def class_head(self) -> list[nn.Module]:
        return [self.is_object]

    def maps(self, images: Images) -> list[Tensor]:
        return self.neck(self.backbone.forward_features(images.pixels))

    # -- everywhere ------------------------------------------------------------------------------

    def look_everywhere(self, maps: list[Tensor]) -> Dense:
        sides, center = zip(*(self.head(x) for x in maps), strict=True)
        strides = [info.stride for info in self.neck.maps]
        anchors = squares([x.shape[-2:] for x in maps], strides, maps[0].device)
        return Dense(torch.cat(sides, 1), torch.cat(center, 1), torch.cat(anchors), [len(a) for a in anchors])

    @torch.no_grad()
    def proposals(self, dense: Dense, images: Images) -> list[tuple[Tensor, Tensor]]:
        """Of each image: the boxes (R, 4) of the best centerness on each level, clipped, and their centerness (R,)."""
        boxes = from_sides(dense.sides, dense.anchors)
        found = []
        for of_image, quality, size in zip(boxes, dense.center.sigmoid(), images.sizes, strict=True):
            levels = zip(of_image.split(dense.counts), quality.split(dense.counts), strict=True)
            best = [(b[(top := q.topk(min(self.candidates, len(q)))).indices], top.values) for b, q in levels]
            clipped, scores = box.clip(torch.cat([b for b, _ in best]), size), torch.cat([q for _, q in best])
            keep = box.usable(clipped, min_side=1e-3)
            if shapes_are_fixed():
                found.append((clipped, scores * keep))
                continue
            found.append((clipped[keep], scores[keep]))
        return found

    # -- regions ---------------------------------------------------------------------------------

    def look_at(self, maps: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes of each image -> logits of background and object (R, 2), box offsets (R, 4), logits of the fit (R,)."""
        features = self.layers(aligned(maps[:-1], self.neck.maps[:-1], boxes, CELLS))
        return self.is_object(features).float(), self.offsets(features).float(), self.fit(features)[:, 0].float()

    def region_losses(self, maps: list[Tensor], regions: list[Regions], targets: list[Target]) -> dict[str, Tensor]:
        logits, offsets, fit = self.look_at(maps, [r.boxes for r in regions])
        positive = torch.cat([r.positive for r in regions])
        count = max(1, len(positive))
        overlap = torch.cat([r.overlap[r.positive] for r in regions])
        return {
            "loss_object": F.cross_entropy(logits, positive.long(), reduction="sum") / count,
            "loss_box_reg": box_loss(offsets, regions, targets),
            "loss_fit": (fit[positive].sigmoid() - overlap).abs().sum() / count,
        }

    def best(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Boxes (R, 4) and scores (R,) of an image -> its detections."""
        usable = box.usable(boxes, min_side=1e-3)
        if shapes_are_fixed():
            labels, scores = torch.zeros_like(scores, dtype=torch.int64), above(scores * usable, self.min_score)
            boxes, labels, scores = best_after_nms(boxes, labels, scores, self.nms_iou, self.max_detections)
            return {"boxes": boxes, "labels": labels, "scores": scores}
        keep = (usable & (scores > self.min_score)).nonzero()[:, 0]
        keep = keep[nms(boxes[keep], scores[keep], self.nms_iou)[: self.max_detections]]
        return {"boxes": boxes[keep], "labels": torch.zeros_like(keep), "scores": scores[keep]}


def eta(objectness: Tensor, quality: Tensor, fit: Tensor, alpha: float) -> Tensor:
    """Objectness, centerness and fit of regions, from 0 to 1 -> the score of a proposal, from 0 to 1."""
    return objectness**alpha * (quality * fit) ** (1 - alpha)


def dense_losses(dense: Dense, images: Images, targets: list[Target]) -> dict[str, Tensor]:
    """10 (1 - IoU) of the boxes and L1 of centerness, summed and divided by the anchors sampled for the boxes."""
    boxes, goals, at_boxes, at_centers, total = [], [], [], [], 0
    for index, (target, size) in enumerate(zip(targets, images.sizes, strict=True)):
        anchors, place = dense.anchors, inside(dense.anchors, size).nonzero()[:, 0]
        owner, negatives = anchors_for_boxes(target["boxes"], anchors[place])
        at_boxes.append(torch.stack((torch.full_like(owner[0], index), place[owner[0]]), 1))
        boxes.append(target["boxes"][owner[1]])
        total += max(1, len(owner[0])) + max(1, negatives)
        chosen, which = anchors_for_centers(target["boxes"], anchors[place])
        at_centers.append(torch.stack((torch.full_like(chosen, index), place[chosen]), 1))
        goals.append(centerness(as_sides(target["boxes"][which], anchors[place[chosen]])))
    (image, place), (center_image, center_place) = (torch.cat(rows).unbind(1) for rows in (at_boxes, at_centers))
    overlap = overlap_of_pairs(from_sides(dense.sides[image, place], dense.anchors[place]), torch.cat(boxes))
    apart = dense.center[center_image, center_place].sigmoid() - torch.cat(goals)
    return {"loss_rpn_box": BOX_WEIGHT * (1 - overlap).sum() / total, "loss_rpn_center": apart.abs().sum() / total}


def anchors_for_boxes(boxes: Tensor, anchors: Tensor) -> tuple[tuple[Tensor, Tensor], int]:
    """Objects (N, 4), anchors (P, 4) -> (positive anchors (K,), their objects (K,)), and the number of negatives.

    Positive from an IoU of 0.7, or as the best of an object from 0.3; at most half of 256, the rest is negative.
    """
    owner = by_overlap(boxes, anchors, high=0.7, low=0.3, floor=0.3)
    chosen = some(owner >= 0, ANCHORS // 2)
    negatives = min(int((owner == NOTHING).sum()), ANCHORS - len(chosen))
    return (chosen, owner[chosen]), negatives


def anchors_for_centers(boxes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Objects (N, 4), anchors (P, 4) -> at most 256 anchors (K,) with an IoU of 0.3, and their objects (K,)."""
    owner = by_overlap(boxes, anchors, high=0.3, low=0.1, floor=0.3)
    chosen = some(owner >= 0, ANCHORS)
    return chosen, owner[chosen]
