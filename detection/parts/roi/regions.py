"""From boxes to one vector each: the region part of an open-vocabulary detector.

    attention   RoIAlign 14 x 14 of the stride-16 map -> CLIP's fourth stage -> CLIP's attention pool
    layers      RoIAlign 7 x 7 of the levels of a pyramid -> two linear layers -> a linear layer; on any backbone
    average     RoIAlign 7 x 7 of the backbone's own last maps -> their means -> a linear layer; on any backbone

Zhong et al., "RegionCLIP: Region-based Language-Image Pretraining", 2022: a box that covers the whole image has the
vector that CLIP gives the image. For that, RoIAlign looks at pixel centers, and takes as many samples as a box has
cells.

Shape letters: R boxes of all images, D width of their vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import roi_align

from backbones.base import MapInfo
from backbones.clip_resnet import JOINT, rest_of_clip
from backbones.freeze import hold_statistics
from detection.parts.dense.anchors import as_offsets, from_offsets
from detection.parts.dense.boxes import clip
from detection.parts.roi.rcnn import SEEN, by_name
from detection.parts.roi.roi_align import PyramidRoIAlign
from detection.parts.roi.sampling import BACKGROUND, Regions
from detection.types import Target

CUT = 14  # cells along a side of what RoIAlign gives; half as many after the stage
OFFSETS = (10.0, 10.0, 5.0, 5.0)  # weights of box offsets


class AttentionRegion(nn.Module):
    """CLIP's fourth stage and its pool on boxes of the stride-16 map.

    Batch norm keeps its statistics in training, as in the trunk.

    Args:
        info: stride of the map, whose channels are CLIP's.
        out: D; another width than CLIP's is reached by one more linear layer.
    """

    def __init__(self, info: MapInfo, out: int = JOINT) -> None:
        super().__init__()
        self.scale = 1 / info.stride
        rest = rest_of_clip()
        self.layer4, self.attnpool = rest["layer4"], rest["attnpool"]
        self.project = nn.Linear(JOINT, out) if out != JOINT else None

    def train(self, mode: bool = True) -> AttentionRegion:
        super().train(mode)
        hold_statistics(self)
        return self

    def forward(self, maps: Sequence[Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """One map (B, C, H, W), boxes (N, 4) of each image in pixels -> (R, D)"""
        (stride_16,) = maps
        of_map = [box.to(stride_16.dtype) for box in boxes]
        cut = roi_align(stride_16, of_map, CUT, self.scale, sampling_ratio=-1, aligned=True)
        vectors = self.attnpool(self.layer4(cut))
        return vectors if self.project is None else self.project(vectors)

    def continued(self) -> dict[str, nn.Module]:
        """The modules that CLIP's files fill, by the names of their tensors."""
        return {"layer4": self.layer4, "attnpool": self.attnpool}


class LayersRegion(nn.Module):
    """Two linear layers on boxes of a pyramid, and one to the width of the vectors.

    Args:
        maps: channels and strides of the levels; the last one has no boxes.
        hidden: width of the two layers.
        out: D.
    """

    def __init__(self, maps: Sequence[MapInfo], hidden: int = 1024, out: int = JOINT) -> None:
        super().__init__()
        self.cut = PyramidRoIAlign(maps[:-1], SEEN)
        self.head = TwoMLPHead(maps[0].channels * SEEN**2, hidden)
        self.project = nn.Linear(hidden, out)

    def forward(self, maps: Sequence[Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Levels (B, C, H_i, W_i), boxes (N, 4) of each image in pixels -> (R, D)"""
        return self.project(self.head(self.cut(by_name(list(maps)), boxes, sizes)))

    def continued(self) -> dict[str, nn.Module]:
        return {}


class AverageRegion(nn.Module):
    """The means over boxes of maps of the backbone itself, and one linear layer.

    Nothing but that layer starts from random weights: with a frozen backbone and few images, what the backbone was
    pretrained to tell apart, which is more than the trained names, reaches the vectors undisturbed.

    Args:
        maps: channels and strides of the maps.
        out: D.
    """

    def __init__(self, maps: Sequence[MapInfo], out: int = JOINT) -> None:
        super().__init__()
        self.scales = [1 / info.stride for info in maps]
        self.project = nn.Linear(sum(info.channels for info in maps), out)

    def forward(self, maps: Sequence[Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Maps (B, C_i, H_i, W_i), boxes (N, 4) of each image in pixels -> (R, D)"""
        means = [
            roi_align(m, [box.to(m.dtype) for box in boxes], SEEN, scale, sampling_ratio=2, aligned=True).mean((2, 3))
            for m, scale in zip(maps, self.scales, strict=True)
        ]
        return self.project(torch.cat(means, 1))

    def continued(self) -> dict[str, nn.Module]:
        return {}


class RegionHead(nn.Module):
    """Vectors of regions and one box for each, whatever it is called.

    Args:
        region: (maps, boxes, sizes) -> (R, D).
        width: D.
    """

    def __init__(self, region: AttentionRegion | LayersRegion | AverageRegion, width: int) -> None:
        super().__init__()
        self.region, self.box = region, nn.Linear(width, 4)
        nn.init.normal_(self.box.weight, std=0.001)
        nn.init.zeros_(self.box.bias)

    def forward(
        self, maps: Sequence[Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """-> vectors (R, D), box offsets (R, 4), in float32"""
        vectors = self.region(maps, boxes, sizes).float()
        with torch.autocast(vectors.device.type, enabled=False):
            return vectors, F.linear(vectors, self.box.weight.float(), self.box.bias.float())


def labels_of(regions: Sequence[Regions], targets: Sequence[Target]) -> list[Tensor]:
    """(R,) of each image: the labels of its regions' objects, -1 for background."""
    return [
        torch.where(one.positive, target["labels"][one.objects], BACKGROUND)
        if len(target["labels"])
        else one.objects  # all background
        for one, target in zip(regions, targets, strict=True)
    ]


def box_loss(offsets: Tensor, regions: Sequence[Regions], targets: Sequence[Target]) -> Tensor:
    """(K, 4) offsets of all regions -> L1 distance of positive ones to their objects, over the number of regions."""
    pairs = [(one, one.positive, target["boxes"]) for one, target in zip(regions, targets, strict=True)]
    objects = torch.cat([boxes[one.objects[held]] for one, held, boxes in pairs])
    wanted = as_offsets(objects, torch.cat([one.boxes[held] for one, held, _ in pairs]), OFFSETS)
    held = torch.cat([held for _, held, _ in pairs])
    return (offsets[held] - wanted).abs().sum() / max(1, len(held))


def moved_boxes(proposals: list[Tensor], offsets: Tensor, sizes: list[tuple[int, int]]) -> list[Tensor]:
    """Proposals (P, 4) of each image and their offsets (R, 4) -> boxes (P, 4), clipped to the images."""
    moved = from_offsets(offsets, torch.cat(proposals), OFFSETS).split([len(one) for one in proposals])
    return [clip(boxes, size) for boxes, size in zip(moved, sizes, strict=True)]
