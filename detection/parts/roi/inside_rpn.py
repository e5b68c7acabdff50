"""torchvision's RPN with three other rules: those of UniDetector's, and of the R-CNNs of its time.

    border   anchors that leave the unpadded image take no part in training
    floor    an object's best anchors are positive if their IoU is at least 0.3, however low the best of others is
    L1       loss of the offsets, where torchvision's is smooth

Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015.

Shape letters: P anchors of an image, N its objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from backbones.base import MapInfo
from detection.parts.dense.assign import by_overlap
from detection.parts.dense.focal import NOTHING
from detection.parts.dense.sides import inside
from detection.parts.fixed import no_fixed_form, shapes_are_fixed
from detection.parts.roi.rcnn import RATIOS, SIZES

POSITIVE, NEGATIVE = 0.7, 0.3  # IoU with an object
SAMPLED, SHARE = 256, 0.5  # anchors of an image, and the positive among them
APART = -1.0  # label of anchors that take no part


class InsideRPN(RegionProposalNetwork):
    """
    Args:
        maps: the levels. On a single one anchors have all five sizes, 32 to 512 pixels, on a pyramid one each.
        candidates, proposals: of a level before NMS, and of an image after it, as (training, inference).
        nms_iou: IoU threshold of NMS.
    """

    def __init__(
        self,
        maps: Sequence[MapInfo],
        *,
        candidates: tuple[int, int] = (12000, 6000),
        proposals: tuple[int, int] = (2000, 1000),
        nms_iou: float = 0.7,
    ) -> None:
        sizes = (SIZES,) if len(maps) == 1 else tuple((info.stride * 8,) for info in maps)
        head = RPNHead(maps[0].channels, len(sizes[0]) * len(RATIOS))
        for layer in head.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        before, after = ({"training": many, "testing": some} for many, some in (candidates, proposals))
        anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
        super().__init__(anchors, head, POSITIVE, NEGATIVE, SAMPLED, SHARE, before, after, nms_iou)
        self.sizes: list[tuple[int, int]] = []

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """-> proposals (R, 4) of each image, best first; losses, if there are targets."""
        if shapes_are_fixed():
            no_fixed_form("proposes and names regions in numbers that depend on the image")
        self.sizes = images.image_sizes  # for the border
        return super().forward(images, features, targets)

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """-> (P,) labels of each image: 1 object, 0 background, -1 no part; (P, 4) the objects they belong to."""
        labels, objects = [], []
        for of_image, target, size in zip(anchors, targets, self.sizes, strict=True):
            label, which = assigned(of_image, target["boxes"], size)
            boxes = target["boxes"] if len(target["boxes"]) else target["boxes"].new_zeros(1, 4)
            labels.append(label)
            objects.append(boxes[which])
        return labels, objects

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """-> binary cross-entropy, L1 of the offsets of positive anchors; both divided by the number sampled."""
        positive, negative = (torch.cat(masks).nonzero()[:, 0] for masks in self.fg_bg_sampler(labels))
        sampled = torch.cat((positive, negative))
        count = max(1, len(sampled))
        true, scores = torch.cat(labels)[sampled], objectness.flatten()[sampled].float()
        wrong = F.binary_cross_entropy_with_logits(scores, true, reduction="sum") / count
        moved, wanted = pred_bbox_deltas[positive].float(), torch.cat(regression_targets)[positive]
        return wrong, F.l1_loss(moved, wanted, reduction="sum") / count


def assigned(anchors: Tensor, objects: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(P, 4), (N, 4), (height, width) -> (P,) labels, and (P,) the object of each; 0 where there is none."""
    place = inside(anchors, size).nonzero()[:, 0]
    owner = by_overlap(objects, anchors[place], high=POSITIVE, low=NEGATIVE, floor=NEGATIVE)
    labels = anchors.new_full((len(anchors),), APART)
    labels[place] = torch.where(owner >= 0, 1.0, torch.where(owner == NOTHING, 0.0, APART))
    which = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    which[place] = owner.clamp(min=0)
    return labels, which
