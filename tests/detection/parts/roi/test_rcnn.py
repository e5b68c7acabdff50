"""The first stage as torchvision's builders set it, and losses where nothing is proposed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.image_list import ImageList

from backbones.base import MapInfo
from detection.nets.rcnn import RCNN
from detection.parts.roi.rcnn import box_losses, build_rpn

MOBILE = [MapInfo(256, 32), MapInfo(256, 32), MapInfo(256, 64)]  # two maps of one stride, and the pooled one


def test_proposals_are_those_of_torchvisions_mobile_builder() -> None:
    """Five sizes on each of three levels, a least score, 150 boxes before suppression and after."""
    theirs: Any = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).rpn.eval()
    ours = build_rpn(MOBILE, all_sizes=True, min_score=0.05, candidates=150, proposals=150).eval()
    for layer in (theirs.head.cls_logits, theirs.head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    images = ImageList(torch.zeros(2, 3, 320, 416), [(320, 416), (288, 400)])
    maps = [torch.randn(2, 256, 320 // info.stride, 416 // info.stride) for info in MOBILE]
    features = OrderedDict(zip("012", maps, strict=True))
    with torch.no_grad():
        (mine, _), (other, _) = ours(images, features), theirs(images, features)
    assert [len(boxes) for boxes in mine] == [150, 150]
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b)


def test_proposals_that_score_less_are_left_out(tiny_backbone: Callable[..., Any], scenes: Callable) -> None:
    """And where all do and no image has an object, the second stage loses nothing."""
    net = RCNN(tiny_backbone(), 3, width=32, hidden=48, rpn_min_score=0.999)
    images, targets = scenes([0, 0])
    losses = net(images, targets)
    assert losses["loss_classifier"] == losses["loss_box_reg"] == 0 and losses["loss_objectness"] > 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(len(found["boxes"]) == 0 for found in net.eval().detect(images))


def test_options_of_the_first_stage_reach_their_place(tiny_backbone: Callable[..., Any]) -> None:
    told: dict[str, Any] = {"rpn_min_score": 0.05, "rpn_candidates": 300, "rpn_proposals": 150, "rpn_all_sizes": True}
    rpn: Any = RCNN(tiny_backbone(), 3, width=32, hidden=48, **told).rpn
    assert rpn._pre_nms_top_n == {"training": 2000, "testing": 300}
    assert rpn._post_nms_top_n == {"training": 2000, "testing": 150}
    assert rpn.score_thresh == 0.05 and rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),) * 5
    assert rpn.head.cls_logits.out_channels == 15


def test_a_box_is_corrected_by_the_layer_of_its_class() -> None:
    moved = torch.zeros(2, 3, 4)
    moved[1, 2] = torch.tensor([0.5, 0.0, 0.0, 0.0])
    labels, offsets = torch.tensor([0, 2]), torch.zeros(2, 4)
    found = box_losses(torch.zeros(2, 3), moved.flatten(1), labels, offsets[1:], torch.tensor([1]))
    assert torch.isclose(found["loss_box_reg"], torch.tensor((0.5 - 0.5 / 9) / 2))
    assert torch.isclose(found["loss_classifier"], torch.tensor(3.0).log())
