"""Every detector on offer keeps the contract: finite losses, gradients everywhere, boxes inside, best first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from backbones import backbone
from backbones.freeze import freeze_unreached, hold_still
from detection.nets import Detector, detector

BACKBONES = [
    "test_resnet",
    "mobilenetv4_conv_small_050",
    "test_vit",
]  # a pyramid, one with a head no map reaches, a plain ViT
CLASSES = 3


def once_tiny() -> list[str]:
    """Every network but those that, made tiny, are one that stands before them: efficientdet_d1 is efficientdet_d0."""
    first: dict[Any, str] = {}
    for name in detector.names():
        made = detector.builder(name)
        told = {n: p.default for n, p in detector.options(name).items()} | detector.facts(name)["tiny"]
        first.setdefault((getattr(made, "func", made), repr(sorted(told.items()))), name)
    return list(first.values())


def build(network: str, name: str, **options: Any) -> Detector:
    torch.manual_seed(0)
    net = backbone.build(name)
    built = detector.build(network, net, CLASSES, **detector.facts(network)["tiny"], **options)
    freeze_unreached(net, built.used_maps)
    built.train()
    hold_still(built)
    return built


each = pytest.mark.parametrize(("network", "name"), [(network, name) for network in once_tiny() for name in BACKBONES])


@each
@pytest.mark.parametrize("counts", [[2, 1], [3, 0], [0, 0]], ids=["boxes", "one image empty", "all images empty"])
def test_losses_are_finite_and_every_trainable_parameter_gets_a_gradient(
    network: str, name: str, counts: list[int], scenes: Callable
) -> None:
    """Also of empty images: several processes wait for the gradients of each other."""
    built = build(network, name)
    images, targets = scenes(counts, classes=CLASSES)
    losses = built(images, targets)
    assert losses and all(value.dim() == 0 and math.isfinite(value) for value in losses.values())
    assert all(float(value) >= 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    without = [n for n, p in built.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, f"no gradient for {without[:5]}"
    wrong = [n for n, p in built.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert not wrong, f"gradients not finite in {wrong[:5]}"
    first = next(p for p in built.backbone.parameters() if p.requires_grad)
    assert first.grad is not None and first.grad.abs().sum() > 0, "the first layer of the backbone learns"


@each
def test_targets_handed_in_stay_as_they_are(network: str, name: str, scenes: Callable) -> None:
    images, targets = scenes([2, 0], classes=CLASSES)
    pixels, before = images.pixels.clone(), [{k: v.clone() for k, v in target.items()} for target in targets]
    build(network, name)(images, targets)
    assert torch.equal(images.pixels, pixels)
    for target, old in zip(targets, before, strict=True):
        assert target.keys() == old.keys() and all(torch.equal(target[k], old[k]) for k in old)


@each
def test_detections_lie_in_their_image_best_first_with_known_labels(network: str, name: str, scenes: Callable) -> None:
    built = build(network, name, min_score=0.0, max_detections=20)
    images, _ = scenes([2, 1], classes=CLASSES)
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # one look at the images, and the statistics fit them
    with torch.no_grad():
        built.backbone.forward_features(images.pixels)
    built.eval()
    images = images._replace(sizes=[(128, 112), (90, 70)])
    own = {id(p) for p in built.backbone.parameters()}
    with torch.no_grad():
        for parameter in built.parameters():
            if id(parameter) not in own:
                parameter.mul_(3.0)  # untrained heads say little; louder ones reach over every border
    found = built.detect(images)
    assert len(found) == 2
    for one, (height, width) in zip(found, images.sizes, strict=True):
        boxes, labels, scores = one["boxes"], one["labels"], one["scores"]
        assert 0 < len(boxes) == len(labels) == len(scores) <= 20
        assert boxes.dtype == torch.float32 and labels.dtype == torch.int64 and not boxes.requires_grad
        assert (boxes >= 0).all() and (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        assert ((labels >= 0) & (labels < CLASSES)).all()
        assert (scores[:-1] >= scores[1:]).all() and ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("network", detector.names())
def test_class_head_is_a_part_of_the_detector_that_depends_on_the_classes(network: str) -> None:
    built = build(network, "test_resnet")
    inside = {id(p) for p in built.parameters()}
    own = [p for part in built.class_head() for p in part.parameters()]
    assert own and {id(p) for p in own} < inside
    fewer = detector.build(network, backbone.build("test_resnet"), 1, **detector.facts(network)["tiny"])
    shapes = {name: p.shape for name, p in fewer.named_parameters()}
    differs = [p for name, p in built.named_parameters() if shapes[name] != p.shape]
    assert differs and {id(p) for p in differs} <= {id(p) for p in own}


@pytest.mark.parametrize("network", detector.names())
def test_used_maps_are_maps_of_the_backbone(network: str) -> None:
    built = build(network, "test_resnet")
    assert built.used_maps and set(built.used_maps) <= set(range(len(built.backbone.maps)))


@pytest.mark.slow
@pytest.mark.parametrize("network", once_tiny())
def test_four_images_can_be_learnt_by_heart(network: str, scenes: Callable, tiny_backbone: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    built = in_a_hurry(detector.build(network, tiny_backbone(16), CLASSES, **detector.facts(network)["tiny"]).train())
    images, targets = scenes([1, 2, 2, 1], size=96, classes=CLASSES, smallest=0.3)
    optimizer = torch.optim.AdamW(built.parameters(), lr=4e-3)
    steps = 80
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (step + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        torch.stack(list(built(images, targets).values())).sum().backward()
        nn.utils.clip_grad_norm_(built.parameters(), 5.0)
        optimizer.step()
    for found, target in zip(built.eval().detect(images), targets, strict=True):
        sure = found["scores"] > 0.3
        overlap = box_iou(target["boxes"], found["boxes"][sure])
        assert overlap.shape[1], "something is found"
        best, which = overlap.max(1)
        assert best.min() > 0.65 and torch.equal(found["labels"][sure][which], target["labels"])


def in_a_hurry(built: Any) -> Detector:
    """Batch norm that forgets quickly, and few proposals: four images are soon known."""
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.5
    if hasattr(built, "rpn"):
        built.rpn._pre_nms_top_n = built.rpn._post_nms_top_n = {"training": 150, "testing": 150}
        built.roi_heads.fg_bg_sampler.batch_size_per_image = 64
    return built
