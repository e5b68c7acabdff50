"""Deformable DETR: outputs, losses and gradients in all its forms are those of transformers' with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.loss.loss_deformable_detr import DeformableDetrForObjectDetectionLoss

from backbones import backbone
from backbones.base import MapInfo
from detection.nets import detector
from detection.nets.deformable_detr import DeformableDETR, Levels, Proposed
from detection.parts.query.position import extent
from detection.types import Images, Target
from shared.errors import UsageError
from shared.loop.optim import parameter_scales
from tests.detection.nets.of_transformers import (
    as_theirs,
    as_they_want,
    deformable_detr_of_transformers,
    own_parameters,
)

CLASSES = 3
RESNET_50 = 23_454_912  # parameters of its convolutions
SMALL: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "points": 3,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "feedforward": 48,
    "num_queries": 9,
}
FORMS = [{}, {"refine_boxes": True}, {"two_stage": True}]
each_form = pytest.mark.parametrize("form", FORMS, ids=["single", "boxref", "two stages"])


@pytest.fixture
def build(tiny_backbone: Callable[..., Any]) -> Callable[..., DeformableDETR]:
    """Small, with every parameter off its start, so that none can be left out unseen."""

    def make(**told: Any) -> DeformableDETR:
        net = DeformableDETR(tiny_backbone(), CLASSES, **(SMALL | told))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return net.eval()  # neither batch norm nor dropout moves

    return make


def of_different_sizes(scenes: Callable, counts: list[int]) -> tuple[Images, list[Target]]:
    """Their stride-64 maps have 2x3 places of 96x160 pixels, which divide nothing evenly."""
    images, targets = scenes(counts, size=160, classes=CLASSES, smallest=0.1)
    sizes = [(96, 150), (70, 100), (33, 160)][: len(counts)]
    for target, (height, width) in zip(targets, sizes, strict=True):
        target["boxes"] = target["boxes"] * torch.tensor([width / 144, height / 160] * 2)
    return Images(images.pixels[:, :, :96], sizes), targets


@each_form
def test_logits_and_boxes_of_padded_images_are_those_of_transformers(
    build: Callable[..., DeformableDETR], scenes: Callable, form: dict[str, bool]
) -> None:
    images, targets = of_different_sizes(scenes, [2, 1, 1])
    net = build(**form)
    theirs: Any = deformable_detr_of_transformers(net, CLASSES)
    logits, boxes, proposals = net.predict(images)
    out = theirs(**(as_they_want(images, targets) | {"labels": None}))
    torch.testing.assert_close(logits[-1], out.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(boxes[-1], out.pred_boxes, rtol=1e-4, atol=1e-5)
    assert boxes[-1].std(1).min() > 1e-3, "queries differ"
    assert (proposals is not None) == form.get("two_stage", False)
    if proposals is not None:
        torch.testing.assert_close(proposals.logits, out.enc_outputs_class, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(proposals.boxes, out.enc_outputs_coord_logits, rtol=1e-4, atol=1e-4)
        assert proposals.boxes.isfinite().any() and not proposals.boxes.isfinite().all()


@each_form
@pytest.mark.parametrize("counts", [[3, 1, 2], [2, 0, 1]], ids=str)
def test_losses_and_gradients_are_those_of_transformers(
    build: Callable[..., DeformableDETR], scenes: Callable, form: dict[str, bool], counts: list[int]
) -> None:
    """With its weights of classes, 1, where the paper has 2, and with proposals judged as the paper does."""
    images, targets = of_different_sizes(scenes, counts)
    net = build(**form, class_cost=1.0, class_weight=1.0)
    theirs: Any = deformable_detr_of_transformers(net, CLASSES, auxiliary_loss=True)
    batch = as_they_want(images, targets)
    out = theirs(**batch)
    expected = out.loss.squeeze()
    if "two_stage" in form:
        theirs.config.auxiliary_loss = False
        objects = [one | {"class_labels": torch.zeros_like(one["class_labels"])} for one in batch["labels"]]
        proposed = (out.enc_outputs_class, objects, "cpu", out.enc_outputs_coord_logits.sigmoid(), theirs.config)
        expected = expected + DeformableDetrForObjectDetectionLoss(*proposed)[0].squeeze()
    losses = net(images, targets)
    assert len(losses) == (12 if "two_stage" in form else 9)
    total = torch.stack(list(losses.values())).sum()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)
    total.backward()
    ours = {name: parameter.grad for name, parameter in net.named_parameters()}
    net.zero_grad()
    expected.backward()
    wanted: dict[int, tuple[Tensor, Tensor]] = {}
    for name, parameter in own_parameters(theirs).items():
        if parameter.grad is not None:  # heads that are one of ours may be several of theirs
            mine = as_theirs(name, ours)
            _, before = wanted.get(mine.data_ptr(), (mine, torch.zeros_like(mine)))
            wanted[mine.data_ptr()] = (mine, before + parameter.grad)
    assert len(wanted) > 100
    for mine, gradient in wanted.values():
        torch.testing.assert_close(mine, gradient, rtol=1e-3, atol=1e-4)
    for name, parameter in net.backbone.named_parameters():
        torch.testing.assert_close(ours[f"backbone.{name}"], parameter.grad, rtol=1e-3, atol=1e-4)


def test_boxref_is_the_same_network_with_refinement(build: Callable[..., DeformableDETR], tiny_backbone: Any) -> None:
    named = detector.build("deformable_detr_boxref", tiny_backbone(), CLASSES, **SMALL)
    named.load_state_dict(build(refine_boxes=True).state_dict())
    assert isinstance(named, DeformableDETR) and named.refine
    assert len(named.class_head()) == SMALL["decoder_layers"]
    assert detector.options("deformable_detr_boxref").keys() == detector.options("deformable_detr").keys()


def test_gradients_of_a_layer_stop_at_the_references_it_is_given(
    build: Callable[..., DeformableDETR], scenes: Callable
) -> None:
    images, _ = of_different_sizes(scenes, [1])
    net = build(refine_boxes=True)
    _, boxes, _ = net.predict(images)
    boxes[-1].sum().backward()
    reached = [bool(head[-1].weight.grad.any()) for head in net.locate]  # type: ignore[index]
    assert reached == [False, False, True]


def test_parameters_are_as_many_as_the_papers() -> None:
    """In transformers' single and two-stage forms: 40.1 and 41.2 million."""
    counts = {}
    for name, form in {"single": {}, "two stages": {"two_stage": True}}.items():
        with torch.device("meta"):
            net = DeformableDETR(Maps(), 91, **form)  # type: ignore[arg-type]
        counts[name] = sum(p.numel() for p in net.parameters()) + RESNET_50
    assert counts == {"single": 40_069_665, "two stages": 41_181_529}


class Maps(nn.Module):
    """A backbone that says what it is told, a ResNet-50 if nothing else, and is nothing."""

    def __init__(self, strides: tuple[int, ...] = (4, 8, 16, 32)) -> None:
        super().__init__()
        self.maps = tuple(MapInfo(64 * k, k) for k in strides)


@pytest.mark.parametrize(
    ("strides", "told", "sides"),
    [
        ((4, 8, 16, 32), {"count": 4, "finest": 8}, [16, 8, 4, 2]),
        ((4, 8, 16, 32), {"count": 4, "finest": 4}, [32, 16, 8, 4]),
        ((4, 8, 16, 32), {"count": 5, "finest": 4}, [32, 16, 8, 4, 2]),
        ((4, 8, 16, 32), {"count": 2, "finest": 8}, [8, 4]),
        ((4, 8, 16, 32), {"count": 1, "finest": 8}, [4]),
        ((16, 32), {"count": 4, "finest": 8}, [8, 4, 2, 1]),
        ((16,), {"count": 4, "finest": 8}, [16, 8, 4, 2]),
        ((16,), {"count": 4, "finest": 4}, [32, 16, 8, 4]),
        ((16,), {"count": 3, "finest": 4}, [16, 8, 4]),
        ((16,), {"count": 1, "finest": 8}, [8]),
        ((14,), {"count": 2, "finest": 8}, [9, 5]),
    ],
)
def test_levels_are_the_coarsest_maps_and_what_is_made_of_them(
    strides: tuple[int, ...], told: dict[str, int], sides: list[int]
) -> None:
    net = Maps(strides)
    levels = Levels(net, 32, **told)  # type: ignore[arg-type]
    maps = levels([torch.randn(2, info.channels, 128 // info.stride, 128 // info.stride) for info in net.maps])
    assert [level.shape for level in maps] == [(2, 32, side, side) for side in sides]
    torch.stack([level.square().mean() + level.sum() for level in maps]).sum().backward()
    assert all(parameter.grad is not None for parameter in levels.parameters())


def test_stride_64_is_made_of_the_backbones_own_coarsest_map() -> None:
    levels = Levels(Maps(), 32, 5, 8)  # type: ignore[arg-type]
    assert [layer[0].in_channels for layer in levels.levels] == [512, 1024, 2048, 2048, 32]  # type: ignore[index]


def test_backbone_without_a_map_in_between_is_refused() -> None:
    with pytest.raises(UsageError, match=r"map of stride 8 to 32; this backbone has strides \[64\], change"):
        Levels(Maps((64,)), 32, 4, 8)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="0 levels .*change --num-levels"):
        Levels(Maps(), 32, 0, 8)  # type: ignore[arg-type]


@each_form
def test_untrained_network_finds_every_class_rare_and_boxes_around_their_references(
    tiny_backbone: Callable[..., Any], scenes: Callable, form: dict[str, bool]
) -> None:
    images, _ = of_different_sizes(scenes, [1, 1])
    net = DeformableDETR(tiny_backbone(), CLASSES, **SMALL, **form).eval()
    logits, boxes, _ = net.predict(images)
    assert 0.002 < float(logits.sigmoid().mean()) < 0.05
    maps = net.levels(net.backbone.forward_features(images.pixels))
    memory = net.encode(maps, extent(images, maps))
    if isinstance(net.start, Proposed):
        start = net.start(memory, net.classify[-1], net.locate[-1], net.num_queries)
        assert start.references.shape[-1] == 4
    else:
        start = net.start(memory)
        torch.testing.assert_close(boxes[0][..., 2:], torch.full_like(boxes[0][..., 2:], -2.0).sigmoid())
    known = start.references.shape[-1]
    torch.testing.assert_close(boxes[0][..., :known], start.references, rtol=1e-3, atol=2e-5)


def test_slow_layers_say_so(build: Callable[..., DeformableDETR]) -> None:
    """Reference points and sampling offsets learn at a tenth of the rate, as the paper's do."""
    net = build()
    scales, names = parameter_scales(net), {id(p): name for name, p in net.named_parameters()}
    slow = {names[key] for key, scale in scales.items() if scale == 0.1}
    assert {name.split(".")[-2] for name in slow} == {"references", "sampling_offsets"}
    assert len(slow) == 2 * (1 + SMALL["encoder_layers"] + SMALL["decoder_layers"])


def test_best_pairs_of_query_and_class_are_detected(build: Callable[..., DeformableDETR], scenes: Callable) -> None:
    images, _ = of_different_sizes(scenes, [1, 1])
    net = build()
    scores = net.predict(images)[0][-1].sigmoid().flatten(1).sort(descending=True).values
    for found, own in zip(net.detect(images), scores, strict=True):
        assert len(own) == SMALL["num_queries"] * CLASSES < net.max_detections
        torch.testing.assert_close(found["scores"], own)
        assert found["boxes"].shape == (len(own), 4)
    net.max_detections, net.min_score = 5, float(scores[0, 2])
    kept = [found["scores"] for found in net.detect(images)]
    torch.testing.assert_close(kept[0], scores[0, :3])
    torch.testing.assert_close(kept[1], scores[1, :5][scores[1, :5] >= net.min_score])


def test_two_stages_ask_no_more_queries_than_there_are_places(
    build: Callable[..., DeformableDETR], scenes: Callable
) -> None:
    images, targets = scenes([1], size=32, classes=CLASSES)
    net = build(two_stage=True, num_queries=100)
    assert all(loss.isfinite() for loss in net(images, targets).values())
    assert len(net.predict(images)[1][-1][0]) == 16 + 4 + 1 + 1


@pytest.mark.parametrize("form", FORMS, ids=["single", "boxref", "two stages"])
def test_plain_vision_transformer_serves(scenes: Callable, form: dict[str, bool]) -> None:
    net = DeformableDETR(backbone.build("test_vit"), CLASSES, **SMALL, **form)
    images, targets = scenes([2, 0], classes=CLASSES)
    losses: dict[str, Tensor] = net(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None for name, parameter in net.named_parameters() if "backbone" not in name)
