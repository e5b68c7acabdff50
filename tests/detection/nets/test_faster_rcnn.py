"""Faster R-CNN: losses and detections are those of torchvision's own FasterRCNN with the same weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FasterRCNN as Reference
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

from detection.nets.faster_rcnn import FasterRCNN
from detection.types import Images

CLASSES, WIDTH, HIDDEN = 3, 32, 64


class Pyramid(nn.Module):
    """Our backbone and neck as torchvision wants them."""

    def __init__(self, net: FasterRCNN) -> None:
        super().__init__()
        self.net, self.out_channels = net, WIDTH

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        names = ["0", "1", "2", "3", "pool"]
        return OrderedDict(zip(names, self.net.neck(self.net.backbone.forward_features(x)), strict=True))


@pytest.fixture
def net(tiny_backbone: Callable[..., Any]) -> FasterRCNN:
    """Small, and with last layers loud enough that proposals and scores differ."""
    net = FasterRCNN(tiny_backbone(), CLASSES, width=WIDTH, hidden=HIDDEN)
    for layer in (net.rpn.head.cls_logits, net.rpn.head.bbox_pred, net.roi_heads.box_predictor.cls_score):
        nn.init.normal_(layer.weight, std=0.2)
    for layer in net.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()  # batch norm holds still, so that two passes are one
    return net


def of_torchvision(net: FasterRCNN, **told: Any) -> Reference:
    """torchvision's FasterRCNN as it comes, with our weights copied into it."""
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}
    heads = {"box_head": TwoMLPHead(WIDTH * 49, HIDDEN), "box_predictor": FastRCNNPredictor(HIDDEN, CLASSES + 1)}
    other = Reference(Pyramid(net), **plain, **heads, **told)
    other.rpn.load_state_dict(net.rpn.state_dict())
    other.roi_heads.load_state_dict(net.roi_heads.state_dict())
    return other


def unpadded(images: Images) -> list[Tensor]:
    return [pixels[:, :h, :w] for pixels, (h, w) in zip(images.pixels, images.sizes, strict=True)]


@pytest.mark.parametrize("counts", [[2, 3], [2, 0], [0, 0]])
def test_losses_are_those_of_torchvision(net: FasterRCNN, scenes: Callable, counts: list[int]) -> None:
    images, targets = scenes(counts, classes=CLASSES)
    other = of_torchvision(net)
    other.rpn.train()
    other.roi_heads.train()
    other.training = True
    known = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]
    torch.manual_seed(5)
    ours = net(images, targets)
    torch.manual_seed(5)
    theirs = other(unpadded(images), known)
    assert ours.keys() == theirs.keys() and len(ours) == 4
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    assert sum(counts) == 0 or ours["loss_box_reg"] > 0


def test_detections_are_those_of_torchvision(net: FasterRCNN, scenes: Callable) -> None:
    images, _ = scenes([2, 3], classes=CLASSES)
    theirs = of_torchvision(net, min_size=112).eval()(unpadded(images))  # of that size, nothing is resized
    for ours, other in zip(net.eval().detect(images), theirs, strict=True):
        assert len(ours["scores"]) > 5
        assert torch.equal(ours["labels"], other["labels"] - 1)
        torch.testing.assert_close(ours["boxes"], other["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(ours["scores"], other["scores"], rtol=1e-5, atol=1e-6)


def test_anchors_are_eight_strides_wide_at_every_level(net: FasterRCNN) -> None:
    assert net.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert net.roi_heads.box_roi_pool.featmap_names == ["0", "1", "2", "3"], "no box is cut from the pooled level"


def test_options_reach_their_place(tiny_backbone: Callable[..., Any]) -> None:
    net = FasterRCNN(tiny_backbone(), CLASSES, width=32, hidden=48, min_score=0.2, nms_iou=0.4, max_detections=7)
    heads = net.roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.2, 0.4, 7)
    assert heads.box_predictor.cls_score.out_features == CLASSES + 1
    assert heads.box_head.fc7.out_features == 48
