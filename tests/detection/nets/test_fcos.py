"""FCOS: losses, targets and detections are those of torchvision's own FCOS with the same weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection import fcos as reference

from detection.nets.fcos import FCOS, Places, boxes_at, centerness_of
from detection.parts.dense.objects import padded
from detection.types import Images, Target
from shared.errors import UsageError
from tests.detection.nets.same_detections import pairs_of_same

CLASSES = 3


class Pyramid(nn.Module):
    """Our backbone and neck as torchvision wants them."""

    def __init__(self, net: FCOS, width: int) -> None:
        super().__init__()
        self.net, self.out_channels = net, width

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.net.neck(self.net.backbone.forward_features(x))
        return OrderedDict((str(i), level) for i, level in enumerate(maps))


def of_torchvision(net: FCOS, **told: Any) -> reference.FCOS:
    """torchvision's FCOS with our backbone, neck and head in it: one set of weights."""
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}
    return reference.FCOS(Pyramid(net, 32), CLASSES, head=net.head, **plain, **told)


@pytest.fixture
def net(tiny_backbone: Callable[..., Any]) -> FCOS:
    """Small, and with last layers loud enough that every loss and score differs from place to place."""
    net = FCOS(tiny_backbone(), CLASSES, width=64, depth=2)
    for head in (net.head.classification_head.cls_logits, net.head.regression_head.bbox_reg):
        nn.init.normal_(head.weight, std=0.1)
    nn.init.constant_(net.head.regression_head.bbox_reg.bias, 3.0)
    return net.eval()  # batch norm holds still, so that two passes are one


def unpadded(images: Images) -> list[Tensor]:
    return [pixels[:, :h, :w] for pixels, (h, w) in zip(images.pixels, images.sizes, strict=True)]


@pytest.mark.parametrize("seed", range(8))
def test_every_side_has_a_gradient_at_the_start(tiny_backbone: Callable[..., Any], scenes: Callable, seed: int) -> None:
    """As with exp(0) = 1 of the paper; with torchvision's bias of 0 it is half of them, and all four in few places."""
    torch.manual_seed(seed)
    net = FCOS(tiny_backbone(), CLASSES, width=64, depth=1).train()
    images, _ = scenes([2, 3], size=256, classes=CLASSES, seed=seed)
    _, levels, _ = net.predict(images.pixels)
    assert (torch.cat(levels, 1)[..., :4] > 0).float().mean() > 0.9


@pytest.mark.parametrize("counts", [[3, 5, 1], [4, 0, 2], [0, 0, 0]])
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_are_those_of_torchvision(net: FCOS, scenes: Callable, counts: list[int], seed: int) -> None:
    images, targets = scenes(counts, size=256, classes=CLASSES, seed=seed, smallest=0.05)
    losses = net(images, targets)
    other = of_torchvision(net).train()
    net.eval()
    theirs = other(unpadded(images), [dict(target) for target in targets])
    pairs = {"classification": "classification", "boxes": "bbox_regression", "centerness": "bbox_ctrness"}
    assert losses.keys() == pairs.keys() and theirs.keys() == set(pairs.values())
    for ours, name in pairs.items():
        torch.testing.assert_close(losses[ours], theirs[name], rtol=1e-4, atol=1e-5)
    assert sum(counts) == 0 or losses["boxes"] > 0.1, "some place answers for a box"


def test_gradients_are_those_of_torchvision(net: FCOS, scenes: Callable) -> None:
    images, targets = scenes([3, 2], size=256, classes=CLASSES, smallest=0.05)
    other = of_torchvision(net).train()
    net.eval()
    gradients = []
    for losses in (net(images, targets), other(unpadded(images), [dict(target) for target in targets])):
        net.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in net.named_parameters()})
    for name, ours in gradients[0].items():
        torch.testing.assert_close(ours, gradients[1][name], rtol=1e-3, atol=1e-5)


def test_detections_are_those_of_torchvision(net: FCOS, scenes: Callable) -> None:
    images, _ = scenes([2, 3], size=128, classes=CLASSES)
    net.min_score = 0.02
    told = {"score_thresh": 0.02, "nms_thresh": net.nms_iou, "min_size": 112}  # of that size, nothing is resized
    theirs = of_torchvision(net, **told).eval()(unpadded(images))
    for ours, other in zip(net.detect(images), theirs, strict=True):
        pairs_of_same(ours, other)


sides = st.floats(2, 80)


@settings(max_examples=20)
@given(boxes=st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60), sides, sides), min_size=1, max_size=4))
def test_a_place_answers_for_the_smallest_box_that_suits_it(boxes: list, tiny_backbone: Callable[..., Any]) -> None:
    """The paper's rule, one place and one box at a time."""
    net = FCOS(tiny_backbone(), CLASSES, width=64, depth=1)
    places = net.places([torch.Size((n, n)) for n in (8, 4, 2, 1, 1)], torch.zeros(1, 3, 64, 64))
    corners = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes])
    areas = (corners[:, 2:] - corners[:, :2]).prod(1)
    (labels,), (answers,) = net.assign(padded([Target(boxes=corners, labels=torch.arange(len(boxes)))]), places)
    for p, label in enumerate(labels.tolist()):
        suited = [n for n, box in enumerate(corners) if suits(places, p, box)]
        if suited:
            assert label in suited and torch.equal(answers[p], corners[label])
            assert areas[label] == areas[suited].min()
        else:
            assert label == -1


def suits(places: Places, p: int, box: Tensor) -> bool:
    """Is this place inside the box, near its middle, and of a level that is for boxes of this size?"""
    (x, y), stride = places.centers[p], places.strides[p]
    sides = torch.stack((x - box[0], y - box[1], box[2] - x, box[3] - y))
    near = max(abs((box[0] + box[2]) / 2 - x), abs((box[1] + box[3]) / 2 - y)) < 1.5 * stride
    return bool(sides.min() > 0 and near and places.low[p] < sides.max() < places.high[p])


def test_levels_share_out_every_size(net: FCOS) -> None:
    places = net.places([torch.Size((s, s)) for s in (16, 8, 4, 2, 1)], torch.zeros(1, 3, 128, 128))
    starts = [0, *torch.tensor(places.counts).cumsum(0).tolist()[:-1]]
    assert places.strides[starts].tolist() == [8, 16, 32, 64, 128]
    assert places.low[starts].tolist() == [0, 64, 128, 256, 512]
    assert places.high[starts].tolist() == [64, 128, 256, 512, float("inf")]
    assert places.centers[:3].tolist() == [[0, 0], [8, 0], [16, 0]]


def test_centerness_is_one_in_the_middle_and_nothing_on_the_border() -> None:
    box = torch.tensor([[0.0, 0.0, 8.0, 4.0]]).expand(4, 4)
    places = torch.tensor([[4.0, 2.0], [0.0, 2.0], [2.0, 2.0], [2.0, 1.0]])
    expected = [1.0, 0.0, (2 / 6) ** 0.5, (2 / 6 * 1 / 3) ** 0.5]
    assert centerness_of(box, places).tolist() == pytest.approx(expected)


def test_sides_around_a_place_are_a_box() -> None:
    assert boxes_at(torch.tensor([[10.0, 20.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[9, 18, 13, 24]]


def test_width_that_its_towers_cannot_take_is_refused(tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="width is 40; .*give a multiple of 64"):
        FCOS(tiny_backbone(), CLASSES, width=40)
