"""DETR: a hundred queries look at the whole image and at one another, and each says what it found and where.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020.

    image -> backbone -> coarsest map -> encoder -> memory
                                         queries -> decoder, looking at the memory -> class or nothing, box

Neither anchors nor suppression: training assigns one query to each object, so that no two learn to say the same.
Shape letters: B images, Q queries, S places of the map, C channels, K classes, L decoder layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.position import extent, padding, sine_positions
from detection.parts.queries import best_queries, detections
from detection.parts.set_loss import SetLoss
from detection.parts.transformer import MLP, DecoderLayer, EncoderLayer, hide
from detection.types import Detections, Images, Target


@detector(
    "detr",
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
class DETR(Detector):
    """
    Args:
        backbone: anything; its coarsest map is looked at.
        num_classes: K, without background.
        width: channels of the transformer.
        heads: of every attention; they share the width.
        encoder_layers: in which the places of the map look at one another.
        decoder_layers: in which the queries look at one another and at the map.
        feedforward: width inside each layer's feed-forward part.
        dropout: share of values set to 0 in training, in every layer.
        pre_norm: normalise before each step of a layer and not after it.
        num_queries: Q, the most objects an image may have.
        no_aux_loss: judge the last decoder layer alone and not all of them.
        eos_coef: weight of background in the classification loss.
        class_cost: weight of the probability of an object's class when queries are assigned to objects.
        l1_cost: weight of the distance between boxes there.
        giou_cost: weight of the overlap of boxes there.
        class_weight: weight of the classification loss.
        l1_weight: weight of the loss that is the distance of boxes.
        giou_weight: weight of the loss that is their missing overlap.
        min_score: detections that score less are left out.
        max_detections: kept per image; as many as there are queries when not given.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        width: int = 256,
        heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        num_queries: int = 100,
        no_aux_loss: bool = False,
        eos_coef: float = 0.1,
        class_cost: float = 1.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        min_score: float = 0.0,
        max_detections: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.used_maps = backbone, [len(backbone.maps) - 1]
        self.narrow = nn.Conv2d(backbone.maps[-1].channels, width, 1)
        told = (width, heads, feedforward, dropout)
        self.encoder = nn.ModuleList(EncoderLayer(*told, pre_norm=pre_norm) for _ in range(encoder_layers))
        self.encoder_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.queries = nn.Embedding(num_queries, width)
        self.decoder = nn.ModuleList(DecoderLayer(*told, pre_norm=pre_norm) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, num_classes + 1)  # the last is background
        self.locate = MLP(width, 4)
        self.loss = SetLoss(
            num_classes,
            "softmax",
            class_cost=class_cost,
            l1_cost=l1_cost,
            giou_cost=giou_cost,
            class_weight=class_weight,
            l1_weight=l1_weight,
            giou_weight=giou_weight,
            eos_coef=eos_coef,
        )
        self.judged = slice(-1, None) if no_aux_loss else slice(None)
        self.min_score, self.max_detections = min_score, max_detections or num_queries

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Cross-entropy of the classes, distance and missing overlap of the boxes, of every decoder layer."""
        logits, boxes = self.predict(images)
        return self.loss(logits[self.judged], boxes[self.judged], targets, images.sizes)

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        """What each query says, of all classes the likeliest, and however unlikely."""
        logits, boxes = self.predict(images)
        scores = logits[-1].softmax(-1)[..., :-1]
        return detections(best_queries(scores, self.max_detections), boxes[-1], images.sizes, self.min_score)

    def class_head(self) -> list[nn.Module]:
        return [self.classify]

    def predict(self, images: Images) -> tuple[Tensor, Tensor]:
        """-> logits (L, B, Q, K + 1), boxes (L, B, Q, 4) as centre, width, height in shares of the unpadded images"""
        coarsest = self.narrow(self.backbone.forward_features(images.pixels)[-1])
        where = extent(images, [coarsest])
        positions, hidden = sine_positions(where, coarsest.shape[1]), hide(padding(where))
        memory = self.encode(coarsest.flatten(2).transpose(1, 2), positions, hidden)
        states = self.decode(memory, positions, hidden)
        return self.classify(states).float(), self.locate(states).float().sigmoid()

    def encode(self, x: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        """(B, S, C) -> (B, S, C)"""
        for layer in self.encoder:
            x = layer(x, positions, hidden)
        return self.encoder_norm(x)

    def decode(self, memory: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        """(B, S, C) -> (L, B, Q, C): what the queries hold after each layer, normalised."""
        queries = self.queries.weight
        x, states = memory.new_zeros(len(memory), *queries.shape), []
        placed = memory + positions
        for layer in self.decoder:
            x = layer(x, queries, placed, memory, hidden)
            states.append(x)
        return self.decoder_norm(torch.stack(states))
