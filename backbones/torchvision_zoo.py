"""The backbones of torchvision's reference detectors that differ from timm's networks.

    tv_mobilenet_v3_large                    strides 4 to 32
    tv_mobilenet_v3_large_fpn                two maps of stride 32, of blocks 13 and 16: as in its Faster R-CNNs
    tv_mobilenet_v3_large_ssdlite            inside block 13, at its widest, and block 16: as in its SSDlite
    tv_mobilenet_v3_large_ssdlite_reduced    the same with half as many channels from block 13 on: 3.44 M in all
    tv_vgg16                                 strides 4, 8 and 16: conv3_3, conv4_3, conv5_3

Its ResNets are timm's tensor for tensor: `resnet_v1_50` is its ResNet-50. `train_last` freezes as its builders do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn

from backbones import backbone
from backbones.base import Backbone, MapInfo
from backbones.reach import map_reach
from shared.errors import UsageError, WeightsError


class Tap(NamedTuple):
    """Where a map is taken: after a block, or after its first layer, the expansion."""

    block: int
    channels: int
    stride: int
    expanded: bool = False


class TorchvisionBackbone(Backbone):
    """
    Args:
        net: sequence of blocks.
        taps: where the maps are taken, finest first.
        published: name of its published weights; None if there are none.
        pretrained: load them.
    """

    def __init__(self, net: nn.Sequential, taps: list[Tap], published: str | None, pretrained: bool) -> None:
        super().__init__()
        self.net, self.taps = net, taps
        self.maps = tuple(MapInfo(tap.channels, tap.stride) for tap in taps)
        self.width = taps[-1].channels
        if pretrained:
            from backbones.published import fill_published

            if published is None:
                raise WeightsError(
                    "there are no published weights of this backbone alone; start from random ones, or import "
                    "its detector "
                    "with `detect import`"
                )
            self.pixels = fill_published(self, published).stats

    def forward_features(self, x: Tensor) -> list[Tensor]:
        within, after = ({tap.block for tap in self.taps if tap.expanded is inside} for inside in (True, False))
        maps = []
        for number, block in enumerate(self.net):
            if number in within:
                expand, *rest = block.block  # type: ignore[union-attr]
                maps.append(x := expand(x))  # type: ignore[operator]
                for layer in rest:
                    x = layer(x)  # type: ignore[operator]
            else:
                x = block(x)
            if number in after:
                maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_features(x)[-1].mean((2, 3))

    def blocks(self) -> list[list[nn.Parameter]]:
        return [parameters for block in self.net if (parameters := list(block.parameters()))]

    def stages(self) -> list[list[nn.Parameter]]:
        weights, staged = dict(self.named_parameters()), [self.blocks()[0]]
        seen = {id(p) for p in staged[0]}
        for names in map_reach(self):
            staged.append([p for name, p in weights.items() if name in names and id(p) not in seen])
            seen |= {id(p) for p in staged[-1]}
        return staged


def mobilenet_v3_large(
    taps: list[Tap], norm: Callable[..., nn.Module] | None = None, reduced: bool = False, *, pretrained: bool = False
) -> Backbone:
    """MobileNetV3-Large: Howard et al., "Searching for MobileNetV3", 2019.

    Args:
        taps: where the maps are taken.
        norm: batch norm, if not that of the ImageNet weights (eps .001, momentum .01).
        reduced: half as many channels from block 13 on, as in the paper's detector.
        pretrained: start from torchvision's ImageNet weights.
    """
    from torchvision.models import mobilenet_v3_large as build

    net: Any = build(norm_layer=norm, reduced_tail=reduced).features
    if reduced:
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.03)
    published = None if reduced else "MobileNet_V3_Large_Weights.IMAGENET1K_V1"
    return TorchvisionBackbone(net, taps, published, pretrained)


@backbone("tv_vgg16")
def vgg16(*, pretrained: bool = False) -> Backbone:
    """VGG16 without its last pooling: Simonyan, Zisserman, "Very Deep Convolutional Networks", 2015.

    Args:
        pretrained: start from the weights that SSD's authors published.
    """
    # torchvision's VGG has 120 M more parameters, in linear layers
    from torchvision.models.vgg import cfgs, make_layers

    net = make_layers(cfgs["D"])[:-1]
    for layer in net:
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True  # sizes are rounded up: 300 pixels become 38 cells, as in SSD's paper
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    taps = [Tap(15, 256, 4), Tap(22, 512, 8), Tap(29, 512, 16)]
    return TorchvisionBackbone(net, taps, "VGG16_Weights.IMAGENET1K_FEATURES", pretrained)


PATIENT = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
INSIDE = Tap(13, 672, 16, expanded=True)
# taps, batch norm, reduced tail
ROWS = {
    "tv_mobilenet_v3_large": ([Tap(3, 24, 4), Tap(6, 40, 8), Tap(12, 112, 16), Tap(16, 960, 32)],),
    "tv_mobilenet_v3_large_fpn": ([Tap(13, 160, 32), Tap(16, 960, 32)], nn.BatchNorm2d),
    "tv_mobilenet_v3_large_ssdlite": ([INSIDE, Tap(16, 960, 32)], PATIENT),
    "tv_mobilenet_v3_large_ssdlite_reduced": ([INSIDE, Tap(16, 480, 32)], PATIENT, True),
}
for name, row in ROWS.items():
    backbone(name)(partial(mobilenet_v3_large, *row))


# --- trainable layers -------------------------------------------------------------------------------


def train_last(net: Backbone, count: int) -> None:
    """Freeze all but this many last layers, as torchvision's --trainable-backbone-layers counts them.

    Raises:
        UsageError: a backbone whose layers torchvision does not count, or one with fewer.
    """
    layers = counted(net)
    if count > len(layers):
        raise UsageError(f"--trainable-backbone-layers {count}: this backbone has {len(layers)} layers; give no more")
    for layer in layers[: len(layers) - count]:
        for module in layer:
            module.requires_grad_(False)


def counted(net: Backbone) -> list[list[nn.Module]]:
    """The layers of a backbone, first to last.

    ResNet         conv1 and bn1 | layer1 | layer2 | layer3 | layer4
    MobileNetV3    blocks 0 and 1 | from each that halves the sides, 2, 4, 7 and 13 | 16
    VGG16          from the first convolution, and from each pooling
    """
    inner: Any = net.net
    if isinstance(net, TorchvisionBackbone):
        starts = [i for i, b in enumerate(inner) if getattr(b, "_is_cn", False) or isinstance(b, nn.MaxPool2d)]
        last = [] if isinstance(inner[0], nn.Conv2d) else [len(inner) - 1]
        edges = [0, *starts, *last, len(inner)]
        return [list(inner[start:end]) for start, end in pairwise(edges)]
    if all(hasattr(inner, name) for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")):
        return [[inner.conv1, inner.bn1], [inner.layer1], [inner.layer2], [inner.layer3], [inner.layer4]]
    raise UsageError(
        "--trainable-backbone-layers counts the layers of torchvision's ResNets, MobileNetV3 and VGG16; "
        "use --freeze-backbone-stages for this backbone"
    )
