"""Mask R-CNN: losses, gradients and detections are those of torchvision's own MaskRCNN with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, RPNHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN as Reference
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from backbones import backbone
from backbones.freeze import freeze_unreached
from detection.nets import detector
from detection.nets.mask_rcnn import MaskRCNN
from detection.parts.necks import channel_norm
from detection.types import Images, Target
from tests.detection.nets.of_torchvision import (
    PLAIN,
    Pyramid,
    assert_equal_steps,
    loud,
    unpadded,
    with_our_weights,
)

CLASSES, WIDTH, HIDDEN = 3, 32, 64


@pytest.fixture
def net(tiny_backbone: Callable[..., Any]) -> MaskRCNN:
    net = MaskRCNN(tiny_backbone(), CLASSES, width=WIDTH, hidden=HIDDEN, mask_width=24)
    nn.init.normal_(net.roi_heads.mask_predictor.mask_fcn_logits.bias)  # type: ignore[union-attr]
    return loud(net)


@pytest.fixture
def vit() -> Any:
    """A small vitdet_mask."""
    net: Any = detector.build("vitdet_mask", backbone.build("test_vit"), CLASSES, width=WIDTH, hidden=HIDDEN)
    freeze_unreached(net.backbone, net.used_maps)
    return loud(net)


def of_torchvision(net: Any, **told: Any) -> Reference:
    """torchvision's MaskRCNN with heads of our size, with our weights copied into it."""
    heads: dict[str, Any] = {
        "box_head": TwoMLPHead(WIDTH * 49, HIDDEN),
        "box_predictor": FastRCNNPredictor(HIDDEN, CLASSES + 1),
        "mask_head": MaskRCNNHeads(WIDTH, [24] * 4, 1),
        "mask_predictor": MaskRCNNPredictor(24, 24, CLASSES + 1),
    }
    return with_our_weights(Reference(Pyramid(net, WIDTH), **(heads | told), **PLAIN), net)


def of_torchvision_as_vitdet(net: Any, **told: Any) -> Reference:
    """torchvision's MaskRCNN with the heads of ViTDet."""
    heads = {
        "rpn_head": RPNHead(WIDTH, 3, conv_depth=2),
        "box_head": FastRCNNConvFCHead((WIDTH, 7, 7), [WIDTH] * 4, [HIDDEN], norm_layer=channel_norm),
        "mask_head": MaskRCNNHeads(WIDTH, [WIDTH] * 4, 1, channel_norm),
        "mask_predictor": MaskRCNNPredictor(WIDTH, WIDTH, CLASSES + 1),
    }
    return of_torchvision(net, **heads, **told)


@pytest.fixture
def masked(scenes: Callable) -> Callable[[list[int]], tuple[Images, list[Target]]]:
    """Scenes whose objects are discs of their boxes."""

    def make(counts: list[int]) -> tuple[Images, list[Target]]:
        images, targets = scenes(counts, classes=CLASSES)
        for target, size in zip(targets, images.sizes, strict=True):
            target["masks"] = discs(target["boxes"], size)
        return images, targets

    return make


def discs(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    ys, xs = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    across = ((xs - middle[:, :1]) / half[:, :1])[:, None] ** 2
    return (across + ((ys - middle[:, 1:]) / half[:, 1:])[:, :, None] ** 2 < 1).byte()


@pytest.mark.parametrize("counts", [[2, 3], [2, 0], [0, 0]])
def test_losses_and_gradients_are_those_of_torchvision(net: MaskRCNN, masked: Callable, counts: list[int]) -> None:
    images, targets = masked(counts)
    losses = assert_equal_steps(net, of_torchvision(net), images, targets)
    assert len(losses) == 5 and (sum(counts) == 0 or losses["loss_mask"] > 0.1)


@pytest.mark.parametrize("counts", [[2, 3], [0, 0]])
def test_losses_and_gradients_of_vitdet_with_masks_are_those_of_torchvision(
    vit: Any, masked: Callable, counts: list[int]
) -> None:
    images, targets = masked(counts)
    losses = assert_equal_steps(vit, of_torchvision_as_vitdet(vit), images, targets)
    assert len(losses) == 5 and (sum(counts) == 0 or losses["loss_mask"] > 0.1)


@pytest.mark.parametrize("kind", ["on a pyramid", "on a ViT"])
def test_detections_are_those_of_torchvision(kind: str, net: MaskRCNN, vit: Any, scenes: Callable) -> None:
    images, _ = scenes([2, 3], classes=CLASSES)
    ours, other = (net, of_torchvision) if kind == "on a pyramid" else (vit, of_torchvision_as_vitdet)
    theirs = other(ours, min_size=112).eval()(unpadded(images))  # of that size, nothing is resized
    for mine, one in zip(ours.eval().detect(images), theirs, strict=True):
        masks: Any = mine["masks"]  # type: ignore[typeddict-item]
        assert len(mine["scores"]) > 5 and masks.shape[1:] == (28, 28)
        assert torch.equal(mine["labels"], one["labels"] - 1)
        torch.testing.assert_close(mine["boxes"], one["boxes"], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(mine["scores"], one["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(masks, one["masks"][:, 0], rtol=1e-4, atol=1e-4)
        assert masks.std() > 0.02, "masks differ"


def test_the_published_model_has_the_same_weights_by_the_same_names() -> None:
    """So its checkpoints load: 44 million numbers in heads of 91 classes."""
    with torch.device("meta"):
        ours: Any = MaskRCNN(backbone.build("resnet50"), 90)
        theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    for part in ("rpn", "roi_heads"):
        own, other = (getattr(net, part).state_dict() for net in (ours, theirs))
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_nothing_is_found_above_every_score_and_has_no_masks(net: MaskRCNN, scenes: Callable) -> None:
    images, _ = scenes([1, 1], classes=CLASSES)
    net.roi_heads.score_thresh = 1.0
    for found in net.eval().detect(images):
        assert found["masks"].shape == (0, 28, 28)  # type: ignore[typeddict-item]


@pytest.mark.parametrize("name", ["hieradet_small", "vit_det_m16_rms"])
def test_a_hiera_and_a_plain_vit_carry_it(name: str) -> None:
    with torch.device("meta"):
        net = MaskRCNN(backbone.build(name), CLASSES)
    assert [info.stride for info in net.neck.maps] == [4, 8, 16, 32, 64]


def test_options_reach_their_place(tiny_backbone: Callable[..., Any]) -> None:
    told = {"min_score": 0.2, "nms_iou": 0.4, "max_detections": 7, "rpn_min_score": 0.1}
    net: Any = MaskRCNN(tiny_backbone(), CLASSES, width=32, hidden=48, mask_width=16, mask_depth=2, **told)
    heads = net.roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.2, 0.4, 7)
    assert net.rpn.score_thresh == 0.1
    assert len(heads.mask_head) == 2 and heads.mask_predictor.conv5_mask.in_channels == 16
    assert heads.mask_predictor.mask_fcn_logits.out_channels == CLASSES + 1
    assert heads.mask_roi_pool.featmap_names == ["0", "1", "2", "3"], "no mask is cut from the pooled level"
