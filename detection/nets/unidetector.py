"""UniDetector: Faster R-CNN whose classes are names, so that it finds names it was not trained on.

Wang et al., "Detecting Everything in the Open World: Towards Universal Object Detection", CVPR 2023.

    image -> CLIP's trunk -> RPN -> boxes -> RoIAlign, CLIP's fourth stage, attention pool -> f
    100 cos(f, vector of a name) -> probability of the name           one box for each region, whatever it is called

Several data sets are trained together without joining their classes: an image is compared with the names of its own
set. On any other backbone than CLIP's the regions are those of Faster R-CNN on a pyramid.

    unidetector_regions    the second stage of two: the same without an RPN, on the stored proposals of another network
                           score of a name: probability^beta * (proposal's own score)^(1 - beta)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from backbones.base import Backbone
from backbones.clip_resnet import ClipResNet50
from detection.nets import Detector, detector
from detection.parts.dense.necks import build_pyramid
from detection.parts.roi.inside_rpn import InsideRPN
from detection.parts.roi.named import Vocabularies, partitioned_loss
from detection.parts.roi.rcnn import by_name, proposed
from detection.parts.roi.regions import (
    AttentionRegion,
    AverageRegion,
    LayersRegion,
    RegionHead,
    box_loss,
    labels_of,
    moved_boxes,
)
from detection.parts.roi.sampling import sampled
from detection.parts.roi.soft_nms import soft_nms
from detection.types import Detections, Images, Target
from shared.errors import UsageError
from shared.recipes.values import Count, CountOrNone, Counts, Probability, Scale, Share, Width

TINY = {"region": "layers", "width": 32, "hidden": 64, "vocabulary_width": 32, "regions": 32}
TRAINED = {
    "by": "UniDetector's paper",
    "opt": "sgd",
    "lr": 0.02,
    "backbone_lr": 0.002,
    "lr_batch": 16,
    "freeze_backbone_stages": 1,
    "wd": 1e-4,
    "clip_grad_norm": 35,
    "lr_scheduler": "multistep",
    "lr_steps": (8, 11),
    "epochs": 12,
    "warmup_steps": 500,
    "warmup_epochs": 1,
    "warmup_start": 0.001,
    "aug_type": "hflip",
}

SECOND_STAGE = {name: value for name, value in TRAINED.items() if name != "backbone_lr"} | {"lr": 0.002}


@detector("unidetector", several=True, tiny=TINY, trained=TRAINED)
class UniDetector(Detector):
    """UniDetector, end to end.

    Where the images bring stored proposals, those are used instead of the RPN's.

    vocabularies: the vectors of the names of each data set; detections are called by those of the current one.

    beta: exponent of a name's probability in the score of a stored proposal; the rest is the proposal's own score.
    best_proposals: how many stored proposals of an image are looked at, by their own score; None for all.
    calibration: factors (C,) of the current names' probabilities; None for none.

    Args:
        backbone: CLIP's ResNet-50, or any with maps of strides 4 to 32, or a plain ViT.
        num_classes: names of the first data set.
        own_proposals: whether it has an RPN.
        region: attention for the rest of CLIP's ResNet-50, layers for two linear layers on a pyramid, average for one
            linear layer on the mean of the backbone's own last maps, auto for attention or layers as the backbone is.
        set_sizes: names of each data set, if there are several.
        vocabulary_width: width of the names' vectors.
        names_per_image: names that take part in the loss of an image, its own and random ones; 0 for all.
        federated: known for only those that are annotated as present or absent, where the data set says so (LVIS).
        regions: sampled regions of an image, in training.
        region_lr: learning rate of all that follows RoIAlign, as a share of the detector's.
        width: channels of the pyramid.
        hidden: width of the two linear layers, for layers.
        min_score: a region's probability of a name up to this is dropped.
        soft_floor: scores below this are dropped by soft NMS.
        soft_sigma: a box of IoU u with a better one keeps exp(-u^2 / sigma) of its score.
        max_detections: per image.
        rpn_proposals: proposals per image after NMS, at inference; twice as many in training.
        rpn_nms_iou: IoU threshold of the RPN's NMS.
    """

    graphs = ("maps",)

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        own_proposals: bool = True,
        *,
        region: Literal["auto", "attention", "layers", "average"] = "auto",
        set_sizes: Counts = (),
        vocabulary_width: Width = 1024,
        names_per_image: CountOrNone = 50,
        federated: Literal["sampled", "known"] = "sampled",
        regions: Count = 512,
        region_lr: Share = 0.1,
        width: Width = 256,
        hidden: Width = 1024,
        min_score: Probability = 0.0001,
        soft_floor: Probability = 0.001,
        soft_sigma: Scale = 0.5,
        max_detections: Count = 100,
        rpn_proposals: Count = 1000,
        rpn_nms_iou: Probability = 0.7,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        if region == "auto":
            region = "attention" if isinstance(backbone, ClipResNet50) else "layers"
        self.neck, last = None, len(backbone.maps) - 1
        maps, candidates, used = backbone.maps[-1:], (12000, 6000), {last}
        if region == "layers" or (region == "average" and own_proposals):
            self.neck = build_pyramid(backbone, width, finest=4, coarser="pool")
            maps, candidates, used = self.neck.maps, (2000, 1000), set(self.neck.used)
        self.averaged = range(max(0, last - 1), last + 1) if region == "average" else None
        if self.averaged is not None:
            cuts = AverageRegion([backbone.maps[i] for i in self.averaged], vocabulary_width)
            used.update(self.averaged)
        elif region == "layers":
            cuts = LayersRegion(maps, hidden, vocabulary_width)
        else:
            cuts = attention_on(backbone, vocabulary_width)
        self.used_maps = sorted(used)
        proposals = (2 * rpn_proposals, rpn_proposals)
        self.rpn = None
        if own_proposals:
            self.rpn = InsideRPN(maps, candidates=candidates, proposals=proposals, nms_iou=rpn_nms_iou)
        self.head = RegionHead(cuts, vocabulary_width)
        self.head.lr_scale = region_lr  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        self.vocabularies = Vocabularies(set_sizes or (num_classes,), vocabulary_width)
        self.regions, self.names, self.only_known = regions, names_per_image, federated == "known"
        self.beta, self.best_proposals, self.calibration = 1.0, None, None
        self.kept = {"most": max_detections, "min_score": min_score, "soft_floor": soft_floor, "sigma": soft_sigma}

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        """Losses of the RPN, if there is one, of names and of boxes."""
        proposing, maps = self.maps(images)
        losses: dict[str, Tensor] = {}
        if self.rpn is not None:
            proposals, losses = self.rpn(ImageList(images.pixels, images.sizes), by_name(proposing), targets)
        if self.rpn is None or images.proposals is not None:
            proposals = [stored[:, :4] for stored in stored_proposals(images)]
        return losses | self.region_losses(maps, images, proposals, targets)

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        proposing, maps = self.maps(images)
        if self.rpn is not None and images.proposals is None:
            found, _ = self.rpn(ImageList(images.pixels, images.sizes), by_name(proposing))
            proposals = [torch.cat((boxes, boxes.new_ones(len(boxes), 1)), 1) for boxes in found]
        else:
            proposals = [best_of(stored, self.best_proposals) for stored in stored_proposals(images)]
        boxes, probabilities = self.look_at(maps, images, [own[:, :4] for own in proposals])
        return [
            self.best(moved, self.scores(probability, own[:, 4]))
            for moved, probability, own in zip(boxes, probabilities, proposals, strict=True)
        ]

    @torch.no_grad()
    def propose(self, images: Images) -> list[Detections]:
        return super().propose(images) if self.rpn is None else proposed(self.rpn, self.maps(images)[0], images)

    def region_losses(
        self, maps: list[Tensor], images: Images, proposals: list[Tensor], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Losses of names and of boxes on regions sampled of the proposals (P, 4) of each image."""
        regions = [sampled(p, t["boxes"], count=self.regions) for p, t in zip(proposals, targets, strict=True)]
        vectors, offsets = self.head(maps, [one.boxes for one in regions], images.sizes)
        of_names = partitioned_loss(
            self.vocabularies,
            vectors,
            labels_of(regions, targets),
            targets,
            most=self.names,
            only_known=self.only_known,
        )
        return {"loss_classifier": of_names, "loss_box_reg": box_loss(offsets, regions, targets)}

    def look_at(
        self, maps: list[Tensor], images: Images, proposals: list[Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Proposals (P, 4) of each image -> their boxes (P, 4), and (P, C) probabilities of the current names."""
        vectors, offsets = self.head(maps, proposals, images.sizes)
        scores = self.vocabularies.logits(vectors).sigmoid().split([len(one) for one in proposals])
        return moved_boxes(proposals, offsets, images.sizes), scores

    def scores(self, probabilities: Tensor, own: Tensor) -> Tensor:
        """(P, C) probabilities of names, (P,) scores of the proposals -> (P, C) scores; above 1 when calibrated."""
        if self.calibration is not None:
            probabilities = probabilities * self.calibration
        return probabilities if self.beta == 1 else probabilities**self.beta * own[:, None] ** (1 - self.beta)

    def best(self, boxes: Tensor, scores: Tensor) -> Detections:
        """(P, 4) boxes and (P, C) scores of an image -> its detections."""
        which, labels, kept = soft_nms(boxes, scores, **self.kept)
        return {"boxes": boxes[which], "labels": labels, "scores": kept}

    def maps(self, images: Images) -> tuple[list[Tensor], list[Tensor]]:
        """Those that proposals come from, and those that regions are cut from."""
        of_backbone = self.backbone.forward_features(images.pixels)
        proposing = of_backbone[-1:] if self.neck is None else self.neck(of_backbone)
        return proposing, proposing if self.averaged is None else [of_backbone[i] for i in self.averaged]

    def class_head(self) -> list[nn.Module]:
        return [self.vocabularies]

    def continued(self) -> dict[str, nn.Module]:
        return self.head.region.continued()


@detector("unidetector_regions", like="unidetector", on_proposals=True, tiny=TINY, trained=SECOND_STAGE)
def unidetector_regions(backbone: Backbone, num_classes: int, **options: Any) -> UniDetector:
    """UniDetector's second stage, on stored proposals of `detect propose`.

    Args:
        options: of `unidetector`; those of the RPN have no effect.
    """
    return UniDetector(backbone, num_classes, False, **options)


def stored_proposals(images: Images) -> list[Tensor]:
    """(P, 5) of each image. Raises UsageError if there are none."""
    if images.proposals is None:
        raise UsageError("this network needs stored proposals; make them with `detect propose`, and give --proposals")
    return images.proposals


def best_of(stored: Tensor, most: int | None) -> Tensor:
    """(P, 5) -> the best `most` by their own score."""
    return stored if most is None else stored[stored[:, 4].topk(min(most, len(stored))).indices]


def attention_on(backbone: Backbone, width: int) -> AttentionRegion:
    """The region part of CLIP's ResNet-50. Raises UsageError for another backbone."""
    if not isinstance(backbone, ClipResNet50):
        raise UsageError(
            "--region attention continues CLIP's ResNet-50; give --backbone clip_resnet50, or --region layers for this "
            "backbone"
        )
    return AttentionRegion(backbone.maps[-1], width)
