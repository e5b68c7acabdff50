"""The R-CNN family: losses, gradients and detections are those of torchvision's own networks with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import (
    FasterRCNN,
    KeypointRCNN,
    MaskRCNN,
    fasterrcnn_resnet50_fpn_v2,
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, RPNHead, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from backbones import backbone
from backbones.freeze import freeze_unreached
from detection.nets import detector
from detection.nets.rcnn import RCNN
from detection.parts.dense.necks import FPN, SimpleFPN, channel_norm
from detection.types import Images, Target
from tests.detection.nets.of_torchvision import (
    PLAIN,
    Pyramid,
    assert_equal_steps,
    loud,
    unpadded,
    with_our_weights,
)
from tests.detection.nets.same_detections import pairs_of_same

CLASSES, WIDTH, HIDDEN, MASK, DEEP, POINTS = 3, 32, 64, 24, 48, 5
SMALL: dict[str, Any] = {"width": WIDTH, "hidden": HIDDEN}
OWN: dict[str, dict[str, Any]] = {
    "mask_rcnn": {"mask_width": MASK},
    "mask_rcnn_v2": {"mask_width": MASK},
    "keypoint_rcnn": {"num_keypoints": POINTS, "keypoint_width": DEEP, "keypoint_depth": 3},
}
FAMILY = ["faster_rcnn", "mask_rcnn", "keypoint_rcnn", "vitdet", "vitdet_mask", "faster_rcnn_v2", "mask_rcnn_v2"]


def heads(network: str) -> dict[str, Any]:
    """torchvision's heads, at our sizes."""
    box_predictor = {"box_predictor": FastRCNNPredictor(HIDDEN, CLASSES + 1)}
    two_layers = {"box_head": TwoMLPHead(WIDTH * 49, HIDDEN), **box_predictor}
    deep = {
        "rpn_head": RPNHead(WIDTH, 3, conv_depth=2),
        "box_head": FastRCNNConvFCHead(
            (WIDTH, 7, 7), [WIDTH] * 4, [HIDDEN], norm_layer=nn.BatchNorm2d if "v2" in network else channel_norm
        ),
        **box_predictor,
    }
    return {
        "faster_rcnn": two_layers,
        "mask_rcnn": two_layers
        | {
            "mask_head": MaskRCNNHeads(WIDTH, [MASK] * 4, 1),
            "mask_predictor": MaskRCNNPredictor(MASK, MASK, CLASSES + 1),
        },
        "keypoint_rcnn": two_layers
        | {
            "keypoint_head": KeypointRCNNHeads(WIDTH, [DEEP] * 3),
            "keypoint_predictor": KeypointRCNNPredictor(DEEP, POINTS),
        },
        "vitdet": deep,
        "faster_rcnn_v2": deep,
        "mask_rcnn_v2": deep
        | {
            "mask_head": MaskRCNNHeads(WIDTH, [MASK] * 4, 1, nn.BatchNorm2d),
            "mask_predictor": MaskRCNNPredictor(MASK, MASK, CLASSES + 1),
        },
        "vitdet_mask": deep
        | {
            "mask_head": MaskRCNNHeads(WIDTH, [WIDTH] * 4, 1, channel_norm),
            "mask_predictor": MaskRCNNPredictor(WIDTH, WIDTH, CLASSES + 1),
        },
    }[network]


def of_torchvision(network: str, net: RCNN, **told: Any) -> Any:
    """torchvision's network as it comes, with our weights copied into it."""
    kind = MaskRCNN if "mask" in network else KeypointRCNN if "keypoint" in network else FasterRCNN
    return with_our_weights(kind(Pyramid(net, WIDTH), **heads(network), **PLAIN, **told), net)


@pytest.fixture
def small(tiny_backbone: Callable[..., Any]) -> Callable[[str], Any]:
    """A small network by its name, with loud last layers; ViTDets stand on a plain ViT."""

    def build(network: str) -> Any:
        below = backbone.build("test_vit") if "vitdet" in network else tiny_backbone()
        net: Any = detector.build(network, below, CLASSES, **SMALL, **OWN.get(network, {}))
        if net.roi_heads.has_mask():
            nn.init.normal_(net.roi_heads.mask_predictor.mask_fcn_logits.bias)
        freeze_unreached(net.backbone, net.used_maps)
        return loud(net)

    return build


@pytest.fixture
def known(scenes: Callable) -> Callable[[list[int]], tuple[Images, list[Target]]]:
    """Scenes whose objects are discs of their boxes, with keypoints in and around them, of which some are hidden."""

    def make(counts: list[int]) -> tuple[Images, list[Target]]:
        images, targets = scenes(counts, classes=CLASSES)
        for target, size in zip(targets, images.sizes, strict=True):
            target["masks"] = discs(target["boxes"], size)
            first, last = target["boxes"][:, None].split(2, 2)
            at = first + (1.2 * torch.rand(len(first), POINTS, 2) - 0.1) * (last - first)
            seen = torch.randint(3, (len(first), POINTS, 1)).float()
            target["keypoints"] = torch.cat((at, seen), 2) * (seen > 0)
        return images, targets

    return make


def discs(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    ys, xs = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    across = ((xs - middle[:, :1]) / half[:, :1])[:, None] ** 2
    return (across + ((ys - middle[:, 1:]) / half[:, 1:])[:, :, None] ** 2 < 1).byte()


@pytest.mark.parametrize("counts", [[2, 3], [2, 0], [0, 0]])
@pytest.mark.parametrize("network", FAMILY)
def test_losses_and_gradients_are_those_of_torchvision(
    network: str, small: Callable, known: Callable, counts: list[int]
) -> None:
    net, (images, targets) = small(network), known(counts)
    losses = assert_equal_steps(net, of_torchvision(network, net), images, targets)
    closer = {"loss_mask", "loss_keypoint"} & losses.keys()
    assert len(losses) == 4 + len(closer) and len(closer) == len(detector.facts(network).get("finds", ()))
    assert sum(counts) == 0 or (all(losses[name] > 0.1 for name in closer) and losses["loss_box_reg"] > 0)


@pytest.mark.parametrize("network", FAMILY)
def test_detections_are_those_of_torchvision(network: str, small: Callable, scenes: Callable) -> None:
    images, _ = scenes([2, 3], classes=CLASSES)
    net = small(network)
    theirs = of_torchvision(network, net, min_size=112).eval()(unpadded(images))  # of that size, nothing is resized
    for ours, other in zip(net.eval().detect(images), theirs, strict=True):
        mine, same = pairs_of_same(ours, other, first_label=1)
        if "masks" in other:
            torch.testing.assert_close(ours["masks"][mine], other["masks"][same, 0], rtol=1e-3, atol=1e-3)
            assert ours["masks"].shape[1:] == (28, 28) and ours["masks"].std() > 0.02, "masks differ"
        if "keypoints" in other:
            assert ours["keypoints"].shape[1:] == (POINTS, 3)
            torch.testing.assert_close(
                ours["keypoints"][mine, :, 2], other["keypoints_scores"][same], rtol=1e-3, atol=1e-3
            )
            apart = (ours["keypoints"][mine, :, :2] - other["keypoints"][same, :, :2]).abs().amax(2)
            assert (apart < 1e-2).float().mean() > 0.95, "a heatmap with two equal peaks may give either"


def test_objects_without_a_visible_keypoint_teach_boxes_alone(small: Callable, known: Callable) -> None:
    """And still every parameter gets a gradient, for which other processes wait."""
    net, (images, targets) = small("keypoint_rcnn"), known([2, 1])
    for target in targets:
        target["keypoints"] = torch.zeros_like(target["keypoints"])
    losses = assert_equal_steps(net, of_torchvision("keypoint_rcnn", net), images, targets)
    assert losses["loss_keypoint"] == 0 and losses["loss_box_reg"] > 0
    torch.stack(list(net(images, targets).values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("network", "classes", "published"),
    [
        ("mask_rcnn", 90, maskrcnn_resnet50_fpn),
        ("keypoint_rcnn", 1, keypointrcnn_resnet50_fpn),
        ("faster_rcnn_v2", 90, fasterrcnn_resnet50_fpn_v2),
        ("mask_rcnn_v2", 90, maskrcnn_resnet50_fpn_v2),
    ],
)
def test_the_published_model_has_the_same_weights_by_the_same_names(
    network: str, classes: int, published: Callable[..., Any]
) -> None:
    """So its checkpoints load: 44 million numbers in heads of 91 classes, 59 million of 17 keypoints of one class."""
    with torch.device("meta"):
        ours: Any = detector.build(network, backbone.build("resnet50"), classes)
        theirs = published(weights=None, weights_backbone=None)
    for mine, part in (
        (ours.rpn, theirs.rpn),
        (ours.roi_heads, theirs.roi_heads),
        (ours.neck.fpn, theirs.backbone.fpn),
    ):
        own, other = mine.state_dict(), part.state_dict()
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("network", "field", "shape"), [("mask_rcnn", "masks", (28, 28)), ("keypoint_rcnn", "keypoints", (POINTS, 3))]
)
def test_nothing_found_has_no_masks_and_no_keypoints(
    network: str, field: str, shape: tuple[int, int], small: Callable, scenes: Callable
) -> None:
    net = small(network)
    net.roi_heads.score_thresh = 1.0
    for found in net.eval().detect(scenes([1, 1], classes=CLASSES)[0]):
        assert found[field].shape == (0, *shape)


def test_anchors_are_eight_strides_wide_at_every_level(small: Callable) -> None:
    assert small("faster_rcnn").rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))


@pytest.mark.parametrize("network", FAMILY)
def test_nothing_is_cut_from_the_pooled_level(network: str, small: Callable) -> None:
    heads = small(network).roi_heads
    pools = [heads.box_roi_pool, heads.mask_roi_pool, heads.keypoint_roi_pool]
    assert all(pool.featmap_names == ["0", "1", "2", "3"] for pool in pools if pool is not None)


def test_heads_of_vitdet_are_those_of_the_paper() -> None:
    """Two convolutions propose; four, normalized over channels and without bias, and one layer look at a box."""
    with torch.device("meta"):
        net: Any = detector.build("vitdet", backbone.build("vit_det_m16_rms"), 80)
    assert isinstance(net.neck, SimpleFPN) and [info.stride for info in net.neck.maps] == [4, 8, 16, 32, 64]
    assert len(net.rpn.head.conv) == 2
    *convs, flatten, layer, _ = net.roi_heads.box_head
    assert len(convs) == 4 and isinstance(flatten, nn.Flatten) and layer.out_features == 1024
    for conv, norm, _ in convs:
        assert conv.bias is None and isinstance(norm, type(channel_norm(8)))


def test_a_backbone_with_a_pyramid_of_its_own_keeps_it(tiny_backbone: Callable[..., Any]) -> None:
    net: Any = detector.build("vitdet", tiny_backbone(), CLASSES, **SMALL)
    assert isinstance(net.neck, FPN) and net.used_maps == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["hieradet_small", "vit_det_m16_rms"])
def test_a_hiera_and_a_plain_vit_carry_masks(name: str) -> None:
    with torch.device("meta"):
        net: Any = detector.build("mask_rcnn", backbone.build(name), CLASSES)
    assert [info.stride for info in net.neck.maps] == [4, 8, 16, 32, 64]


@pytest.mark.parametrize("network", FAMILY)
def test_common_options_reach_their_place(network: str, tiny_backbone: Callable[..., Any]) -> None:
    told = {"min_score": 0.2, "nms_iou": 0.4, "max_detections": 7, "rpn_min_score": 0.1, "rpn_proposals": 9}
    net: Any = detector.build(network, tiny_backbone(), CLASSES, width=32, hidden=48, **told)
    heads = net.roi_heads
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.2, 0.4, 7)
    assert net.rpn.score_thresh == 0.1 and net.rpn._post_nms_top_n["testing"] == 9
    assert heads.box_predictor.cls_score.out_features == CLASSES + 1
    assert heads.box_predictor.cls_score.in_features == 48


def test_own_options_reach_their_place(tiny_backbone: Callable[..., Any]) -> None:
    def heads(network: str, **told: Any) -> Any:
        return detector.build(network, tiny_backbone(), CLASSES, **SMALL, **told).roi_heads  # type: ignore[attr-defined]

    masks = heads("mask_rcnn", mask_width=16, mask_depth=2)
    assert len(masks.mask_head) == 2 and masks.mask_predictor.conv5_mask.in_channels == 16
    assert masks.mask_predictor.mask_fcn_logits.out_channels == CLASSES + 1
    points = heads("keypoint_rcnn", num_keypoints=3, keypoint_width=16, keypoint_depth=2)
    assert len(points.keypoint_head) == 4, "two convolutions, each with its rectifier"
    assert points.keypoint_predictor.kps_score_lowres.weight.shape[:2] == (16, 3)
    for network in ("vitdet", "vitdet_mask", "faster_rcnn_v2", "mask_rcnn_v2"):
        box_head = heads(network, depth=2).box_head
        assert sum(isinstance(m, nn.Conv2d) for m in box_head.modules()) == 2
    assert len(heads("vitdet_mask", depth=2).mask_head) == 2
    assert len(heads("mask_rcnn_v2", mask_depth=3).mask_head) == 3


@pytest.mark.parametrize("network", ["faster_rcnn_v2", "mask_rcnn_v2"])
def test_images_without_objects_leave_statistics_of_batch_norm_finite(
    network: str, tiny_backbone: Callable[..., Any], known: Callable
) -> None:
    """The mask head then has nothing to look at."""
    net: Any = detector.build(network, tiny_backbone(), CLASSES, **SMALL, **OWN.get(network, {})).train()
    images, targets = known([0, 0])
    torch.stack(list(net(images, targets).values())).sum().backward()
    assert all(x.isfinite().all() for x in net.state_dict().values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
