"""Deformable DETR: attention to a few sampled points of several feature levels.

Zhu, Su, Lu, Li, Wang, Dai, "Deformable DETR: Deformable Transformers for End-to-End Object Detection", 2021.

    image -> backbone -> levels -> encoder: each cell samples points around itself, on all levels -> memory
                                   decoder: each query samples points around its reference       -> classes, box

    deformable_detr           every layer predicts boxes relative to the query's fixed reference point
    deformable_detr_boxref    iterative box refinement: every layer refines the boxes of the previous layer
    two_stage                 with refinement, and initial boxes from the best proposals of the encoder

Shape letters: B images, Q queries, S cells of all levels, C channels, K classes, L levels, N decoder layers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.query.levels import Levels
from detection.parts.query.multiscale import (
    DecoderLayer,
    EncoderLayer,
    Memory,
    add_to_references,
    encode,
    first_boxes,
    on_levels,
)
from detection.parts.query.position import Extent, extent, sine_positions, sines
from detection.parts.query.queries import best_pairs, detections
from detection.parts.query.set_loss import SetLoss
from detection.parts.query.transformer import MLP, check_width, xavier
from detection.types import Detections, Images, Target
from shared.recipes.values import Count, Dropout, Layers, Probability, Weight, Width

RARE = 0.01  # initial score of every class
TINY: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "points": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "feedforward": 64,
    "dropout": 0.0,
    "num_queries": 20,
}


class Proposals(NamedTuple):
    """Predictions of the encoder's cells."""

    logits: Tensor  # (B, S, K)
    boxes: Tensor  # (B, S, 4) before the sigmoid


class Start(NamedTuple):
    """Initial states, positions and references of the queries."""

    states: Tensor  # (B, Q, C)
    positions: Tensor  # (B, Q, C)
    references: Tensor  # (B, Q, 2) points or (B, Q, 4) boxes, relative to the unpadded images
    proposals: Proposals | None = None


TRAINED = {
    "by": "its authors' code",
    "opt": "adamw",
    "lr": 2e-4,
    "lr_batch": 32,
    "backbone_lr": 2e-5,
    "wd": 1e-4,
    "clip_grad_norm": 0.1,
    "lr_scheduler": "step",
    "lr_step_size": 40,
    "epochs": 50,
    "aug_type": "detr",
}


@detector("deformable_detr", tiny=TINY, resize_rule="detr", trained=TRAINED)
class DeformableDETR(Detector):
    """
    Args:
        backbone: any with a map of stride 32 or finer.
        num_classes: K, without background.
        refine_boxes: iterative box refinement, with separate heads per layer.
        width: channels of the transformer.
        heads: attention heads; they divide the width.
        points: sampling points per head and level.
        num_levels: L; the coarsest maps up to stride 32, and further levels by stride-2 convolutions.
        finest_stride: stride of the finest level; 4 with four levels gives strides 4 to 32 instead of 8 to 64.
        encoder_layers: number of encoder layers.
        decoder_layers: number of decoder layers.
        feedforward: hidden width of each layer's feed-forward network.
        dropout: dropout probability in every layer.
        num_queries: Q, the maximum number of objects per image.
        two_stage: queries start from the best proposals of the encoder; implies refine_boxes.
        class_cost: matching cost weight of the class probability.
        l1_cost: matching cost weight of the L1 distance of boxes.
        giou_cost: matching cost weight of the generalized IoU.
        class_weight: weight of the classification loss.
        l1_weight: weight of the L1 loss of boxes.
        giou_weight: weight of the generalized IoU loss.
        min_score: detections with a lower score are dropped.
        max_detections: per image, over all pairs of query and class.
    """

    graphs = ("predict",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        refine_boxes: bool = False,
        *,
        width: Width = 256,
        heads: Count = 8,
        points: Count = 4,
        num_levels: Count = 4,
        finest_stride: Count = 8,
        encoder_layers: Layers = 6,
        decoder_layers: Layers = 6,
        feedforward: Width = 1024,
        dropout: Dropout = 0.1,
        num_queries: Count = 300,
        two_stage: bool = False,
        class_cost: Weight = 2.0,
        l1_cost: Weight = 5.0,
        giou_cost: Weight = 2.0,
        class_weight: Weight = 2.0,
        l1_weight: Weight = 5.0,
        giou_weight: Weight = 2.0,
        min_score: Probability = 0.0,
        max_detections: Count = 100,
    ) -> None:
        super().__init__()
        check_width(width, heads)
        self.refine, self.num_queries = refine_boxes or two_stage, num_queries
        self.max_objects = num_queries
        self.backbone, self.levels = backbone, Levels(backbone, width, num_levels, finest_stride)
        self.used_maps = self.levels.used
        self.level_of = nn.Parameter(torch.randn(num_levels, width))
        options = (width, heads, num_levels, points, feedforward, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*options) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*options) for _ in range(decoder_layers))
        self.start = Proposed(width) if two_stage else Learned(width, num_queries)
        own = decoder_layers + two_stage if self.refine else 1  # with two stages, the last head is for the encoder
        self.classify = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(own))
        self.locate = nn.ModuleList(MLP(width, 4) for _ in range(own))
        self.reset_heads(small=not two_stage)
        self.loss = SetLoss(
            num_classes,
            "focal",
            class_cost=class_cost,
            l1_cost=l1_cost,
            giou_cost=giou_cost,
            class_weight=class_weight,
            l1_weight=l1_weight,
            giou_weight=giou_weight,
        )
        self.min_score, self.max_detections = min_score, max_detections

    def reset_heads(self, *, small: bool) -> None:
        """Initialize heads: low class scores, boxes at their references, small ones around points if `small`."""
        for head in self.classify:
            nn.init.constant_(head.bias, -math.log((1 - RARE) / RARE))  # type: ignore[arg-type]
        for head in self.locate:
            nn.init.zeros_(head[-1].weight)  # type: ignore[index]
            nn.init.zeros_(head[-1].bias)  # type: ignore[index]
        if small:
            nn.init.constant_(self.locate[0][-1].bias[2:], -2.0)  # type: ignore[index]

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss of classes, L1 and GIoU losses of boxes, for every decoder layer and the proposals."""
        logits, boxes, proposals = self.predict(images)
        losses = self.loss(logits, boxes, targets, images.sizes)
        if proposals is None:
            return losses
        proposed = (proposals.logits[None].float(), proposals.boxes[None].sigmoid())
        return losses | self.loss(*proposed, targets, images.sizes, "enc_", class_agnostic=True)

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        logits, boxes, _ = self.predict(images)
        best = best_pairs(logits[-1].sigmoid(), self.max_detections)
        return detections(best, boxes[-1], images.sizes, self.min_score)

    def class_head(self) -> list[nn.Module]:
        return list(self.classify)

    def predict(self, images: Images) -> tuple[Tensor, Tensor, Proposals | None]:
        """-> logits (N, B, Q, K), boxes (N, B, Q, 4) as cx cy w h relative to the images; proposals"""
        maps = self.levels(self.backbone.forward_features(images.pixels))
        memory = self.encode(maps, extent(images, maps))
        if isinstance(self.start, Proposed):
            start = self.start(memory, self.classify[-1], self.locate[-1], self.num_queries)
        else:
            start = self.start(memory)
        return *self.decode(start, memory), start.proposals

    def encode(self, maps: list[Tensor], where: Extent) -> Memory:
        """Levels (B, C, H, W) -> memory"""
        positions = sine_positions(where, maps[0].shape[1], shift=-0.5)
        return encode(self.encoder, maps, where, positions, self.level_of)

    def decode(self, start: Start, memory: Memory) -> tuple[Tensor, Tensor]:
        """-> logits (N, B, Q, K), boxes (N, B, Q, 4)"""
        x, references = start.states, start.references
        logits, boxes = [], []
        for i, layer in enumerate(self.decoder):
            x = layer(x, start.positions, on_levels(references, memory.where), memory)
            own = i if self.refine else 0
            logits.append(self.classify[own](x).float())
            boxes.append(add_to_references(self.locate[own](x).float(), references).sigmoid())
            if self.refine:
                references = boxes[-1].detach()
        return torch.stack(logits), torch.stack(boxes)


@detector("deformable_detr_boxref", like="deformable_detr", tiny=TINY)
def deformable_detr_boxref(backbone: Backbone, num_classes: int, **options: Any) -> Detector:
    """Deformable DETR with iterative box refinement. The options are the same."""
    return DeformableDETR(backbone, num_classes, True, **options)


class Learned(nn.Module):
    """Learned queries, the same for every image."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.positions, self.states = nn.Embedding(count, width), nn.Embedding(count, width)
        self.references = nn.Linear(width, 2)
        self.references.lr_scale = 0.1  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        xavier(self.references)
        nn.init.zeros_(self.references.bias)

    def forward(self, memory: Memory) -> Start:
        positions, states = (table.weight.expand(len(memory.tokens), -1, -1) for table in (self.positions, self.states))
        return Start(states, positions, self.references(positions).float().sigmoid())


class Proposed(nn.Module):
    """Queries initialized from the best proposals of the encoder (two-stage)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.tell = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.LayerNorm(2 * width))
        xavier(self)

    def forward(self, memory: Memory, classify: nn.Module, locate: nn.Module, most: int) -> Start:
        """Every cell proposes a box; the best ones, by the logit of their first class, become queries."""
        boxes, usable = first_boxes(memory)
        seen = self.look(memory.tokens.masked_fill(~usable, 0))
        proposals = Proposals(classify(seen), locate(seen).float() + boxes)
        best = proposals.logits[..., 0].topk(min(most, seen.shape[1])).indices
        references = proposals.boxes.detach().gather(1, best[..., None].expand(-1, -1, 4)).sigmoid()
        embedded = self.tell(sines(references, seen.shape[-1] // 2).flatten(2))
        positions, states = embedded.chunk(2, -1)
        return Start(states, positions, references, proposals)
