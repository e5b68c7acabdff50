"""Two stages on a pyramid: what Faster R-CNN shares with those that grew from it.

    maps -> RPN -> proposals -> RoIAlign -> a head that looks at each -> class, box

The stages are torchvision's, set as its own Faster R-CNN is; it keeps class 0 for background, which stays in here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from backbones.base import MapInfo
from detection.parts.roi_align import PyramidRoIAlign
from detection.types import Detections, Images, Target

SEEN = 7  # side of what RoIAlign cuts out for each box


def build_rpn(maps: Sequence[MapInfo], *, convs: int = 1) -> RegionProposalNetwork:
    """Proposals from every level: squares eight strides wide, and two more shapes.

    Args:
        convs: 3x3 convolutions before the scores.
    """
    sizes = tuple((info.stride * 8,) for info in maps)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    many, fewer = {"training": 2000, "testing": 1000}, {"training": 2000, "testing": 1000}
    return RegionProposalNetwork(anchors, RPNHead(maps[0].channels, 3, convs), 0.7, 0.3, 256, 0.5, many, fewer, 0.7)


def build_roi_heads(
    maps: Sequence[MapInfo],
    head: nn.Module,
    hidden: int,
    num_classes: int,
    *,
    min_score: float,
    nms_iou: float,
    max_detections: int,
) -> RoIHeads:
    """The second stage. Boxes are cut from all levels but the pooled one.

    Args:
        head: (boxes, width, 7, 7) -> (boxes, hidden).
        num_classes: without background.
    """
    return RoIHeads(
        PyramidRoIAlign(maps[:-1], SEEN),
        head,
        FastRCNNPredictor(hidden, num_classes + 1),
        *(0.5, 0.5, 512, 0.25, None),
        *(min_score, nms_iou, max_detections),
    )


def two_stages(
    rpn: RegionProposalNetwork, roi_heads: RoIHeads, maps: list[Tensor], images: Images, targets: list[Target] | None
) -> tuple[list[Detections], dict[str, Tensor]]:
    """What is found, and in training mode, which wants targets, the losses of both stages."""
    known = [{**target, "labels": target["labels"] + 1} for target in targets] if targets is not None else None
    features = OrderedDict((str(level), x) for level, x in enumerate(maps))
    proposals, first = rpn(ImageList(images.pixels, images.sizes), features, known)
    found, second = roi_heads(features, proposals, images.sizes, known)
    detections = [Detections(boxes=d["boxes"], labels=d["labels"] - 1, scores=d["scores"]) for d in found]
    return detections, {**first, **second}
