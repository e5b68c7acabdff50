"""DETR: a hundred queries look at the whole image and at one another, and each says what it found and where.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020.

    image -> backbone -> coarsest map -> encoder -> memory
                                         queries -> decoder, looking at the memory -> class or nothing, box
    detr_panoptic                                   and, on the way back up the backbone's maps -> mask

Neither anchors nor suppression: training assigns one query to each object, so that no two learn to say the same.
`detr_panoptic` is trained in two stages, as its paper does: `detr` on the boxes of things and stuff, then, from these
weights and with `frozen_boxes`, the masks alone.

Shape letters: B images, Q queries, S places of the map, C channels, K classes, L decoder layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.query.hungarian import match
from detection.parts.query.mask_queries import AT_ONCE, MaskHead, Sight, mask_losses, padded_masks, segmented
from detection.parts.query.position import extent, padding, positions_called
from detection.parts.query.queries import best_queries, detections
from detection.parts.query.set_loss import SetLoss, boxes_per_process, set_targets
from detection.parts.query.transformer import MLP, DecoderLayer, Encoder, hide
from detection.types import Detections, Images, Target
from shared.errors import UsageError

TINY: dict[str, Any] = {
    "width": 64,
    "heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "feedforward": 64,
    "dropout": 0.0,
    "num_queries": 16,
}


class Seen(NamedTuple):
    """What the transformer makes of a batch."""

    maps: list[Tensor]  # the backbone's
    coarsest: Tensor  # (B, C, rows, columns) the last of them, narrowed
    memory: Tensor  # (B, S, C)
    hidden: Tensor | None  # a bias of attention that hides padding
    states: Tensor  # (L, B, Q, C) what the queries hold after each layer


@detector("detr", tiny=TINY)
class DETR(Detector):
    """
    Args:
        backbone: anything; its coarsest map is looked at.
        num_classes: K, without background.
        masks: find masks, too.
        width: channels of the transformer.
        heads: of every attention; they share the width.
        encoder_layers: in which the places of the map look at one another.
        decoder_layers: in which the queries look at one another and at the map.
        feedforward: width inside each layer's feed-forward part.
        dropout: share of values set to 0 in training, in every layer.
        pre_norm: normalize before each step of a layer and not after it.
        position_embedding: sine, or learned for each of 50 rows and 50 columns.
        num_queries: Q, the most objects an image may have.
        no_aux_loss: judge the last decoder layer alone and not all of them.
        eos_coef: weight of background in the classification loss.
        class_cost: weight of the probability of an object's class when queries are assigned to objects.
        l1_cost: weight of the distance between boxes there.
        giou_cost: weight of the overlap of boxes there.
        class_weight: weight of the classification loss.
        l1_weight: weight of the loss that is the distance of boxes.
        giou_weight: weight of the loss that is their missing overlap.
        mask_weight: detr_panoptic alone: weight of the focal loss of masks.
        dice_weight: detr_panoptic alone: weight of their missing Dice overlap.
        frozen_boxes: detr_panoptic alone: all but the masks holds still.
        min_score: detections that score less are left out.
        max_detections: kept per image; as many as there are queries when not given.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        masks: bool = False,
        *,
        width: int = 256,
        heads: int = 8,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        feedforward: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        position_embedding: str = "sine",
        num_queries: int = 100,
        no_aux_loss: bool = False,
        eos_coef: float = 0.1,
        class_cost: float = 1.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        frozen_boxes: bool = False,
        min_score: float = 0.0,
        max_detections: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.used_maps = backbone, [len(backbone.maps) - 1]
        self.narrow = nn.Conv2d(backbone.maps[-1].channels, width, 1)
        self.positions = positions_called(position_embedding, width)
        options = (width, heads, feedforward, dropout)
        self.encoder = Encoder(encoder_layers, *options, pre_norm=pre_norm)
        self.encoder_norm = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self.queries = nn.Embedding(num_queries, width)
        self.decoder = nn.ModuleList(DecoderLayer(*options, pre_norm=pre_norm) for _ in range(decoder_layers))
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
        self.masks, self.frozen_boxes = None, frozen_boxes
        self.mask_weights = {"masks": mask_weight, "dice": dice_weight}
        if masks:
            self.requires_grad_(not frozen_boxes)
            self.masks = MaskHead(width, heads, backbone.maps)
            self.used_maps = [*sorted(self.masks.used), *self.used_maps]
        elif frozen_boxes or (mask_weight, dice_weight) != (1, 1):
            raise UsageError("detr finds no masks to weigh or to learn on frozen boxes; say --network detr_panoptic")

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Cross-entropy of the classes, distance and missing overlap of the boxes, of every decoder layer.

        With masks, their focal and Dice losses, of the last layer; on frozen boxes, these alone.
        """
        seen = self.look(images)
        logits, boxes = (said[self.judged] for said in self.say(seen))
        if self.masks is None:
            return self.loss(logits, boxes, targets, images.sizes)
        return self.losses_with_masks(seen, logits, boxes, images, targets)  # type: ignore[call-arg]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        """What each query says, of all classes the likeliest, and however unlikely."""
        seen = self.look(images)
        logits, boxes = self.say(seen)
        best = best_queries(logits[-1].softmax(-1)[..., :-1], self.max_detections)
        found = detections(best, boxes[-1], images.sizes, self.min_score)
        return found if self.masks is None else self.with_masks(found, best[2], seen, images)

    def class_head(self) -> list[nn.Module]:
        return [self.classify]

    def predict(self, images: Images) -> tuple[Tensor, Tensor]:
        """-> logits (L, B, Q, K + 1), boxes (L, B, Q, 4) as center, width, height in shares of the unpadded images"""
        return self.say(self.look(images))

    def look(self, images: Images) -> Seen:
        maps = self.backbone.forward_features(images.pixels)
        coarsest = self.narrow(maps[-1])
        where = extent(images, [coarsest])
        positions, hidden = self.positions(where), hide(padding(where))
        memory = self.encoder_norm(self.encoder(coarsest.flatten(2).transpose(1, 2), positions, hidden))
        return Seen(maps, coarsest, memory, hidden, self.decode(memory, positions, hidden))

    def say(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Logits and boxes of all layers, as `predict` gives them."""
        return self.classify(seen.states).float(), self.locate(seen.states).float().sigmoid()

    def decode(self, memory: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        """(B, S, C) -> (L, B, Q, C): what the queries hold after each layer, normalized."""
        queries = self.queries.weight
        x, states = memory.new_zeros(len(memory), *queries.shape), []
        placed = memory + positions
        for layer in self.decoder:
            x = layer(x, queries, placed, memory, hidden)
            states.append(x)
        return self.decoder_norm(torch.stack(states))

    # -- masks ------------------------------------------------------------------------------------

    def sight(self, seen: Seen) -> Sight:
        assert self.masks is not None
        return self.masks.look(seen.states[-1], seen.memory, seen.hidden, seen.coarsest, seen.maps)

    @torch.compiler.disable  # as many masks as there are objects: another shape in each step
    def losses_with_masks(
        self, seen: Seen, logits: Tensor, boxes: Tensor, images: Images, targets: list[Target]
    ) -> dict[str, Tensor]:
        assert self.masks is not None
        layers = slice(-1, None) if self.frozen_boxes else slice(None)
        objects = set_targets(targets, images.sizes)
        matches = match(self.loss.kind, logits[layers], boxes[layers], objects, **self.loss.costs)
        losses = {} if self.frozen_boxes else self.loss(logits, boxes, targets, images.sizes, matches=matches)
        query, matched = zip(*matches[-1], strict=True)
        image = torch.cat([torch.full_like(own, i) for i, own in enumerate(query)])
        empty = not len(image)  # one mask of nothing, so that every parameter has its part in every step
        which = [logits.new_zeros(1, dtype=torch.long)] * 2 if empty else [image, torch.cat(query)]
        drawn = self.masks.draw(self.sight(seen), *which)
        count = boxes_per_process(sum(len(one.labels) for one in objects), logits.device)  # every process asks, always
        if empty:
            return losses | dict.fromkeys(self.mask_weights, drawn.sum() * 0)
        wanted = padded_masks(targets, matched, images.pixels.shape[-2:])
        found = mask_losses(drawn, wanted, count)
        return losses | {name: weight * found[name] for name, weight in self.mask_weights.items()}

    def with_masks(self, found: list[Detections], queries: Tensor, seen: Seen, images: Images) -> list[Detections]:
        """Detections of (B, M) queries, best first, with what each of them sees of its image."""
        assert self.masks is not None
        sight, full = self.sight(seen), []
        for i, (one, query, size) in enumerate(zip(found, queries, images.sizes, strict=True)):
            parts = [
                self.masks.draw(sight, torch.full_like(few, i), few)
                for few in query[: len(one["boxes"])].split(AT_ONCE)
            ]
            full.append(segmented(one, torch.cat(parts), images.pixels.shape[-2:], size))
        return full


@detector("detr_panoptic", finds=("masks",), segments=True, like="detr", starts_from={"detr": "masks.*"}, tiny=TINY)
def detr_panoptic(backbone: Backbone, num_classes: int, **options: Any) -> Detector:
    """DETR with masks: of things and stuff, learnt on top of its boxes. Options are the same."""
    return DETR(backbone, num_classes, True, **options)
