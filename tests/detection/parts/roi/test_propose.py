"""Proposals of a batch are those of torchvision for each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import nms

from detection.nets import detector
from detection.parts.roi.propose import NONE, best_of_groups, propose
from detection.parts.roi.rcnn import by_name, predict


@pytest.mark.parametrize("told", [{}, {"rpn_all_sizes": True}, {"rpn_min_score": 0.5, "rpn_proposals": 40}])
def test_proposals_are_those_of_torchvision(told: dict, tiny_backbone: Callable[..., Any], scenes: Callable) -> None:
    """In any order of equal scores."""
    net: Any = detector.build("faster_rcnn", tiny_backbone(), 3, width=32, hidden=64, **told).eval()
    nn.init.normal_(net.rpn.head.cls_logits.weight, std=4.0)
    nn.init.normal_(net.rpn.head.bbox_pred.weight, std=0.2)
    images, _ = scenes([1, 1, 1])
    with torch.no_grad():
        maps = net.maps(images)
        boxes, scores = propose(net.rpn, *predict(net.rpn, maps, images), images.sizes)
        theirs, _ = net.rpn(ImageList(images.pixels, images.sizes), by_name(maps))
    for mine, score, other in zip(boxes, scores, theirs, strict=True):
        assert len(other) > 20 and (score != NONE).sum() == len(other)
        apart = torch.cdist(mine[: len(other)], other, compute_mode="donot_use_mm_for_euclid_dist")
        assert apart.amin(0).max() < 1e-2 and apart.amin(1).max() < 1e-2
        assert (score.diff() <= 0).all(), "best first"


def test_nms_of_a_group_knows_nothing_of_the_others() -> None:
    corner = torch.rand(3, 40, 2) * 30
    boxes, scores = torch.cat((corner, corner + 12), 2), torch.rand(3, 40)
    kept = best_of_groups(boxes, scores, 0.4)
    assert 0 < kept.sum() < kept.numel()
    for group in range(3):
        assert kept[group].nonzero()[:, 0].tolist() == sorted(nms(boxes[group], scores[group], 0.4).tolist())
