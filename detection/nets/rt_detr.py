"""RT-DETR v2: a real-time DETR, whose encoder attends only within the coarsest map.

Zhao, Lv, Xu, Wei, Wang, Dang, Liu, Chen, "DETRs Beat YOLOs on Real-time Object Detection", 2023.
Lv, Zhao, Chang, Huang, Wang, Liu, "RT-DETRv2: Improved Baseline with Bag-of-Freebies", 2024.

    image -> backbone -> hybrid encoder -> memory -> the best cells -> decoder: each layer refines boxes -> classes, box
                                           objects with noise ------>          (in training)

    losses    varifocal of classes, L1 and GIoU of boxes: every decoder layer, the selected cells, denoising

Version 2 differs from 1 in its training and in `sampling`: with discrete sampling the file runs where `grid_sample`
does not.

Shape letters: B images, Q queries, P denoising queries, C channels, K classes, L levels, N decoder layers.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.query.denoising import Noise, noised
from detection.parts.query.hybrid import HybridEncoder, conv_norm
from detection.parts.query.levels import from_backbone
from detection.parts.query.multiscale import EDGE, DecoderLayer, Memory, add_to_references, on_levels, rows_of
from detection.parts.query.position import extent, padding
from detection.parts.query.queries import best_pairs, detections
from detection.parts.query.selection import Predicted, losses_of, select
from detection.parts.query.set_loss import SetLoss, set_targets
from detection.parts.query.transformer import MLP, check_width, xavier
from detection.types import Detections, Images, Target
from shared.recipes.values import Count, CountOrNone, Dropout, Layers, Probability, Scale, Weight, Width

RARE = 0.01  # initial score of every class
TINY: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "points": 2,
    "decoder_layers": 2,
    "feedforward": 64,
    "expansion": 0.5,
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
    "norm_wd": 0.0,
    "clip_grad_norm": 0.1,
    "lr_scheduler": "constant",
    "warmup_steps": 2000,
    "warmup_epochs": 1,
    "epochs": 72,
    "aug_type": "ssd",
}


@detector("rt_detr", tiny=TINY, trained=TRAINED)
class RTDETR(Detector):
    """
    Args:
        backbone: any with a map of stride 32 or finer.
        num_classes: K, without background.
        width: channels of the decoder.
        encoder_width: channels of the encoder; 0 for those of the decoder.
        heads: attention heads; they divide both widths.
        points: sampling points per head and level.
        num_levels: L; the coarsest maps up to stride 32, and further levels by stride-2 convolutions.
        finest_stride: stride of the finest level.
        encoder_layers: number of self-attention layers on the coarsest map.
        decoder_layers: number of decoder layers.
        feedforward: hidden width of each layer's feed-forward network.
        expansion: channels inside of the encoder's fusion blocks, as a share of its width.
        dropout: dropout probability in every layer.
        sampling: bilinear samples, or discrete ones: the nearest cells.
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

    graphs = ("encode",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: Width = 256,
        encoder_width: CountOrNone = 0,
        heads: Count = 8,
        points: Count = 4,
        num_levels: Count = 3,
        finest_stride: Count = 8,
        encoder_layers: Layers = 1,
        decoder_layers: Layers = 6,
        feedforward: Width = 1024,
        expansion: Scale = 1.0,
        dropout: Dropout = 0.0,
        sampling: Literal["bilinear", "discrete"] = "bilinear",
        num_queries: Count = 300,
        denoising: CountOrNone = 100,
        label_noise: Probability = 0.5,
        box_noise: Scale = 1.0,
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
        inner = encoder_width or width
        check_width(width, heads)
        check_width(inner, heads)
        self.num_classes, self.look_twice = num_classes, look_forward_twice
        self.max_objects = self.num_queries = num_queries
        self.noise = {"count": denoising, "label_noise": label_noise, "box_noise": box_noise}
        self.backbone = backbone
        self.used_maps, self.pyramid, channels = from_backbone(backbone, inner, num_levels, finest_stride)
        self.encoder = HybridEncoder(channels, inner, heads, encoder_layers, feedforward, dropout, expansion)
        further = [inner, *[width] * num_levels][: num_levels - len(channels)]
        self.levels = nn.ModuleList(
            [conv_norm(inner, width, 1, active=False) for _ in channels]
            + [conv_norm(into, width, 3, stride=2, active=False) for into in further]
        )
        self.look = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.classify_cells, self.locate_cells = nn.Linear(width, num_classes), MLP(width, 4)
        self.labels = nn.Embedding(num_classes + 1, width, padding_idx=num_classes) if denoising else None
        self.decoder = nn.ModuleList(
            DecoderLayer(
                *(width, heads, num_levels, points, feedforward, dropout),
                slow_offsets=False,
                discrete=sampling == "discrete",
            )
            for _ in range(decoder_layers)
        )
        self.place = MLP(2 * width, width, 2, into=4)
        self.classify = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(decoder_layers))
        self.locate = nn.ModuleList(MLP(width, 4) for _ in range(decoder_layers))
        self.reset_heads()
        self.loss = SetLoss(
            num_classes,
            "focal",
            varifocal=True,
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
        for part in (self.look, self.place, self.labels):
            if part is not None:
                xavier(part)
        for head in (self.classify_cells, *self.classify):
            nn.init.xavier_uniform_(head.weight)  # type: ignore[arg-type]
            nn.init.constant_(head.bias, -math.log((1 - RARE) / RARE))  # type: ignore[arg-type]
        for head in (self.locate_cells, *self.locate):
            nn.init.zeros_(head[-1].weight)  # type: ignore[index]
            nn.init.zeros_(head[-1].bias)  # type: ignore[index]

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Varifocal loss of classes, L1 and GIoU losses of boxes, for every decoder layer and the selected cells.

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
        return [self.classify_cells, *self.classify, *([] if self.labels is None else [self.labels])]

    def predict(self, images: Images, noise: Noise | None = None) -> Predicted:
        memory = self.encode(images)
        cells = select(memory, self.look, self.classify_cells, self.locate_cells, self.num_queries)
        states, references = cells.states.detach(), cells.boxes.detach()
        if noise is not None and self.labels is not None:
            states = torch.cat((self.labels(noise.labels).to(states.dtype), states), 1)
            references = torch.cat((noise.boxes, references), 1)
        bias = None if noise is None else noise.bias(cells.boxes.shape[1])
        return Predicted(*self.decode(states, references.sigmoid(), memory, bias), cells, noise)

    def encode(self, images: Images) -> Memory:
        maps = self.backbone.forward_features(images.pixels)
        maps = [maps[i] for i in self.used_maps] if self.pyramid is None else self.pyramid(maps)[:-1]
        found = self.encoder(images, maps)
        coarsest = found[-1]
        maps = [level(x) for level, x in zip(self.levels, found, strict=False)]
        for level in self.levels[len(found) :]:
            maps.append(coarsest := level(coarsest))
        where = extent(images, maps)
        return Memory(rows_of(maps), where, padding(where))

    def decode(self, x: Tensor, references: Tensor, memory: Memory, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """States, references (B, P + Q, C or 4) -> logits (N, B, P + Q, K), boxes (N, B, P + Q, 4)"""
        logits, boxes = [], []
        before = references
        for layer, classify, locate in zip(self.decoder, self.classify, self.locate, strict=True):
            x = layer(x, self.place(references), on_levels(references, memory.where), memory, bias)
            logits.append(classify(x).float())
            moves = locate(x).float()
            boxes.append(add_to_references(moves, before if self.look_twice else references).sigmoid())
            before = add_to_references(moves, references).sigmoid()
            references = before.detach()
        return torch.stack(logits), torch.stack(boxes)
