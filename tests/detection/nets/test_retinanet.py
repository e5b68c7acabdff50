"""RetinaNet: losses and detections are those of torchvision's own, of both its versions, with the same weights."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import retinanet as reference
from torchvision.models.detection.anchor_utils import AnchorGenerator

from backbones.base import MapInfo
from detection.nets import detector
from detection.nets.retinanet import RetinaNet
from detection.types import Images, Target
from shared.errors import UsageError
from tests.detection.nets.same_detections import pairs_of_same

CLASSES = 3
VERSIONS = {"v1": {"norm": "none", "box_loss": "l1"}, "v2": {"norm": "group", "box_loss": "giou", "p6_from": "c5"}}


class Pyramid(nn.Module):
    """Our backbone and neck as torchvision wants them."""

    def __init__(self, net: RetinaNet, width: int) -> None:
        super().__init__()
        self.net, self.out_channels = net, width

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.net.neck(self.net.backbone.forward_features(x))
        return OrderedDict((str(i), level) for i, level in enumerate(maps))


def of_torchvision(net: RetinaNet, **told: Any) -> reference.RetinaNet:
    """torchvision's RetinaNet with its own anchors and head, and our weights in it."""
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}
    normalized = (lambda width: nn.GroupNorm(32, width)) if net.box_loss == "giou" else None
    head = reference.RetinaNetHead(64, 9, CLASSES, norm_layer=normalized)
    head.load_state_dict(net.head.state_dict())
    head.regression_head._loss_type = net.box_loss
    return reference.RetinaNet(Pyramid(net, 64), CLASSES, head=head, **plain, **told)


@pytest.fixture(params=VERSIONS)
def net(tiny_backbone: Callable[..., Any], request: pytest.FixtureRequest) -> RetinaNet:
    """Small, and with last layers loud enough that every loss and score differs from place to place."""
    net = RetinaNet(tiny_backbone(), CLASSES, width=64, **VERSIONS[request.param])
    for layer in net.head.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    loud = {"giou": 0.05, "l1": 1.0}[net.box_loss]  # towers without norm hardly say anything at first
    for last in (net.head.classification_head.cls_logits, net.head.regression_head.bbox_reg):
        nn.init.normal_(last.weight, std=loud)
    return net.eval()  # batch norm holds still, so that two passes are one


def unpadded(images: Images) -> list[Tensor]:
    return [pixels[:, :h, :w] for pixels, (h, w) in zip(images.pixels, images.sizes, strict=True)]


@pytest.mark.parametrize("counts", [[3, 5, 1], [4, 0, 2], [0, 0, 0]])
def test_losses_are_those_of_torchvision(net: RetinaNet, scenes: Callable, counts: list[int]) -> None:
    images, targets = scenes(counts, size=256, classes=CLASSES, smallest=0.05)
    losses = net(images, targets)
    other = of_torchvision(net).train()
    net.eval()
    theirs = other(unpadded(images), [dict(target) for target in targets])
    pairs = {"classification": "classification", "boxes": "bbox_regression"}
    assert losses.keys() == pairs.keys() and theirs.keys() == set(pairs.values())
    for ours, name in pairs.items():
        torch.testing.assert_close(losses[ours], theirs[name], rtol=1e-4, atol=1e-5)
    assert sum(counts) == 0 or losses["boxes"] > 0.1, "some anchor answers for a box"


def test_gradients_are_those_of_torchvision(net: RetinaNet, scenes: Callable) -> None:
    images, targets = scenes([3, 0], size=256, classes=CLASSES, smallest=0.05)
    other = of_torchvision(net).train()
    net.eval()
    torch.stack(list(net(images, targets).values())).sum().backward()
    ours = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    torch.stack(list(other(unpadded(images), [dict(target) for target in targets]).values())).sum().backward()
    head = {f"head.{name}": p.grad for name, p in other.head.named_parameters()}
    theirs = {name: p.grad for name, p in net.named_parameters()} | head
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-3, atol=1e-4 * scale)


def test_detections_are_those_of_torchvision(net: RetinaNet, scenes: Callable) -> None:
    images, _ = scenes([2, 3], size=128, classes=CLASSES)
    net.min_score = 0.015
    told = {"score_thresh": 0.015, "nms_thresh": net.nms_iou, "min_size": 112}  # of that size, nothing is resized
    theirs = of_torchvision(net, **told).eval()(unpadded(images))
    for ours, other in zip(net.detect(images), theirs, strict=True):
        pairs_of_same(ours, other)


def test_anchors_are_those_of_torchvision_at_any_batch_size(net: RetinaNet) -> None:
    theirs = reference._default_anchorgen()
    assert isinstance(theirs, AnchorGenerator)
    for level, around in enumerate(theirs.cell_anchors):
        assert torch.equal(net.anchors.get_buffer(f"level{level}"), around)
    images = Images(torch.zeros(1, 3, 160, 224), [(160, 224)])
    found = net.predict(images.pixels)
    assert found.counts == [9 * n for n in (20 * 28, 10 * 14, 5 * 7, 3 * 4, 2 * 2)]
    assert found.scores.shape[1] == found.offsets.shape[1] == len(found.anchors) == sum(found.counts)


def test_boxes_of_one_pixel_and_a_thousand_of_them_give_finite_losses(net: RetinaNet) -> None:
    corner = (torch.rand(1000, 2) * 94).round()
    crowd = Target(boxes=torch.cat((corner, corner + 1), 1), labels=torch.randint(CLASSES, (1000,)))
    images = Images(torch.randn(2, 3, 96, 96), [(96, 96)] * 2)
    losses = net.train()(images, [crowd, Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))])
    torch.stack(list(losses.values())).sum().backward()
    assert all(math.isfinite(value) for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)


def test_half_precision_decides_in_full(net: RetinaNet, scenes: Callable) -> None:
    images, targets = scenes([2, 0], classes=CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        found, losses = net.predict(images.pixels), net(images, targets)
    assert {x.dtype for x in (found.scores, found.offsets, found.anchors, *losses.values())} == {torch.float32}


def test_images_weigh_the_same_however_many_boxes_they_have(net: RetinaNet, scenes: Callable) -> None:
    images, targets = scenes([5, 0, 1], size=128, classes=CLASSES, smallest=0.05)
    alone = [
        net(Images(images.pixels[i : i + 1], images.sizes[i : i + 1]), targets[i : i + 1]) for i in range(len(targets))
    ]
    for name, value in net(images, targets).items():
        torch.testing.assert_close(value, torch.stack([losses[name] for losses in alone]).mean())


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"norm": "batch"}, "norm is 'batch'; it can be group, none"),
        ({"box_loss": "iou"}, "box_loss is 'iou'.*; it can be giou, l1"),
        ({"width": 32}, "width is 32; .*give a multiple of 64"),
    ],
)
def test_settings_it_does_not_know_are_refused(told: dict, sentence: str, tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=sentence):
        detector.build("retinanet", tiny_backbone(), CLASSES, **told)


def test_backbone_without_a_pyramid_is_refused(tiny_backbone: Callable[..., Any]) -> None:
    coarse = tiny_backbone()
    coarse.maps = (MapInfo(8, 32), MapInfo(8, 64))
    with pytest.raises(UsageError, match="needs maps of stride 8 to 32"):
        RetinaNet(coarse, CLASSES)
