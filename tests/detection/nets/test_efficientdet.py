"""EfficientDet: scores, boxes, anchors, losses, gradients and detections are those of effdet with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import effdet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import box_iou

from backbones import backbone
from detection.nets import detector
from detection.nets.efficientdet import COMPOUND, EfficientDet
from detection.parts.dense.focal import IGNORED, NOTHING
from detection.parts.dense.objects import padded
from detection.types import Images, Target
from shared.errors import UsageError
from tests.detection.nets.same_detections import pairs_of_same

CLASSES, HEIGHT, WIDTH = 5, 128, 256


def pair(name: str, *, channels: int) -> tuple[Any, Any]:
    """Ours, and effdet's with our weights in it, both in eval mode."""
    ours: Any = detector.build(name, backbone.build("efficientnet_v1_b0"), CLASSES, width=channels)
    config = effdet.get_efficientdet_config("tf_" + name)
    config.update(backbone_name="efficientnet_b0", fpn_channels=channels, image_size=(HEIGHT, WIDTH))
    config.update(num_classes=CLASSES, pad_type="", redundant_bias=False)
    theirs = effdet.DetBenchTrain(effdet.EfficientDet(config, pretrained_backbone=False))
    for layer in ours.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as if they had seen something
            layer.running_mean = 0.1 * torch.randn(layer.num_features)
            layer.running_var = 0.5 + torch.rand(layer.num_features)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    for mix in ours.neck.modules():
        if getattr(mix, "weights", None) is not None:
            nn.init.uniform_(mix.weights, -0.2, 1.0)
    nn.init.normal_(ours.class_net.last[1].weight, std=0.5)  # loud enough that scores differ from place to place
    nn.init.normal_(ours.class_net.last[1].bias, mean=-2, std=0.5)
    nn.init.normal_(ours.box_net.last[1].weight, std=0.05)
    missing, _ = theirs.model.backbone.load_state_dict(ours.backbone.net.state_dict(), strict=False)
    assert not missing
    state = dict(renamed(ours))
    assert state.keys() == {k for k in theirs.model.state_dict() if not k.startswith("backbone.")}
    theirs.model.load_state_dict(state, strict=False)
    return ours.eval(), theirs.eval()


def renamed(net: Any) -> Any:
    """(effdet's name, tensor) of everything of ours that stands on the backbone."""
    for name, tensor in net.neck.top.state_dict().items():
        yield "fpn.resample.3." + projected(name), tensor
    for c, cell in enumerate(net.neck.cells):
        for levels, mixes, first in ((3, 2, 1, 0), cell.down, 0), ((0, 1, 2, 3), cell.up, 4):
            ways = cell.before_up if first else cell.before_down
            for n, level in enumerate(levels):
                node = f"fpn.cell.{c}.fnode.{first + n}."
                for name, tensor in ways[level].state_dict().items():
                    yield f"{node}combine.resample.{level + bool(first)}." + projected(name), tensor
                for name, tensor in mixes[level].state_dict().items():
                    usual = {"weights": "combine.edge_weights", "norm": "after_combine.conv.bn"}
                    yield node + separated(name, "after_combine.conv.", usual), tensor
    for whose in ("class_net", "box_net"):
        tower: Any = getattr(net, whose)
        for name, tensor in tower.state_dict().items():
            kind, *rest = name.split(".")
            if kind == "norms":
                yield f"{whose}.bn_rep.{rest[0]}.{rest[1]}.bn.{rest[2]}", tensor
            elif kind == "convs":
                yield f"{whose}.conv_rep.{rest[0]}." + separated("conv." + ".".join(rest[1:]), ""), tensor
            else:
                made = tensor if whose == "class_net" or rest[0] == "0" else y_before_x(tensor)
                yield f"{whose}.predict." + separated("conv." + ".".join(rest), ""), made


def projected(name: str) -> str:
    return name.replace("0.", "conv.conv.", 1) if name.startswith("0.") else name.replace("1.", "conv.bn.", 1)


def separated(name: str, before: str, usual: dict[str, str] | None = None) -> str:
    kind, *rest = name.split(".")
    if kind != "conv":
        return ".".join([(usual or {})[kind], *rest])
    return before + ".".join([("conv_dw", "conv_pw")[int(rest[0])], *rest[1:]])


def y_before_x(numbers: Tensor) -> Tensor:
    """effdet says y x h w where we say x y w h; it is its own inverse."""
    return numbers.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def flat(maps: list[Tensor], out: int) -> Tensor:
    return torch.cat([m.permute(0, 2, 3, 1).reshape(len(m), -1, out) for m in maps], 1)


def objects(*counts: int, seed: int = 0) -> list[Target]:
    rng = torch.Generator().manual_seed(seed)
    targets = []
    for count in counts:
        sides = 12 + 100 * torch.rand(count, 2, generator=rng) ** 2
        corner = torch.rand(count, 2, generator=rng) * (torch.tensor([WIDTH, HEIGHT]) - sides)
        labels = torch.randint(CLASSES, (count,), generator=rng)
        targets.append(Target(boxes=torch.cat((corner, corner + sides), 1), labels=labels))
    return targets


def as_effdet(targets: list[Target]) -> dict[str, Any]:
    """Its boxes are y x y x, its classes count from one."""
    return {
        "bbox": [target["boxes"][:, [1, 0, 3, 2]] for target in targets],
        "cls": [target["labels"] + 1 for target in targets],
        "img_scale": torch.ones(len(targets)),
        "img_size": torch.tensor([[WIDTH, HEIGHT]] * len(targets)),
    }


def images(count: int = 2) -> Images:
    return Images(torch.randn(count, 3, HEIGHT, WIDTH), [(HEIGHT, WIDTH)] * count)


@pytest.mark.parametrize(("name", "channels"), [("efficientdet_d0", 64), ("efficientdet_d7", 16)])
def test_scores_offsets_and_anchors_are_those_of_effdet(name: str, channels: int) -> None:
    """With weighted voices and with plain sums."""
    ours, theirs = pair(name, channels=channels)
    given = images()
    with torch.no_grad():
        scores, offsets, anchors = ours.predict(given.pixels)
        classes, boxes = theirs.model(given.pixels)
    torch.testing.assert_close(scores, flat(classes, CLASSES), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(offsets, flat(boxes, 4)[..., [1, 0, 3, 2]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(anchors, theirs.anchors.boxes[:, [1, 0, 3, 2]], rtol=1e-6, atol=1e-4)
    assert scores.std() > 0.1 and len(anchors) == 9 * sum(HEIGHT * WIDTH // 4**k for k in range(3, 8))


@pytest.mark.parametrize("counts", [(4, 7), (5, 0), (0, 0)])
def test_losses_are_those_of_effdet(counts: tuple[int, int]) -> None:
    ours, theirs = pair("efficientdet_d0", channels=16)
    given, targets = images(), objects(*counts)
    with torch.no_grad():
        losses = ours(given, targets)
        told = theirs(given.pixels, as_effdet(targets))
    torch.testing.assert_close(losses["classification"], told["class_loss"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["boxes"], 50 * told["box_loss"], rtol=1e-4, atol=1e-5)
    assert sum(counts) == 0 or losses["boxes"] > 0.1


def test_gradients_are_those_of_effdet() -> None:
    ours, theirs = pair("efficientdet_d0", channels=16)
    given, targets = images(), objects(3, 4)
    torch.stack(list(ours(given, targets).values())).sum().backward()
    theirs(given.pixels, as_effdet(targets))["loss"].backward()
    others = dict(theirs.model.named_parameters())
    own = {p.data_ptr(): p for p in ours.parameters()}
    compared = 0
    for name, tensor in renamed(ours):
        if name in others and tensor.data_ptr() in own:  # neither a statistic nor an output put in another order
            grad = own[tensor.data_ptr()].grad
            torch.testing.assert_close(grad, others[name].grad, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
            compared += 1
    assert compared > 100
    for name, weight in ours.backbone.net.named_parameters():
        if "backbone." + name in others:
            torch.testing.assert_close(weight.grad, others["backbone." + name].grad, rtol=1e-3, atol=1e-4)


def test_detections_are_those_of_effdet() -> None:
    ours, theirs = pair("efficientdet_d0", channels=16)
    given = images()
    with torch.no_grad():
        found = ours.detect(given)
        told = theirs(given.pixels, as_effdet(objects(1, 1)))["detections"]
    for mine, other in zip(found, told, strict=True):
        assert len(mine["scores"]) == 100
        known = {"boxes": other[:, :4], "scores": other[:, 4], "labels": other[:, 5].long()}
        pairs_of_same(mine, known, first_label=1)


@pytest.mark.parametrize(
    ("name", "body", "counted"), [("efficientdet_d0", "b0", 3_877_763), ("efficientdet_d3", "b3", 12_022_376)]
)
def test_parameters_are_as_many_as_effdet_has(name: str, body: str, counted: int) -> None:
    """The head convolution of the classifier, which no map reaches, is not counted; effdet cuts it off."""
    with torch.device("meta"):
        net: Any = detector.build(name, backbone.build(f"efficientnet_v1_{body}"), 90)
    unused = sum(p.numel() for part in (net.backbone.net.conv_head, net.backbone.net.bn2) for p in part.parameters())
    assert sum(p.numel() for p in net.parameters()) - unused == counted


@pytest.mark.parametrize("name", COMPOUND)
def test_each_size_is_the_one_effdet_tells(name: str) -> None:
    told = effdet.get_efficientdet_config("tf_" + name)
    with torch.device("meta"):
        net: Any = detector.build(name, backbone.build("test_resnet"), 3)
    assert detector.facts(name)["size"] == tuple(told.image_size)
    assert net.neck.maps[0].channels == told.fpn_channels and len(net.neck.cells) == told.fpn_cell_repeats
    assert len(net.class_net.convs) == len(net.box_net.convs) == told.box_class_repeats
    assert (net.neck.cells[0].up[0].weights is None) == (told.fpn_name == "bifpn_sum")
    assert net.anchor_scale == told.anchor_scale


def test_first_losses_are_small_because_every_class_starts_at_one_percent(tiny_backbone: Callable[..., Any]) -> None:
    """With ninety classes and no such start the classification loss would be in the thousands."""
    net = EfficientDet(tiny_backbone(), 90).eval()
    with torch.no_grad():
        losses = net(images(), objects(6, 6))
    assert losses["classification"] < 3 and losses["boxes"] < 20
    with torch.no_grad():
        scores, _, _ = net.predict(images().pixels)
    assert 0.005 < scores.sigmoid().mean() < 0.02


anchor_boxes = st.lists(
    st.tuples(*[st.floats(0, 96, width=32)] * 2, *[st.floats(4, 64, width=32)] * 2), min_size=1, max_size=6
)


@settings(max_examples=25)
@given(boxes=anchor_boxes, low=st.sampled_from([0.3, 0.5]))
def test_an_anchor_answers_for_the_box_it_overlaps_most_and_no_box_goes_without(boxes: list, low: float) -> None:
    """The labeler's rule, one anchor at a time."""
    net = EfficientDet(backbone.build("test_resnet"), 9, width=16, cells=1, depth=1, negative_iou=low)
    corners = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in boxes])
    anchors = torch.tensor(
        [[x, y, x + s, y + s] for s in (16.0, 40.0) for x in range(0, 96, 9) for y in range(0, 96, 9)]
    )
    (which,) = net.assign(padded([Target(boxes=corners, labels=torch.arange(len(boxes)))]), anchors)
    overlap = box_iou(corners, anchors)
    favorites: dict[int, int] = {}
    for n, row in enumerate(overlap):
        favorites.setdefault(int(row.argmax()), n)
    for p, label in enumerate(which.tolist()):
        best = float(overlap[:, p].max())
        if p in favorites:
            assert label == favorites[p]
        elif best >= 0.5:
            assert overlap[label, p] == best
        else:
            assert label == (IGNORED if best >= low else NOTHING)


def test_options_reach_their_place(tiny_backbone: Callable[..., Any]) -> None:
    told = {"min_score": 0.2, "nms_iou": 0.4, "max_detections": 7, "candidates": 50, "box_weight": 1.0}
    net = EfficientDet(tiny_backbone(), CLASSES, width=16, cells=2, depth=1, **told)
    assert all(getattr(net, option) == value for option, value in told.items())
    assert len(net.neck.cells) == 2 and len(net.class_net.convs) == 1
    nn.init.constant_(net.class_net.last_bias, 2.0)
    assert all(len(found["scores"]) == 7 for found in net.eval().detect(images()))


def test_a_batch_too_small_for_batch_norm_is_refused_and_one_of_two_is_not(tiny_backbone: Callable[..., Any]) -> None:
    net = EfficientDet(tiny_backbone(), CLASSES, width=16, cells=1, depth=1)
    one = Images(torch.randn(1, 3, 128, 128), [(128, 128)])
    with pytest.raises(UsageError, match="one image of 128 pixels .*; use larger images, or more than one"):
        net(one, objects(1))
    assert net.eval()(one, objects(1))["classification"].isfinite()
    two = Images(torch.randn(2, 3, 128, 128), [(128, 128)] * 2)
    assert net.train()(two, objects(1, 1))["classification"].isfinite()
