"""CLIP's ResNet-50 as a trunk: stem and three stages; the rest belongs to the detector that cuts out regions.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 2.4; as a trunk:
Zhong et al., "RegionCLIP: Region-based Language-Image Pretraining", 2022.

    3x3 /2, 3x3, 3x3, mean /2 -> layer1 -> layer2 -> layer3        256, 512, 1024 channels at strides 4, 8, 16

    the rest: layer4 -> attention pool            a box's vector; in exports of the trunk beside it, as `region.`

No convolution after the first has a stride: means of squares make maps smaller, in the shortcuts too. Tensors are named
as CLIP's, so its files, open_clip's and RegionCLIP's are imported by their prefixes. Running statistics stay as they
are in training too, since detectors see few images at a time; scales and shifts of batch norm learn.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import backbone
from backbones.base import Backbone, MapInfo
from backbones.freeze import hold_statistics
from shared.errors import WeightsError
from shared.feeding.pixels import pixel_stats

STEM, GROWTH = 64, 4  # channels of the stem; outputs of a block for each of its inner channels
POOLED, HEADS, JOINT = 2048, 32, 1024  # channels into the pool, its heads, channels of CLIP's joint space
CELLS = 7  # along a side of what the pool was trained on: 224 pixels at stride 32


class Bottleneck(nn.Module):
    """(B, inside, H, W) -> (B, 4 inner, H/stride, W/stride), rounded up."""

    def __init__(self, inside: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        out = GROWTH * inner
        self.conv1, self.bn1 = nn.Conv2d(inside, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.pool = smaller(stride)
        self.conv3, self.bn3 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1 or inside != out:
            layers = {"-1": smaller(stride), "0": nn.Conv2d(inside, out, 1, bias=False), "1": nn.BatchNorm2d(out)}
            self.downsample = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(self.pool(x))) + short, inplace=True)


def smaller(stride: int) -> nn.Module:
    """Means of squares, also of what is left of them at the border."""
    return nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()


def stage(inside: int, inner: int, depth: int, stride: int) -> nn.Sequential:
    """(B, inside, H, W) -> (B, 4 inner, H/stride, W/stride)"""
    return nn.Sequential(
        Bottleneck(inside, inner, stride), *(Bottleneck(GROWTH * inner, inner) for _ in range(1, depth))
    )


def fresh(module: nn.Module) -> None:
    """Random weights: He et al., 2015, and blocks that start as their shortcut."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(layer, Bottleneck):
            nn.init.zeros_(layer.bn3.weight)


class AttentionPool(nn.Module):
    """CLIP's pool: the mean of all cells asks every cell.

    One question is asked of each region, so keys and values need not be computed: a head's question is brought to the
    space of the cells, and its answer from there. That is the same sum in another order, and a fortieth of the work.
    """

    def __init__(self, cells: int = CELLS, width: int = POOLED, heads: int = HEADS, out: int = JOINT) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(cells**2 + 1, width) / width**0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, out)
        for layer in (self.k_proj, self.q_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=width**-0.5)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(R, width, G, G) -> (R, out)"""
        cells = x.flatten(2).transpose(1, 2)
        tokens = torch.cat((cells.mean(1, keepdim=True), cells), 1) + self.positional_embedding
        asked = self.q_proj(tokens[:, 0]).unflatten(1, (self.heads, -1))  # (R, H, width / H)
        into, out_of = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.k_proj, self.v_proj))
        scores = torch.einsum("rhd,hdc->rhc", asked, into) @ tokens.transpose(1, 2)
        scores = scores + (asked * self.k_proj.bias.view(self.heads, -1)).sum(2, keepdim=True)
        seen = (scores / asked.shape[2] ** 0.5).softmax(2) @ tokens
        answer = torch.einsum("rhc,hdc->rhd", seen, out_of).flatten(1) + self.v_proj.bias
        return self.c_proj(answer)


def rest_of_clip() -> nn.ModuleDict:
    """The stage and the pool that follow the trunk in CLIP: (R, 1024, 14, 14) -> (R, 1024)."""
    layer4 = stage(1024, 512, 3, 2)
    fresh(layer4)
    return nn.ModuleDict({"layer4": layer4, "attnpool": AttentionPool()})


@backbone("clip_resnet50")
class ClipResNet50(Backbone):
    """CLIP's ResNet-50 without its fourth stage and its attention pool, which a region part continues with."""

    beside = "region."
    pixels = pixel_stats("clip")

    def __init__(self, *, pretrained: bool = False) -> None:
        super().__init__()
        if pretrained:
            raise WeightsError(
                "CLIP's weights are in none of the libraries used here; import a file with `pretrain import RN50.pt "
                "--model clip_resnet50 --tag clip`, and give --backbone-tag clip"
            )
        half = STEM // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, STEM, 3, padding=1, bias=False), nn.BatchNorm2d(STEM)
        self.pool = smaller(2)
        self.layer1 = stage(STEM, 64, 3, 1)
        self.layer2 = stage(256, 128, 4, 2)
        self.layer3 = stage(512, 256, 6, 2)
        self.maps = (MapInfo(256, 4), MapInfo(512, 8), MapInfo(1024, 16))
        self.width = 1024
        fresh(self)

    def train(self, mode: bool = True) -> ClipResNet50:
        super().train(mode)
        hold_statistics(self)
        return self

    def forward_features(self, x: Tensor) -> list[Tensor]:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(conv(x)), inplace=True)
        x = self.pool(x)
        maps = []
        for layers in (self.layer1, self.layer2, self.layer3):
            maps.append(x := layers(x))
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)[-1].mean((2, 3))

    def rest(self) -> nn.Module:
        return rest_of_clip()

    def stem(self) -> list[nn.Parameter]:
        layers = (self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3)
        return [p for layer in layers for p in layer.parameters()]

    def stages(self) -> list[list[nn.Parameter]]:
        return [self.stem(), *(list(layers.parameters()) for layers in (self.layer1, self.layer2, self.layer3))]

    def blocks(self) -> list[list[nn.Parameter]]:
        stages = (self.layer1, self.layer2, self.layer3)
        return [self.stem(), *(list(block.parameters()) for layers in stages for block in layers)]
