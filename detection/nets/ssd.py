"""SSD and SSDLite: default boxes of several sizes and aspect ratios on maps of several resolutions.

Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg, "SSD: Single Shot MultiBox Detector", 2016.
Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, for SSDLite.

    image -> backbone -> its last two maps -> four more, each half the size -> per map: scores, offsets of 4 or 6 boxes

    ssd           plain convolutions; scales .07 to 1.05
    ssd ssd300    the first paper's levels on VGG16, from images of 300x300: 8732 boxes at steps of 8 to 300 pixels
    ssdlite       depthwise ones with ReLU6; scales .2 to .95

The heads are torchvision's, and losses and detections are equal to its own. Default boxes are placed by the shapes
of the maps, so they cover the image for any strides of the backbone; ssd300's are placed as in the paper.
Shape letters: B images, P default boxes over all levels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSDHead
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops.misc import Conv2dNormActivation

from backbones.base import Backbone
from detection.nets import Detector, detector
from detection.parts.dense.anchors import DefaultBoxes, as_offsets, from_offsets
from detection.parts.dense.assign import with_best_of_each
from detection.parts.dense.objects import Objects, padded
from detection.parts.dense.post import best_boxes
from detection.parts.known import hidden, unknown_of
from detection.types import Detections, Images, Target
from shared.errors import UsageError
from shared.recipes.values import Count, CountOrNone, Probability, Scale

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # scaling of center and size offsets
SSD300 = 300  # image size in pixels
SSD300_STEPS = (8, 16, 32, 64, 100, 300)  # pixels between cells; not exactly the ratio of sizes
SSD300_STRIDES = [8, 16]  # of the maps of the finest levels
FC7 = 1024  # channels of VGG's linear layers as convolutions


class Predictions(NamedTuple):
    scores: Tensor  # (B, P, 1 + K) logits, background first
    offsets: Tensor  # (B, P, 4)
    boxes: Tensor  # (P, 4) default boxes


class SSD(Detector):
    """
    Args:
        backbone: its maps are the finest levels.
        extras: one module per further level, applied to the previous level.
        head: levels -> logits of background and classes, and offsets.
        default_boxes: as many per cell and level as the head predicts.
        per_class: candidates of each class before NMS.
        negatives: hard negatives per positive default box.
        empty_negatives: negatives of an image without boxes.
        first: one module per used map of the backbone, applied to get a level; None to use the maps as they are.
        only: the only image size (height, width); None for any.
    """

    graphs = ("losses",)

    def __init__(
        self,
        backbone: Backbone,
        extras: nn.ModuleList,
        head: SSDHead | SSDLiteHead,
        default_boxes: DefaultBoxes,
        *,
        per_class: int,
        negatives: int,
        empty_negatives: int,
        min_score: float,
        nms_iou: float,
        max_detections: int,
        first: nn.ModuleList | None = None,
        only: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.extras, self.head, self.default_boxes = backbone, extras, head, default_boxes
        self.first, self.only = first or nn.ModuleList(nn.Identity() for _ in last_maps(backbone)), only
        self.used_maps = last_maps(backbone)
        self.negatives, self.empty_negatives, self.per_class = negatives, empty_negatives, per_class
        self.min_score, self.nms_iou, self.max_detections = min_score, nms_iou, max_detections

    def forward(self, images: Images, targets: list[Target]) -> dict[str, Tensor]:
        return self.losses(self.unpadded(images), padded(targets), unknown_of(targets))

    def losses(self, pixels: Tensor, objects: Objects, unknown: Tensor | None) -> dict[str, Tensor]:
        """Cross-entropy of positive boxes and of hard negatives, smooth L1 loss of the positives' offsets.

        Both are summed over the batch and divided by the number of positives.
        """
        found = self.predict(pixels)
        labels, boxes = objects.of(with_best_of_each(objects, found.boxes, high=0.5))
        held = labels >= 0
        count = held.sum().clamp(min=1)
        labels = labels + 1  # 0 is background
        scores = hidden(found.scores, ~held, unknown, background="first")
        surprise = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        missed = (surprise * held).sum() + self.hardest(surprise, held).sum()
        # default boxes without an object get themselves, at no loss
        offsets = found.offsets.where(held[..., None], 0.0)
        goals = as_offsets(boxes.where(held[..., None], found.boxes), found.boxes, WEIGHTS)
        return {
            "classification": missed / count,
            "boxes": F.smooth_l1_loss(offsets, goals, reduction="sum") / count,
        }

    def hardest(self, surprise: Tensor, held: Tensor) -> Tensor:
        """Losses (B, P), positives (B, P) -> (B, P): hard negative mining; 0 for all but the largest negatives."""
        wanted = torch.where(held.any(1), self.negatives * held.sum(1), self.empty_negatives)
        ordered = surprise.masked_fill(held, 0.0).sort(1, descending=True).values
        return ordered * (torch.arange(held.shape[1], device=held.device) < wanted[:, None])

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detections]:
        found = self.predict(self.unpadded(images))
        boxes = from_offsets(found.offsets, found.boxes, WEIGHTS)
        return [
            best_boxes(
                [s],
                [b],
                size,
                min_score=self.min_score,
                nms_iou=self.nms_iou,
                per_class=self.per_class,
                most=self.max_detections,
            )
            for s, b, size in zip(found.scores.softmax(-1)[..., 1:], boxes, images.sizes, strict=True)
        ]

    def class_head(self) -> list[nn.Module]:
        return [self.head.classification_head]

    def predict(self, pixels: Tensor) -> Predictions:
        levels = self.levels(pixels)
        out = self.head(levels)
        boxes = self.default_boxes([level.shape[-2:] for level in levels], pixels.shape[-2:])
        return Predictions(out["cls_logits"].float(), out["bbox_regression"].float(), torch.cat(boxes))

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> all levels, finest first."""
        maps = self.backbone.forward_features(pixels)
        levels = [make(maps[i]) for make, i in zip(self.first, self.used_maps, strict=True)]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        return levels

    def unpadded(self, images: Images) -> Tensor:
        """The pixels of a batch; without padding for default boxes at fixed steps, which are for one image size.

        Raises:
            UsageError: an image has another size.
        """
        if self.only is None:
            return images.pixels
        for height, width in images.sizes:
            if (height, width) != (self.only, self.only):
                raise UsageError(
                    f"ssd300 accepts only images of {self.only}x{self.only}, not {height}x{width}; "
                    f"give --size {self.only} without --max-size, or remove --ssd300"
                )
        return images.pixels[..., : self.only, : self.only]


TRAINED = {
    "by": "torchvision's reference",
    "opt": "sgd",
    "lr": 0.002,
    "lr_batch": 32,
    "wd": 5e-4,
    "lr_scheduler": "multistep",
    "lr_steps": (80, 110),
    "epochs": 120,
    "warmup_steps": 1000,
    "warmup_epochs": 1,
    "warmup_start": 0.001,
    "aug_type": "ssd",
}
TRAINED_LITE = {
    "by": "torchvision's reference",
    "opt": "sgd",
    "lr": 0.15,
    "lr_batch": 192,
    "wd": 4e-5,
    "lr_scheduler": "cosine",
    "lr_cosine_min": 0,
    "epochs": 660,
    "warmup_steps": 1000,
    "warmup_epochs": 1,
    "warmup_start": 0.001,
    "aug_type": "ssdlite",
}


@detector("ssd", size=(512, 512), tiny={"extra_width": 0.125, "ssd300": False}, trained=TRAINED)
def ssd(
    backbone: Backbone,
    num_classes: int,
    *,
    ssd300: bool = False,
    extra_width: Scale = 1.0,
    finest_scale: Scale = 0.07,
    min_scale: Scale = 0.15,
    max_scale: Scale = 1.05,
    negatives: CountOrNone = 3,
    empty_negatives: CountOrNone = 3,
    min_score: Probability = 0.01,
    nms_iou: Probability = 0.45,
    max_detections: Count = 200,
) -> SSD:
    """SSD on the last two maps of any backbone, or the single map of a plain ViT.

    Args:
        num_classes: K, without background.
        ssd300: the first paper's levels, on a backbone whose last two maps have strides 8 and 16, as those of tv_vgg16:
            the first map L2-normalized, two convolutions after the second, no batch norm; only images of 300x300.
        extra_width: multiplier of the 512, 256, 256, 256 channels of the extra levels.
        finest_scale: size of the finest level's square boxes relative to the image.
        min_scale: the same for the second level.
        max_scale: the same for one above the coarsest level; those between are evenly spaced.
        negatives: hard negatives per positive default box.
        empty_negatives: negatives of an image without boxes; 0 in the paper.
        min_score: detections with this score or less are dropped.
        nms_iou: IoU threshold of NMS, per class.
        max_detections: per image.
    """
    channels = [backbone.maps[i].channels for i in last_maps(backbone)]
    above = [max(16, round(extra_width * out)) for out in (512, 256, 256, 256)]
    first = ssd300_levels(backbone) if ssd300 else None
    channels[-1] = FC7 if ssd300 else channels[-1]
    steps = list(zip([channels[-1], *above], above, strict=False))
    if ssd300:
        extras = nn.ModuleList(plain_level(i, o, halves=number < 2) for number, (i, o) in enumerate(steps))
    else:
        extras = nn.ModuleList(extra_level(i, o) for i, o in steps)
    for conv in convolutions(nn.ModuleList([extras, first or nn.Identity()])):
        nn.init.xavier_uniform_(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    widths = channels + above
    scales = [finest_scale, *evenly(min_scale, max_scale, len(widths))]
    boxes = DefaultBoxes(scales, [[2], *[[2, 3]] * (len(widths) - 3), [2], [2]], SSD300_STEPS if ssd300 else None)
    return SSD(
        backbone,
        extras,
        SSDHead(widths, boxes.per_place, num_classes + 1),
        boxes,
        per_class=400,
        negatives=negatives,
        empty_negatives=empty_negatives,
        min_score=min_score,
        nms_iou=nms_iou,
        max_detections=max_detections,
        first=first,
        only=SSD300 if ssd300 else None,
    )


@detector("ssdlite", size=(512, 512), tiny={"extra_width": 0.125}, trained=TRAINED_LITE)
def ssdlite(
    backbone: Backbone,
    num_classes: int,
    *,
    extra_width: Scale = 1.0,
    min_scale: Scale = 0.2,
    max_scale: Scale = 0.95,
    negatives: CountOrNone = 3,
    empty_negatives: CountOrNone = 3,
    min_score: Probability = 0.001,
    nms_iou: Probability = 0.55,
    max_detections: Count = 300,
) -> SSD:
    """SSDLite on the last two maps of any backbone, or the single map of a plain ViT.

    Args:
        num_classes: K, without background.
        extra_width: multiplier of the 512, 256, 256, 128 channels of the extra levels.
        min_scale: size of the finest level's square boxes relative to the image.
        max_scale: the same for the coarsest level; those between are evenly spaced.
        negatives: hard negatives per positive default box.
        empty_negatives: negatives of an image without boxes; 0 in the paper.
        min_score: detections with this score or less are dropped.
        nms_iou: IoU threshold of NMS, per class.
        max_detections: per image.
    """
    channels = [backbone.maps[i].channels for i in last_maps(backbone)]
    above = [max(16, round(extra_width * out)) for out in (512, 256, 256, 128)]
    norm = partial(PatientNorm, eps=0.001, momentum=0.03)
    extras = nn.ModuleList(light_extra_level(i, o, norm) for i, o in zip([channels[-1], *above], above, strict=False))
    for conv in convolutions(extras):
        nn.init.normal_(conv.weight, std=0.03)
    widths = channels + above
    boxes = DefaultBoxes([*evenly(min_scale, max_scale, len(widths)), 1.0], [[2, 3]] * len(widths))
    return SSD(
        backbone,
        extras,
        SSDLiteHead(widths, boxes.per_place, num_classes + 1, norm),
        boxes,
        per_class=300,
        negatives=negatives,
        empty_negatives=empty_negatives,
        min_score=min_score,
        nms_iou=nms_iou,
        max_detections=max_detections,
    )


def last_maps(backbone: Backbone) -> list[int]:
    """Indices of the two coarsest maps of a backbone, or of its only one."""
    return list(range(len(backbone.maps)))[-2:]


def evenly(low: float, high: float, count: int) -> list[float]:
    return [low + (high - low) * i / (count - 1) for i in range(count)]


def extra_level(into: int, out: int) -> nn.Sequential:
    """(B, into, H, W) -> (B, out, H/2, W/2), rounded up"""
    return nn.Sequential(
        Conv2dNormActivation(into, out // 2, 1, norm_layer=PatientNorm),
        Conv2dNormActivation(out // 2, out, 3, stride=2, norm_layer=PatientNorm),
    )


def plain_level(into: int, out: int, *, halves: bool) -> nn.Sequential:
    """(B, into, H, W) -> (B, out, H/2, W/2), rounded up, or (B, out, H - 2, W - 2)"""
    narrow = nn.Conv2d(into, out // 2, 1)
    wide = nn.Conv2d(out // 2, out, 3, stride=2, padding=1) if halves else nn.Conv2d(out // 2, out, 3)
    return nn.Sequential(narrow, nn.ReLU(inplace=True), wide, nn.ReLU(inplace=True))


def ssd300_levels(backbone: Backbone) -> nn.ModuleList:
    """The paper's layers on conv4_3 and conv5_3: L2 normalization, and VGG's first two linear layers as
    convolutions.
    """
    maps = backbone.maps[-2:]
    if [info.stride for info in maps] != SSD300_STRIDES:
        raise UsageError(
            f"ssd300 needs the last two maps at strides 8 and 16; this backbone has "
            f"{[info.stride for info in backbone.maps]}, use tv_vgg16, or remove --ssd300"
        )
    dense = nn.Sequential(
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.Conv2d(maps[1].channels, FC7, 3, padding=6, dilation=6),
        nn.ReLU(inplace=True),
        nn.Conv2d(FC7, FC7, 1),
        nn.ReLU(inplace=True),
    )
    return nn.ModuleList([UnitVectors(maps[0].channels), dense])


class UnitVectors(nn.Module):
    """L2 normalization over channels with a learned scale: (B, C, H, W) -> (B, C, H, W).

    Liu, Rabinovich, Berg, "ParseNet: Looking Wider to See Better", 2015.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), 20.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale[:, None, None] * F.normalize(x)


def light_extra_level(into: int, out: int, norm: Callable[..., nn.Module]) -> nn.Sequential:
    """(B, into, H, W) -> (B, out, H/2, W/2), rounded up"""
    layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    half = out // 2
    return nn.Sequential(layer(into, half, 1), layer(half, half, 3, stride=2, groups=half), layer(half, out, 1))


def convolutions(module: nn.Module) -> Iterator[nn.Conv2d]:
    return (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))


class PatientNorm(nn.BatchNorm2d):
    """Batch norm that uses its running statistics for a single value per channel, which has no variance.

    This happens on the coarsest level for a batch of one image.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)
