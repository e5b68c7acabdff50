"""SMCA: DETR with spatially modulated co-attention; Gaussians around predicted centers weight the attention of queries.

Gao, Zheng, Wang, Dai, Li, "Fast Convergence of DETR with Spatially Modulated Co-Attention", 2021; on one map.

    image -> backbone -> coarsest map -> encoder -> memory
                             queries -> references -> in each decoder layer: centers, scales -> Gaussians
                             queries -> decoder with attention weighted by the Gaussians -> classes, box

A Gaussian is an attention bias (`parts.query.gaussian`), one per head. Coordinates are in cells of the map, for any
stride; the paper's is 32. Boxes are relative to the references. Classes are independent sigmoids with low initial
scores, without background; the published program has 92 outputs for COCO's 80 classes.

    head_mixture    the second half of the heads has no Gaussians, as in DETR
    query_mixture   the first half of the queries has no Gaussians, and boxes without references

Shape letters: B images, Q queries, S cells of the map, C channels, H heads, K classes, L decoder layers.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.query.gaussian import Gaussian
from detection.parts.query.position import extent, padding, positions_called
from detection.parts.query.queries import best_pairs, detections
from detection.parts.query.set_loss import SetLoss
from detection.parts.query.transformer import MLP, DecoderLayer, Encoder, hide, xavier
from detection.types import Detections, Images, Target
from shared.devices.device import sent
from shared.errors import UsageError
from shared.recipes.values import Count, Dropout, Layers, Probability, Scale, Weight, Width

RARE = 0.01  # initial score of every class


TRAINED = {
    "by": "its authors' code",
    "opt": "adamw",
    "lr": 1e-4,
    "lr_batch": 16,
    "backbone_lr": 1e-5,
    "wd": 1e-4,
    "clip_grad_norm": 0.1,
    "lr_scheduler": "step",
    "lr_step_size": 40,
    "epochs": 50,
    "aug_type": "detr",
}


@detector(
    "smca_detr",
    resize_rule="detr",
    trained=TRAINED,
    tiny={
        "width": 32,
        "heads": 4,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "feedforward": 64,
        "dropout": 0.0,
        "num_queries": 16,
    },
)
class SMCADETR(Detector):
    """
    Args:
        backbone: any; its coarsest map is used.
        num_classes: K.
        dynamic_scale: width of the Gaussians: type1 fixed, type2 predicted per head, type3 in x and y, type4 with a
            product term.
        smooth: divisor of squared distances; larger values make Gaussians wider.
        head_mixture: half of the heads without Gaussians.
        query_mixture: half of the queries without Gaussians and references.
        width: channels of the transformer.
        heads: attention heads; they divide the width.
        encoder_layers: number of encoder layers.
        decoder_layers: number of decoder layers.
        feedforward: hidden width of each layer's feed-forward network.
        dropout: dropout probability in every layer.
        pre_norm: layer norm before each sublayer instead of after it.
        position_embedding: sine, or learned (50 rows and 50 columns).
        num_queries: Q, the maximum number of objects per image.
        no_aux_loss: losses of the last decoder layer only.
        class_cost: matching cost weight of the class probability.
        l1_cost: matching cost weight of the L1 distance of boxes.
        giou_cost: matching cost weight of the generalized IoU.
        class_weight: weight of the classification loss.
        l1_weight: weight of the L1 loss of boxes.
        giou_weight: weight of the generalized IoU loss.
        min_score: detections with a lower score are dropped.
        max_detections: per image, over all pairs of query and class; by default the number of queries.
    """

    graphs = ("predict",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        dynamic_scale: Literal["type1", "type2", "type3", "type4"] = "type3",
        smooth: Scale = 8.0,
        head_mixture: bool = False,
        query_mixture: bool = False,
        width: Width = 256,
        heads: Count = 8,
        encoder_layers: Layers = 6,
        decoder_layers: Layers = 6,
        feedforward: Width = 2048,
        dropout: Dropout = 0.1,
        pre_norm: bool = False,
        position_embedding: Literal["sine", "learned"] = "sine",
        num_queries: Count = 300,
        no_aux_loss: bool = False,
        class_cost: Weight = 2.0,
        l1_cost: Weight = 5.0,
        giou_cost: Weight = 2.0,
        class_weight: Weight = 2.0,
        l1_weight: Weight = 5.0,
        giou_weight: Weight = 2.0,
        min_score: Probability = 0.0,
        max_detections: Count | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.used_maps = backbone, [len(backbone.maps) - 1]
        self.narrow = nn.Conv2d(backbone.maps[-1].channels, width, 1)
        self.positions = positions_called(position_embedding, width)
        options = (width, heads, feedforward, dropout)
        self.encoder = Encoder(encoder_layers, *options, pre_norm=pre_norm)
        self.encoder_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.queries = nn.Embedding(num_queries, width)
        self.max_objects = num_queries
        self.refer = MLP(width, 2)
        xavier(self.refer)
        self.gaussians = nn.ModuleList(Gaussian(width, heads, dynamic_scale) for _ in range(decoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*options, pre_norm=pre_norm) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, num_classes)
        nn.init.constant_(self.classify.bias, -math.log((1 - RARE) / RARE))
        self.locate = MLP(width, 4)
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
        referring = torch.arange(num_queries) >= (num_queries // 2 if query_mixture else 0)
        self.register_buffer("referring", referring[:, None].float(), persistent=False)
        looking = strength(heads, referring, smooth, head_mixture=head_mixture)
        self.register_buffer("strength", looking, persistent=False)
        self.judged = slice(-1, None) if no_aux_loss else slice(None)
        self.min_score, self.max_detections = min_score, max_detections or num_queries

    referring: Tensor  # (Q, 1) 1 for queries with a reference, else 0
    strength: Tensor  # (H, Q, 1) 1 / smooth with a Gaussian, else 0

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Focal loss of classes, L1 and GIoU losses of boxes, for every decoder layer."""
        logits, boxes = self.predict(images)
        return self.loss(logits[self.judged], boxes[self.judged], targets, images.sizes)

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        """The best pairs of query and class."""
        logits, boxes = self.predict(images)
        best = best_pairs(logits[-1].sigmoid(), self.max_detections)
        return detections(best, boxes[-1], images.sizes, self.min_score)

    def class_head(self) -> list[nn.Module]:
        return [self.classify]

    def predict(self, images: Images) -> tuple[Tensor, Tensor]:
        """-> logits (L, B, Q, K), boxes (L, B, Q, 4) as cx cy w h relative to the unpadded images"""
        coarsest = self.narrow(self.backbone.forward_features(images.pixels)[-1])
        where = extent(images, [coarsest])
        positions, hidden = self.positions(where), hide(padding(where))
        memory = self.encoder_norm(self.encoder(coarsest.flatten(2).transpose(1, 2), positions, hidden))
        anchors = self.anchors()
        references = anchors.sigmoid() * self.cells(images)
        states = self.decode(memory, positions, hidden, references, where.shapes[0])
        boxes = self.locate(states).float() + F.pad(anchors * self.referring, (0, 2))
        return self.classify(states).float(), boxes.sigmoid()

    def anchors(self) -> Tensor:
        """-> (Q, 2): x and y of the references before the sigmoid, the same for every image."""
        return self.refer(self.gaussians[0].norm(self.queries.weight)).float()  # type: ignore[operator, union-attr]

    def cells(self, images: Images) -> Tensor:
        """-> (B, 1, 2): columns and rows of each unpadded image on the map, fractional"""
        held = sent(images.sizes, images.pixels.device) if images.held is None else images.held
        sides = held.float().flip(-1)
        return sides[:, None] / self.backbone.maps[-1].stride

    def decode(
        self, memory: Tensor, positions: Tensor, hidden: Tensor | None, references: Tensor, shape: tuple[int, int]
    ) -> Tensor:
        """Memory (B, S, C), references (B, Q, 2) in cells -> normalized query states (L, B, Q, C) after each layer."""
        queries = self.queries.weight
        x, states = memory.new_zeros(len(memory), *queries.shape), []
        placed = memory + positions
        for layer, gaussian in zip(self.decoder, self.gaussians, strict=True):
            x = layer(x, queries, placed, memory, gaussian(x + queries, references, self.strength, shape, hidden))
            states.append(x)
        return self.decoder_norm(torch.stack(states))


def strength(heads: int, referring: Tensor, smooth: float, *, head_mixture: bool) -> Tensor:
    """-> (H, Q, 1): 1 / smooth for heads and queries with Gaussians, 0 for the others.

    Raises:
        UsageError: `smooth` is not above 0.
    """
    if not smooth > 0:
        raise UsageError(f"smooth is {smooth}; give a number above 0")
    looking = torch.arange(heads) < (-(-heads // 2) if head_mixture else heads)
    return (looking[:, None] & referring)[..., None] / smooth
