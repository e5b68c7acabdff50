"""Keypoint R-CNN: losses, gradients and detections are those of torchvision's KeypointRCNN with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchvision.models.detection import keypointrcnn_resnet50_fpn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNN as Reference
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from backbones import backbone
from detection.nets.keypoint_rcnn import KeypointRCNN
from detection.types import Images, Target
from tests.detection.nets.of_torchvision import (
    PLAIN,
    Pyramid,
    assert_equal_steps,
    loud,
    unpadded,
    with_our_weights,
)

CLASSES, WIDTH, HIDDEN, DEEP, POINTS = 1, 32, 64, 48, 5


@pytest.fixture
def net(tiny_backbone: Callable[..., Any]) -> KeypointRCNN:
    small: dict[str, Any] = {"width": WIDTH, "hidden": HIDDEN, "keypoint_width": DEEP, "keypoint_depth": 3}
    return loud(KeypointRCNN(tiny_backbone(), CLASSES, num_keypoints=POINTS, **small))


def of_torchvision(net: KeypointRCNN, **told: Any) -> Reference:
    """torchvision's KeypointRCNN with heads of our size, with our weights copied into it."""
    heads: dict[str, Any] = {
        "box_head": TwoMLPHead(WIDTH * 49, HIDDEN),
        "box_predictor": FastRCNNPredictor(HIDDEN, CLASSES + 1),
        "keypoint_head": KeypointRCNNHeads(WIDTH, [DEEP] * 3),
        "keypoint_predictor": KeypointRCNNPredictor(DEEP, POINTS),
    }
    return with_our_weights(Reference(Pyramid(net, WIDTH), **heads, **told, **PLAIN), net)


@pytest.fixture
def posed(scenes: Callable) -> Callable[[list[int]], tuple[Images, list[Target]]]:
    """Scenes with keypoints in and around their boxes, some hidden, some not labelled."""

    def make(counts: list[int]) -> tuple[Images, list[Target]]:
        images, targets = scenes(counts, classes=CLASSES)
        for target in targets:
            first, last = target["boxes"][:, None].split(2, 2)
            at = first + (1.2 * torch.rand(len(first), POINTS, 2) - 0.1) * (last - first)
            seen = torch.randint(3, (len(first), POINTS, 1)).float()
            target["keypoints"] = torch.cat((at, seen), 2) * (seen > 0)
        return images, targets

    return make


@pytest.mark.parametrize("counts", [[2, 3], [2, 0], [0, 0]])
def test_losses_and_gradients_are_those_of_torchvision(net: KeypointRCNN, posed: Callable, counts: list[int]) -> None:
    images, targets = posed(counts)
    losses = assert_equal_steps(net, of_torchvision(net), images, targets)
    assert len(losses) == 5 and (sum(counts) == 0 or losses["loss_keypoint"] > 0.1)


def test_objects_without_a_visible_keypoint_teach_boxes_alone(net: KeypointRCNN, posed: Callable) -> None:
    """And still every parameter gets a gradient, for which other processes wait."""
    images, targets = posed([2, 1])
    for target in targets:
        target["keypoints"] = torch.zeros_like(target["keypoints"])
    losses = assert_equal_steps(net, of_torchvision(net), images, targets)
    assert losses["loss_keypoint"] == 0 and losses["loss_box_reg"] > 0
    torch.stack(list(net(images, targets).values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_detections_are_those_of_torchvision(net: KeypointRCNN, scenes: Callable) -> None:
    images, _ = scenes([2, 3], classes=CLASSES)
    theirs = of_torchvision(net, min_size=112).eval()(unpadded(images))  # of that size, nothing is resized
    for mine, one in zip(net.eval().detect(images), theirs, strict=True):
        points: Any = mine["keypoints"]  # type: ignore[typeddict-item]
        assert len(mine["scores"]) > 5 and points.shape[1:] == (POINTS, 3)
        assert torch.equal(mine["labels"], one["labels"] - 1)
        torch.testing.assert_close(mine["boxes"], one["boxes"], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(mine["scores"], one["scores"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(points[..., :2], one["keypoints"][..., :2], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(points[..., 2], one["keypoints_scores"], rtol=1e-4, atol=1e-4)


def test_the_published_model_has_the_same_weights_by_the_same_names() -> None:
    """So its checkpoints load: 59 million numbers, of 17 keypoints of one class."""
    with torch.device("meta"):
        ours: Any = KeypointRCNN(backbone.build("resnet50"), 1)
        theirs = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    for part in ("rpn", "roi_heads"):
        own, other = (getattr(net, part).state_dict() for net in (ours, theirs))
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_nothing_is_found_above_every_score_and_has_no_keypoints(net: KeypointRCNN, scenes: Callable) -> None:
    images, _ = scenes([1, 1], classes=CLASSES)
    net.roi_heads.score_thresh = 1.0
    for found in net.eval().detect(images):
        assert found["keypoints"].shape == (0, POINTS, 3)  # type: ignore[typeddict-item]


def test_options_reach_their_place(tiny_backbone: Callable[..., Any]) -> None:
    told = {"min_score": 0.2, "nms_iou": 0.4, "max_detections": 7, "rpn_min_score": 0.1}
    deep = {"num_keypoints": 3, "keypoint_width": 16, "keypoint_depth": 2}
    net: Any = KeypointRCNN(tiny_backbone(), CLASSES, width=32, hidden=48, **deep, **told)
    heads = net.roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.2, 0.4, 7)
    assert net.rpn.score_thresh == 0.1
    assert len(heads.keypoint_head) == 4, "two convolutions, each with its rectifier"
    assert heads.keypoint_predictor.kps_score_lowres.weight.shape[:2] == (16, 3)
    assert heads.keypoint_roi_pool.featmap_names == ["0", "1", "2", "3"], "no box is cut from the pooled level"
