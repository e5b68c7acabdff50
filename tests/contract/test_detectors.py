"""Every detector on offer keeps the contract: finite losses, gradients everywhere, boxes inside, best first.

One that finds masks or keypoints learns them too, and its detections have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from backbones import backbone
from backbones.freeze import freeze_unreached, keep_frozen_in_eval
from detection.nets import Detector, detector, finds, is_agnostic, missing_from, takes_proposals
from detection.types import Images, Target

BACKBONES = [
    "test_resnet",
    "mobilenetv4_conv_small_050",
    "test_vit",
]  # a pyramid, one with a head no map reaches, a plain ViT
CLASSES = 3
KEYPOINTS = torch.tensor([[0.3, 0.2], [0.8, 0.5], [0.5, 0.9]])  # x y of each as shares of the object's box


FACTS = {
    "size",
    "tiny",
    "finds",
    "segments",
    "agnostic",
    "on_proposals",
    "several",
    "like",
    "starts_from",
    "resize_rule",
    "trained",
}  # all that are read


@pytest.mark.parametrize("name", detector.names())
def test_facts_of_a_network_are_ones_that_are_read(name: str) -> None:
    facts = detector.facts(name)
    assert set(facts) <= FACTS
    assert set(facts.get("starts_from", {})) | {facts.get("like", name)} <= set(detector.names())
    assert all(missing_from(name, other) for other in facts.get("starts_from", {}))


def test_panoptic_detr_starts_from_detr_and_lacks_only_masks() -> None:
    assert missing_from("detr_panoptic", "detr") == ("masks.*",)
    assert missing_from("detr", "fcos") == ()


def once_tiny() -> list[str]:
    """Every network but those that, made tiny, are one that stands before them: efficientdet_d1 is efficientdet_d0."""
    first: dict[Any, str] = {}
    for name in detector.names():
        made = detector.builder(name)
        told = {n: p.default for n, p in detector.options(name).items()} | detector.facts(name).get("tiny", {})
        first.setdefault((getattr(made, "func", made), repr(sorted(told.items()))), name)
    return list(first.values())


def build(network: str, name: str, classes: int = CLASSES, **options: Any) -> Detector:
    torch.manual_seed(0)
    net = backbone.build(name)
    built = detector.build(network, net, classes, **tiny(network), **options)
    freeze_unreached(net, built.used_maps)
    built.train()
    keep_frozen_in_eval(built)
    return built


def tiny(network: str) -> dict[str, Any]:
    """Options of its small form, with as many keypoints as are drawn."""
    return detector.facts(network).get("tiny", {}) | (
        {"num_keypoints": len(KEYPOINTS)} if "keypoints" in finds(network) else {}
    )


@pytest.fixture
def drawn(scenes: Callable) -> Callable[..., tuple[Images, list[Target]]]:
    """Scenes with what a network wants to know of them: the left half of an object is its mask, and every other
    object's first keypoint is not labeled."""

    def draw(network: str, counts: list[int], **told: Any) -> tuple[Images, list[Target]]:
        images, targets = scenes(counts, classes=CLASSES, **told)
        for (height, width), target in zip(images.sizes, targets, strict=True):
            first, last = target["boxes"][:, None].split(2, 2)
            if "masks" in finds(network):
                x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
                across = (x > first[..., 0]) & (x < (first + last)[..., 0] / 2)
                target["masks"] = (((y > first[..., 1]) & (y < last[..., 1]))[:, :, None] & across[:, None]).byte()
            if "keypoints" in finds(network):
                seen = torch.full((len(first), len(KEYPOINTS), 1), 2.0)
                seen[1::2, 0] = 0
                target["keypoints"] = torch.cat((first + KEYPOINTS * (last - first), seen), 2) * (seen > 0)
        return (with_proposals(images, targets) if takes_proposals(network) else images), targets

    return draw


def with_proposals(images: Images, targets: list[Target]) -> Images:
    """The objects' boxes, a little moved, among others anywhere."""
    stored = []
    for (height, width), target in zip(images.sizes, targets, strict=True):
        rng = torch.Generator().manual_seed(len(stored))
        near = (target["boxes"].repeat(8, 1) + 3 * torch.randn(8 * len(target["boxes"]), 4, generator=rng)).clamp(min=0)
        corner = torch.rand(60, 2, generator=rng) * torch.tensor([width - 40.0, height - 40])
        anywhere = torch.cat((corner, corner + 40 * torch.rand(60, 2, generator=rng)), 1)
        boxes = torch.cat((near, anywhere)).minimum(torch.tensor([width, height] * 2))
        stored.append(torch.cat((boxes, torch.linspace(1, 0.1, len(boxes))[:, None]), 1))
    return images._replace(proposals=stored)


each = pytest.mark.parametrize(("network", "name"), [(network, name) for network in once_tiny() for name in BACKBONES])


@each
@pytest.mark.parametrize("counts", [[2, 1], [3, 0], [0, 0]], ids=["boxes", "one image empty", "all images empty"])
def test_losses_are_finite_and_every_trainable_parameter_gets_a_gradient(
    network: str, name: str, counts: list[int], drawn: Callable
) -> None:
    """Also of empty images: several processes wait for the gradients of each other."""
    built = build(network, name)
    images, targets = drawn(network, counts)
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


JOINED = [name for name in once_tiny() if not is_agnostic(name) and "vocabulary_width" not in detector.options(name)]


@pytest.mark.parametrize("network", [name for name in JOINED if not detector.facts(name).get("segments")])
def test_where_nothing_is_a_class_that_the_file_does_not_annotate_gets_no_gradient(
    network: str, drawn: Callable
) -> None:
    """The bias of the class head has a column for each class, and perhaps one for background."""
    built, classes = build(network, "test_resnet", classes=5), 5
    images, targets = drawn(network, [0, 0])

    def silent(known: list[int]) -> set[int]:
        """Classes, counted with a background in front or not, whose logits get no gradient at all."""
        built.zero_grad()
        mask = torch.zeros(classes, dtype=torch.bool).index_fill(0, torch.tensor(known), True)
        torch.manual_seed(0)
        losses = built(images, [{**target, "known": mask} for target in targets])
        torch.stack(list(losses.values())).sum().backward()
        found: set[int] = set()
        for part in built.class_head():
            for name, parameter in part.named_parameters():
                for columns in (classes, classes + 1):
                    if name.endswith("bias") and parameter.numel() % columns == 0 and parameter.grad is not None:
                        heard = parameter.grad.view(-1, columns).abs().sum(0)
                        found |= set() if not heard.any() else set((heard == 0).nonzero()[:, 0].tolist())
        return found

    assert silent([0, 1, 2, 3, 4]) == set()
    assert silent([0, 1, 3, 4]) in ({2}, {3})  # class 2, or it behind background
    assert silent([1, 3]) in ({0, 2, 4}, {1, 3, 5})


@each
def test_targets_handed_in_stay_as_they_are(network: str, name: str, drawn: Callable) -> None:
    images, targets = drawn(network, [2, 0])
    pixels, before = images.pixels.clone(), [{k: v.clone() for k, v in target.items()} for target in targets]
    build(network, name)(images, targets)
    assert torch.equal(images.pixels, pixels)
    for target, old in zip(targets, before, strict=True):
        assert target.keys() == old.keys() and all(torch.equal(target[k], old[k]) for k in old)


@each
def test_detections_lie_in_their_image_best_first_with_known_labels(network: str, name: str, drawn: Callable) -> None:
    built = build(network, name, min_score=0.0, max_detections=20)
    images, targets = drawn(network, [2, 1])
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # one look at the images, and the statistics fit them
    own = {id(p) for p in built.backbone.parameters()}
    with torch.no_grad():
        for parameter in built.parameters():
            if id(parameter) not in own:
                parameter.mul_(3.0)  # untrained heads say little; louder ones reach over every border
        built(images, targets)
    built.eval()
    found = built.detect(images := images._replace(sizes=[(128, 112), (90, 70)]))
    assert len(found) == 2
    for one, (height, width) in zip(found, images.sizes, strict=True):
        boxes, labels, scores = one["boxes"], one["labels"], one["scores"]
        assert 0 < len(boxes) == len(labels) == len(scores) <= 20
        assert boxes.dtype == torch.float32 and labels.dtype == torch.int64 and not boxes.requires_grad
        assert (boxes >= 0).all() and (boxes[:, 2:] <= torch.tensor([width, height])).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
        assert ((labels >= 0) & (labels < CLASSES)).all()
        whole = {"segments"} if detector.facts(network).get("segments") else set()
        assert set(one) == {"boxes", "labels", "scores", *finds(network), *whole}
        if "segments" in one:
            assert len(one["segments"]) == len(boxes) and one["segments"].shape[1:] == (-(-height // 4), -(-width // 4))
        if "masks" in one:
            masks = one["masks"]
            assert len(masks) == len(boxes) and masks.shape[1] == masks.shape[2] > 1
            assert masks.dtype == torch.float32 and ((masks >= 0) & (masks <= 1)).all()
        if "keypoints" in one:
            points = one["keypoints"]
            assert points.shape == (len(boxes), len(KEYPOINTS), 3) and points.isfinite().all()
            slack = (boxes[:, 2:] - boxes[:, :2] < 1).float()[:, None]  # of less than a pixel, a box is taken for one
            assert (points[..., :2] >= boxes[:, None, :2]).all()
            assert (points[..., :2] <= boxes[:, None, 2:] + slack).all()
        assert (scores[:-1] >= scores[1:]).all() and ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("network", [name for name in detector.names() if not is_agnostic(name)])
def test_class_head_is_a_part_of_the_detector_that_depends_on_the_classes(network: str) -> None:
    """Parameters, or buffers where classes are names whose vectors are given."""
    built = build(network, "test_resnet")
    state = built.state_dict(keep_vars=True)
    inside = {id(p) for p in state.values()}
    own = [p for part in built.class_head() for p in part.state_dict(keep_vars=True).values()]
    assert own and {id(p) for p in own} < inside
    fewer = detector.build(network, backbone.build("test_resnet"), 1, **tiny(network))
    shapes = {name: p.shape for name, p in fewer.state_dict().items()}
    differs = [p for name, p in state.items() if shapes[name] != p.shape]
    assert differs and {id(p) for p in differs} <= {id(p) for p in own}


@pytest.mark.parametrize("network", detector.names())
def test_used_maps_are_maps_of_the_backbone(network: str) -> None:
    built = build(network, "test_resnet")
    assert built.used_maps and set(built.used_maps) <= set(range(len(built.backbone.maps)))


@pytest.mark.slow
@pytest.mark.parametrize("network", once_tiny())
def test_four_images_can_be_overfitted(network: str, drawn: Callable, tiny_backbone: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    built = fast_settings(detector.build(network, tiny_backbone(16), CLASSES, **tiny(network)).train())
    images, targets = drawn(network, [1, 2, 2, 1], size=96, smallest=0.3)
    optimizer = torch.optim.AdamW(built.parameters(), lr=4e-3)
    slow = {"smca_detr": 120, "retinanet": 120, "dino_detr": 140, "keypoint_rcnn": 140}
    steps = slow.get(network, 120 if "masks" in finds(network) else 80)
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
        labels = torch.zeros_like(target["labels"]) if is_agnostic(network) else target["labels"]
        assert best.min() > 0.5 and torch.equal(found["labels"][sure][which], labels)
        if "masks" in finds(network):
            assert all(left_half(mask) > 0.8 for mask in found["masks"][sure][which])  # type: ignore[typeddict-item]
        if "keypoints" in finds(network):
            known = target["keypoints"][..., 2] > 0
            points: Tensor = found["keypoints"][sure][which]  # type: ignore[typeddict-item]
            away = (points - target["keypoints"])[..., :2].norm(dim=2)
            assert (away[known] < 8).float().mean() > 0.7, "one point of five may be late"


def left_half(mask: Tensor) -> float:
    """The share of a mask that says what is so: object on the left, nothing on the right."""
    side = mask.shape[-1]
    return ((mask > 0.5) == (torch.arange(side) < side / 2)).float().mean().item()


def fast_settings(built: Any) -> Detector:
    """Batch norm that forgets quickly, and few proposals: four images are soon known."""
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.5
    if getattr(built, "rpn", None) is not None:
        built.rpn._pre_nms_top_n = built.rpn._post_nms_top_n = {"training": 150, "testing": 150}
    if hasattr(built, "roi_heads"):
        built.roi_heads.fg_bg_sampler.batch_size_per_image = 64
    return built
