"""DINO: a two-stage Deformable DETR whose queries are learned and whose first boxes are the encoder's.

Zhang, Li, Liu, Zhang, Su, Zhu, Ni, Shum, "DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object
Detection", 2022.

    image -> backbone -> levels -> encoder -> memory -> boxes of the best cells, states learned (mixed query selection)
                                              objects with noise ------>   decoder: each layer refines boxes
                                                                           (look forward twice) -> classes, box

    losses    focal of classes, L1 and GIoU of boxes: every decoder layer, the selected cells, denoising

It has nothing but the name in common with the pretraining method DINO.

Shape letters: B images, Q queries, P denoising queries, C channels, K classes, L levels, N decoder layers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.query.denoising import Noise, noised
from detection.parts.query.levels import Levels
from detection.parts.query.multiscale import DecoderLayer, EncoderLayer, Memory, add_to_references, encode, on_levels
from detection.parts.query.position import extent, sine_positions, sines
from detection.parts.query.queries import best_pairs, detections
from detection.parts.query.selection import Predicted, losses_of, select
from detection.parts.query.set_loss import SetLoss, set_targets
from detection.parts.query.transformer import MLP, check_width, xavier
from detection.types import Detections, Images, Target
from shared.recipes.values import Count, CountOrNone, Dropout, Layers, Probability, Scale, Weight, Width

RARE = 0.01  # initial score of every class
EDGE = 1e-3  # references are moved so far from 0 and 1 before the sigmoid is inverted
TEMPERATURE = 20.0  # of the encoder's positions
TINY: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "points": 2,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "feedforward": 64,
    "num_queries": 20,
    "denoising": 10,
}
TRAINED = {
    "by": "its authors' code",
    "opt": "adamw",
    "lr": 1e-4,
    "lr_batch": 16,
    "backbone_lr": 1e-5,
    "wd": 1e-4,
    "clip_grad_norm": 0.1,
    "lr_scheduler": "step",
    "lr_step_size": 11,
    "epochs": 12,
    "aug_type": "detr",
}


@detector("dino_detr", tiny=TINY, resize_rule="detr", trained=TRAINED)
class DINO(Detector):
    """
    Args:
        backbone: any with a map of stride 32 or finer.
        num_classes: K, without background.
        width: channels of the transformer.
        heads: attention heads; they divide the width.
        points: sampling points per head and level.
        num_levels: L; the coarsest maps up to stride 32, and further levels by stride-2 convolutions.
        finest_stride: stride of the finest level; 4 with five levels for the paper's 5-scale network.
        encoder_layers: number of encoder layers.
        decoder_layers: number of decoder layers.
        feedforward: hidden width of each layer's feed-forward network.
        dropout: dropout probability in every layer.
        num_queries: Q, the maximum number of objects per image.
        denoising: about this many pairs of denoising queries for an image in training; 0 for none.
        label_noise: half this share of their labels is exchanged.
        box_noise: how far their boxes move, in halves of their sides.
        look_forward_twice: gradients of a layer's boxes reach the layer before it.
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
        *,
        width: Width = 256,
        heads: Count = 8,
        points: Count = 4,
        num_levels: Count = 4,
        finest_stride: Count = 8,
        encoder_layers: Layers = 6,
        decoder_layers: Layers = 6,
        feedforward: Width = 2048,
        dropout: Dropout = 0.0,
        num_queries: Count = 900,
        denoising: CountOrNone = 100,
        label_noise: Probability = 0.5,
        box_noise: Scale = 0.4,
        look_forward_twice: bool = True,
        class_cost: Weight = 2.0,
        l1_cost: Weight = 5.0,
        giou_cost: Weight = 2.0,
        class_weight: Weight = 1.0,
        l1_weight: Weight = 5.0,
        giou_weight: Weight = 2.0,
        min_score: Probability = 0.0,
        max_detections: Count = 300,
    ) -> None:
        super().__init__()
        check_width(width, heads)
        self.num_classes, self.look_twice = num_classes, look_forward_twice
        self.max_objects = self.num_queries = num_queries
        self.noise = {"count": denoising, "label_noise": label_noise, "box_noise": box_noise}
        self.backbone, self.levels = backbone, Levels(backbone, width, num_levels, finest_stride)
        self.used_maps = self.levels.used
        self.level_of = nn.Parameter(torch.randn(num_levels, width))
        options = (width, heads, num_levels, points, feedforward, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*options, slow_offsets=False) for _ in range(encoder_layers))
        self.look = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.classify_cells, self.locate_cells = nn.Linear(width, num_classes), MLP(width, 4)
        self.queries = nn.Embedding(num_queries, width)
        self.labels = nn.Embedding(num_classes + 1, width, padding_idx=num_classes) if denoising else None
        self.decoder = nn.ModuleList(DecoderLayer(*options, slow_offsets=False) for _ in range(decoder_layers))
        self.decoder_norm, self.place = nn.LayerNorm(width), MLP(width, width, 2, into=2 * width)
        self.classify, self.locate = nn.Linear(width, num_classes), MLP(width, 4)  # of all layers
        self.reset_heads()
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

    def reset_heads(self) -> None:
        """Initialize heads: low class scores, boxes at their references."""
        for part in (self.look, self.place):
            xavier(part)
        for head in (self.classify_cells, self.classify):
            nn.init.constant_(head.bias, -math.log((1 - RARE) / RARE))
        for head in (self.locate_cells, self.locate):
            nn.init.zeros_(head[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(head[-1].bias)  # type: ignore[arg-type]

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss of classes, L1 and GIoU losses of boxes, for every decoder layer and the selected cells (`enc_`).

        In training, the same for the denoising queries (`dn_`).
        """
        noise = None
        if self.training and self.labels is not None:
            objects = set_targets(targets, images.sizes)
            noise = noised(objects, self.num_classes, edge=EDGE, **self.noise)  # type: ignore[call-arg]
        return losses_of(self.loss, self.predict(images, noise), targets, images.sizes)

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        found = self.predict(images)
        best = best_pairs(found.logits[-1].sigmoid(), self.max_detections)
        return detections(best, found.boxes[-1], images.sizes, self.min_score)

    def class_head(self) -> list[nn.Module]:
        return [self.classify_cells, self.classify, *([] if self.labels is None else [self.labels])]

    def predict(self, images: Images, noise: Noise | None = None) -> Predicted:
        memory = self.encode(images)
        cells = select(memory, self.look, self.classify_cells, self.locate_cells, self.num_queries)
        batch, queries, _ = cells.boxes.shape
        states, references = self.queries.weight[:queries].expand(batch, -1, -1), cells.boxes.detach()
        if noise is not None and self.labels is not None:
            states = torch.cat((self.labels(noise.labels), states), 1)
            references = torch.cat((noise.boxes, references), 1)
        bias = None if noise is None else noise.bias(queries)
        return Predicted(*self.decode(states, references.sigmoid(), memory, bias), cells, noise)

    def encode(self, images: Images) -> Memory:
        maps = self.levels(self.backbone.forward_features(images.pixels))
        where = extent(images, maps)
        positions = sine_positions(where, maps[0].shape[1], temperature=TEMPERATURE)
        return encode(self.encoder, maps, where, positions, self.level_of)

    def decode(self, x: Tensor, references: Tensor, memory: Memory, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """States, references (B, P + Q, C or 4) -> logits (N, B, P + Q, K), boxes (N, B, P + Q, 4)"""
        logits, boxes = [], []
        before = references
        for layer in self.decoder:
            places = on_levels(references, memory.where)
            left, top, width, height = sines(places[:, :, 0], x.shape[-1] // 2).unbind(2)
            x = layer(x, self.place(torch.cat((top, left, width, height), -1)), places, memory, bias)
            seen = self.decoder_norm(x)
            logits.append(self.classify(seen).float())
            known = before if self.look_twice else references
            boxes.append(add_to_references(self.locate(seen).float(), known, EDGE).sigmoid())
            # the next layer starts from the state before the norm, as in the authors' program
            before = add_to_references(self.locate(x).float(), references, EDGE).sigmoid()
            references = before.detach()
        return torch.stack(logits), torch.stack(boxes)
