"""DETR: set prediction with object queries and a transformer.

Carion, Massa, Synnaeve, Usunier, Kirillov, Zagoruyko, "End-to-End Object Detection with Transformers", 2020.

    image -> backbone -> coarsest map -> encoder -> memory
                                         queries -> decoder with attention to memory -> class or background, box
    detr_panoptic                                   and a mask head over the backbone's maps -> mask

No anchors and no NMS: training matches one query to each object, so that predictions are unique.
`detr_panoptic` is trained in two stages, as in the paper: `detr` on the boxes of things and stuff, then, from these
weights and with `frozen_boxes`, only the masks.

Shape letters: B images, Q queries, S cells of the map, C channels, K classes, L decoder layers.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

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
from shared.recipes.values import Count, Dropout, Layers, Probability, Weight, Width

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
    """Intermediate results of a batch."""

    maps: list[Tensor]  # the backbone's
    coarsest: Tensor  # (B, C, rows, columns) the coarsest of them, projected
    memory: Tensor  # (B, S, C)
    hidden: Tensor | None  # attention bias that masks padding
    states: Tensor  # (L, B, Q, C) query states after each layer


TRAINED = {
    "by": "its authors' code",
    "opt": "adamw",
    "lr": 1e-4,
    "lr_batch": 16,
    "backbone_lr": 1e-5,
    "wd": 1e-4,
    "clip_grad_norm": 0.1,
    "lr_scheduler": "step",
    "lr_step_size": 200,
    "epochs": 300,
    "aug_type": "detr",
}


@detector("detr", tiny=TINY, resize_rule="detr", trained=TRAINED)
class DETR(Detector):
    """
    Args:
        backbone: any; its coarsest map is used.
        num_classes: K, without background.
        masks: also predict masks.
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
        eos_coef: weight of background in the classification loss.
        class_cost: matching cost weight of the class probability.
        l1_cost: matching cost weight of the L1 distance of boxes.
        giou_cost: matching cost weight of the generalized IoU.
        class_weight: weight of the classification loss.
        l1_weight: weight of the L1 loss of boxes.
        giou_weight: weight of the generalized IoU loss.
        mask_weight: detr_panoptic only: weight of the focal loss of masks.
        dice_weight: detr_panoptic only: weight of the Dice loss.
        frozen_boxes: detr_panoptic only: train only the mask head.
        min_score: detections with a lower score are dropped.
        max_detections: per image; by default the number of queries.
    """

    graphs = ("look", "say")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        masks: bool = False,
        *,
        width: Width = 256,
        heads: Count = 8,
        encoder_layers: Layers = 6,
        decoder_layers: Layers = 6,
        feedforward: Width = 2048,
        dropout: Dropout = 0.1,
        pre_norm: bool = False,
        position_embedding: Literal["sine", "learned"] = "sine",
        num_queries: Count = 100,
        no_aux_loss: bool = False,
        eos_coef: Probability = 0.1,
        class_cost: Weight = 1.0,
        l1_cost: Weight = 5.0,
        giou_cost: Weight = 2.0,
        class_weight: Weight = 1.0,
        l1_weight: Weight = 5.0,
        giou_weight: Weight = 2.0,
        mask_weight: Weight = 1.0,
        dice_weight: Weight = 1.0,
        frozen_boxes: bool = False,
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
        self.decoder = nn.ModuleList(DecoderLayer(*options, pre_norm=pre_norm) for _ in range(decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, num_classes + 1)  # the last class is background
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
            raise UsageError(
                "detr has no masks, so it has no mask weights and no frozen boxes; use --network detr_panoptic"
            )

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Cross-entropy of classes, L1 and GIoU losses of boxes, for every decoder layer.

        With masks, also their focal and Dice losses, for the last layer; with frozen boxes, only these.
        """
        seen = self.look(images)
        logits, boxes = (said[self.judged] for said in self.say(seen))
        if self.masks is None:
            return self.loss(logits, boxes, targets, images.sizes)
        return self.losses_with_masks(seen, logits, boxes, images, targets)  # type: ignore[call-arg]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        """The most likely class of each query, with any score."""
        seen = self.look(images)
        logits, boxes = self.say(seen)
        best = best_queries(logits[-1].softmax(-1)[..., :-1], self.max_detections)
        found = detections(best, boxes[-1], images.sizes, self.min_score)
        return found if self.masks is None else self.with_masks(found, best[2], seen, images)

    def class_head(self) -> list[nn.Module]:
        return [self.classify]

    def predict(self, images: Images) -> tuple[Tensor, Tensor]:
        """-> logits (L, B, Q, K + 1), boxes (L, B, Q, 4) as cx cy w h relative to the unpadded images"""
        return self.say(self.look(images))

    def look(self, images: Images) -> Seen:
        maps = self.backbone.forward_features(images.pixels)
        coarsest = self.narrow(maps[-1])
        where = extent(images, [coarsest])
        positions, hidden = self.positions(where), hide(padding(where))
        memory = self.encoder_norm(self.encoder(coarsest.flatten(2).transpose(1, 2), positions, hidden))
        return Seen(maps, coarsest, memory, hidden, self.decode(memory, positions, hidden))

    def say(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Logits and boxes of all layers, as from `predict`."""
        return self.classify(seen.states).float(), self.locate(seen.states).float().sigmoid()

    def decode(self, memory: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        """Memory (B, S, C) -> normalized query states (L, B, Q, C) after each layer."""
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

    @torch.compiler.disable  # the number of masks, and so the shape, differs in each step
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
        empty = not len(image)  # one empty mask, so that every parameter gets a gradient in every step
        which = [logits.new_zeros(1, dtype=torch.long)] * 2 if empty else [image, torch.cat(query)]
        drawn = self.masks.draw(self.sight(seen), *which)
        # a collective call, so every process must make it
        count = boxes_per_process(sum(len(one.labels) for one in objects), logits.device)
        if empty:
            return losses | dict.fromkeys(self.mask_weights, drawn.sum() * 0)
        wanted = padded_masks(targets, matched, images.pixels.shape[-2:])
        found = mask_losses(drawn, wanted, count)
        return losses | {name: weight * found[name] for name, weight in self.mask_weights.items()}

    def with_masks(self, found: list[Detections], queries: Tensor, seen: Seen, images: Images) -> list[Detections]:
        """Detections of queries (B, M), best first, with their masks."""
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
    """DETR with a panoptic mask head, trained after its boxes. The options are the same."""
    return DETR(backbone, num_classes, True, **options)
