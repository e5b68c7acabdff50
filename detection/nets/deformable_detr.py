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
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.dense.necks import build_pyramid
from detection.parts.query.deform import DeformableAttention
from detection.parts.query.position import Extent, extent, padding, sine_positions, sines
from detection.parts.query.queries import best_pairs, detections
from detection.parts.query.set_loss import SetLoss
from detection.parts.query.transformer import MLP, Attention, FeedForward, ResidualNorm, check_width, xavier
from detection.types import Detections, Images, Target
from shared.errors import UsageError
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


class Memory(NamedTuple):
    """Output of the encoder."""

    tokens: Tensor  # (B, S, C)
    where: Extent
    padding: Tensor | None  # (B, S), True for padding


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
        x, hidden = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], 1), padding(where)
        levels = [row.expand(h * w, -1) for row, (h, w) in zip(self.level_of, where.shapes, strict=True)]
        positions = sine_positions(where, x.shape[-1], shift=-0.5) + torch.cat(levels)
        places = on_levels(centers(where), where)
        for layer in self.encoder:
            x = layer(x, positions, places, where.shapes, hidden)
        return Memory(x, where, hidden)

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


class Levels(nn.Module):
    """Backbone maps -> `count` maps of equal width, each with twice the stride of the previous one.

    The coarsest maps with strides from `finest` to 32 get a convolution each; further levels are made by stride-2
    convolutions. The single map of a plain ViT becomes a simple pyramid first.

    Raises:
        UsageError: the backbone has no map in this range.
    """

    def __init__(self, backbone: Backbone, width: int, count: int, finest: int) -> None:
        super().__init__()
        self.used = [i for i, info in enumerate(backbone.maps) if finest <= info.stride <= 32][-count:]
        if not self.used or count < 1:
            raise UsageError(
                f"{count} levels from stride {finest} on need a map of stride {finest} to 32; this backbone has "
                f"strides {[i.stride for i in backbone.maps]}, change --num-levels or --finest-stride, or use "
                f"another one"
            )
        channels = [backbone.maps[i].channels for i in self.used]
        self.pyramid, stride = None, backbone.maps[-1].stride
        if len(backbone.maps) == 1 and stride % 4 == 0 and count > 1:
            offered = [s for s in (stride // 4, stride // 2, stride, stride * 2) if s >= finest]
            self.pyramid = build_pyramid(backbone, width, finest=offered[-count:][0], coarser="pool")
            channels = [info.channels for info in self.pyramid.maps[:-1]]  # without the pooled level
        convs = [nn.Conv2d(into, width, 1) for into in channels]
        for i in range(count - len(channels)):
            convs.append(nn.Conv2d(width if i else channels[-1], width, 3, stride=2, padding=1))
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        groups = max(1, math.gcd(256, width) // 8)  # 32 for the paper's 256 channels
        self.levels = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(groups, width)) for conv in convs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Backbone maps -> `count` maps (B, width, H, W), finest first."""
        maps = [maps[i] for i in self.used] if self.pyramid is None else self.pyramid(maps)[:-1]
        found = [level(x) for level, x in zip(self.levels, maps, strict=False)]
        x = maps[-1]
        for level in self.levels[len(maps) :]:
            found.append(x := level(x))
        return found


class EncoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, levels: int, points: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads, levels, points)
        self.feed = FeedForward(width, feedforward, dropout)
        self.around_attention, self.around_feed = (ResidualNorm(width, dropout) for _ in range(2))

    def forward(
        self, x: Tensor, positions: Tensor, places: Tensor, shapes: list[tuple[int, int]], hidden: Tensor | None
    ) -> Tensor:
        """(B, S, C), positions, reference points (B, S, L, 2), padding mask -> (B, S, C)"""
        x = self.around_attention(x, lambda x: self.attention(x + positions, places, x, shapes, hidden))
        return self.around_feed(x, self.feed)


class DecoderLayer(nn.Module):
    def __init__(self, width: int, heads: int, levels: int, points: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads, dropout)
        self.cross_attention = DeformableAttention(width, heads, levels, points)
        self.feed = FeedForward(width, feedforward, dropout)
        self.around_self, self.around_cross, self.around_feed = (ResidualNorm(width, dropout) for _ in range(3))

    def forward(self, x: Tensor, positions: Tensor, places: Tensor, memory: Memory) -> Tensor:
        """(B, Q, C), positions, references (B, Q, L, 2 or 4), memory -> (B, Q, C)"""

        def attend_to_queries(x: Tensor) -> Tensor:
            placed = x + positions
            return self.self_attention(placed, placed, x)

        def attend_to_memory(x: Tensor) -> Tensor:
            return self.cross_attention(x + positions, places, memory.tokens, memory.where.shapes, memory.padding)

        return self.around_feed(self.around_cross(self.around_self(x, attend_to_queries), attend_to_memory), self.feed)


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


def first_boxes(memory: Memory) -> tuple[Tensor, Tensor]:
    """-> (B, S, 4) initial box of each cell, before the sigmoid, Inf where invalid; (B, S, 1) validity."""
    middle = centers(memory.where)
    sides = [
        middle.new_full((height * width, 2), 0.05 * 2**level)
        for level, (height, width) in enumerate(memory.where.shapes)
    ]
    boxes = torch.cat((middle, torch.cat(sides).expand_as(middle)), -1)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True)
    if memory.padding is not None:
        usable = usable & ~memory.padding[..., None]
    return boxes.logit().masked_fill(~usable, torch.inf), usable


def centers(where: Extent) -> Tensor:
    """-> (B, S, 2): center x, y of every cell, relative to the unpadded images."""
    found = []
    for (height, width), cells in zip(where.shapes, where.cells.unbind(1), strict=True):
        ys, xs = (torch.arange(side, device=cells.device) + 0.5 for side in (height, width))
        grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1).flatten(0, 1)
        found.append(grid / cells[:, None])
    return torch.cat(found, 1)


def on_levels(references: Tensor, where: Extent) -> Tensor:
    """(B, Q, 2 or 4) relative to the unpadded images -> (B, Q, L, 2 or 4) relative to each padded level."""
    times = references.shape[-1] // 2
    return references[:, :, None] * where.shares.repeat(1, 1, times)[:, None]


def add_to_references(moves: Tensor, references: Tensor) -> Tensor:
    """Head outputs (B, Q, 4), references (B, Q, 2 or 4) -> (B, Q, 4): boxes before the sigmoid."""
    known = references.clamp(1e-5, 1 - 1e-5).logit()
    return moves + F.pad(known, (0, 4 - references.shape[-1]))
