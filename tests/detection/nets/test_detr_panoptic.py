"""DETR with masks: logits, losses, gradients are those of transformers' DetrForSegmentation with the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.loss.loss_for_object_detection import ForSegmentationLoss

from backbones import backbone
from backbones.base import MapInfo
from backbones.freeze import keep_frozen_in_eval
from detection.nets import detector
from detection.nets.detr import DETR
from detection.parts.query.mask_queries import top_left
from detection.types import Images, Target
from shared.errors import UsageError
from tests.detection.nets.of_transformers import OurBackbone, as_theirs, as_they_want, common, stages

CLASSES = 3
SMALL: dict[str, Any] = {
    "width": 32,
    "heads": 8,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "feedforward": 48,
    "num_queries": 7,
}
RENAMED = [
    (r"^bbox_attention\.([qk])_proj", r"masks.\1"),
    (r"masks\.q\b", "masks.query"),
    (r"masks\.k\b", "masks.key"),
    (r"^mask_head\.conv1", "masks.first"),
    (r"^mask_head\.conv2", "masks.second"),
    (r"^mask_head\.fpn_stages\.(\d)\.fpn_adapter", r"masks.lateral.\1"),
    (r"^mask_head\.fpn_stages\.(\d)\.refine", r"masks.up.\1"),
    (r"^mask_head\.output_conv", "masks.mask"),
]


def called_here(name: str, ours: dict[str, Tensor]) -> Tensor:
    if name.startswith("detr."):
        return as_theirs(name.removeprefix("detr."), ours)
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return ours[name]


@pytest.fixture
def net(tiny_backbone: Callable[..., Any]) -> DETR:
    """Small, with every parameter off its start, so that none can be left out unseen."""
    built = DETR(tiny_backbone(), CLASSES, True, **SMALL)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        head: Any = built.masks
        head.query.weight.mul_(3)  # queries look at different places, and these count
        head.first.conv.weight[:, SMALL["width"] :].mul_(30)
    return built.eval()


def theirs_of(net: DETR) -> Any:
    from transformers import DetrConfig, DetrForSegmentation

    told = common(net, len(net.encoder), len(net.decoder))
    config = DetrConfig(backbone_config=stages(net.backbone.maps[-1].channels, 4), num_labels=CLASSES, **told)
    theirs: Any = DetrForSegmentation(config)
    theirs.detr.model.backbone = nn.Identity()
    ours = dict(net.named_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.copy_(called_here(name, ours))
    theirs.detr.model.backbone = OurBackbone(net)
    return theirs.eval()


def of_different_sizes(scenes: Callable, counts: list[int]) -> tuple[Images, list[Target]]:
    """Images of several sizes, and in each box an ellipse, which is its mask."""
    images, targets = scenes(counts, size=96, classes=CLASSES, smallest=0.1)
    sizes = [(96, 80), (70, 50), (33, 64)][: len(counts)]
    for target, (height, width) in zip(targets, sizes, strict=True):
        target["boxes"] = target["boxes"] * torch.tensor([width / 80, height / 96] * 2)
        rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
        low, high = target["boxes"].split(2, dim=1)
        middle, half = (low + high) / 2, (high - low) / 2
        away = ((columns - middle[:, :1, None]) / half[:, :1, None]) ** 2
        away = away + ((rows - middle[:, 1:, None]) / half[:, 1:, None]) ** 2
        target["masks"] = (away <= 1).to(torch.uint8)
    return Images(images.pixels, sizes), targets


def on_canvas(labels: list[dict[str, Any]], targets: list[Target], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Their labels with masks of the size of the padded batch."""
    for label, target in zip(labels, targets, strict=True):
        masks = target["masks"]
        label["masks"] = F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1])).float()
    return labels


def test_masks_of_padded_images_are_those_of_transformers(net: DETR, scenes: Callable) -> None:
    images, targets = of_different_sizes(scenes, [2, 1, 1])
    theirs = theirs_of(net)
    out = theirs(**(as_they_want(images, targets) | {"labels": None}))
    seen = net.look(images)
    logits, boxes = net.say(seen)
    torch.testing.assert_close(logits[-1], out.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(boxes[-1], out.pred_boxes, rtol=1e-4, atol=1e-5)
    image, query = (x.flatten() for x in torch.meshgrid(torch.arange(3), torch.arange(7), indexing="ij"))
    drawn = net.masks.draw(net.sight(seen), image, query)  # type: ignore[union-attr]
    assert drawn.shape == (21, 24, 24)
    torch.testing.assert_close(drawn.unflatten(0, (3, 7)), out.pred_masks, rtol=1e-4, atol=1e-4)
    assert drawn.unflatten(0, (3, 7)).std(1).mean() > 0.005, "queries differ by far more than that"


@pytest.mark.parametrize("counts", [[3, 1, 2], [2, 0, 1]])
def test_losses_and_gradients_are_those_of_transformers(net: DETR, scenes: Callable, counts: list[int]) -> None:
    images, targets = of_different_sizes(scenes, counts)
    net.judged = slice(-1, None)
    theirs = theirs_of(net)
    batch = as_they_want(images, targets)
    labels = on_canvas(batch["labels"], targets, (96, 96))
    out = theirs(**(batch | {"labels": None}))
    config = theirs.config
    config.mask_loss_coefficient = config.dice_loss_coefficient = 1
    expected, parts, _ = ForSegmentationLoss(out.logits, labels, "cpu", out.pred_boxes, out.pred_masks, config)
    losses = net(images, targets)
    torch.testing.assert_close(losses["masks"], parts["loss_mask"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses["dice"], parts["loss_dice"], rtol=1e-4, atol=1e-5)
    total = torch.stack(list(losses.values())).sum()
    torch.testing.assert_close(total, expected.squeeze(), rtol=1e-4, atol=1e-4)
    total.backward()
    ours = {name: parameter.grad for name, parameter in net.named_parameters()}
    net.zero_grad()
    expected.backward()
    checked = 0
    for name, parameter in theirs.named_parameters():
        if ".backbone." not in name:
            torch.testing.assert_close(called_here(name, ours), parameter.grad, rtol=1e-3, atol=1e-4)  # type: ignore[arg-type]
            checked += "mask_head" in name or "bbox_attention" in name
    assert checked == 4 + 5 * 4 + 3 * 2 + 2, "attention, blocks, additions, the last convolution"


def test_on_frozen_boxes_the_masks_alone_learn_and_the_rest_holds_still(
    tiny_backbone: Callable[..., Any], scenes: Callable
) -> None:
    built = detector.build("detr_panoptic", tiny_backbone(), CLASSES, **SMALL, frozen_boxes=True)
    built.train()
    keep_frozen_in_eval(built)
    assert not any(layer.training for layer in (built.backbone.layers[0][1], built.encoder, built.decoder))  # type: ignore[attr-defined]
    images, targets = of_different_sizes(scenes, [2, 0, 1])
    losses = built(images, targets)
    assert set(losses) == {"masks", "dice"}
    torch.stack(list(losses.values())).sum().backward()
    learns = {name for name, p in built.named_parameters() if p.grad is not None}
    assert learns == {name for name, _ in built.named_parameters() if name.startswith("masks.")}
    again = built(images, targets)
    assert all(torch.equal(losses[name], again[name]) for name in losses), "no dropout"


def test_weights_of_the_box_model_fit_but_for_the_masks(tiny_backbone: Callable[..., Any]) -> None:
    boxes, both = DETR(tiny_backbone(), CLASSES, **SMALL), DETR(tiny_backbone(), CLASSES, True, **SMALL)
    missing, unexpected = both.load_state_dict(boxes.state_dict(), strict=False)
    assert not unexpected and missing and all(name.startswith("masks.") for name in missing)


def test_weights_of_the_losses_are_as_told(net: DETR, scenes: Callable) -> None:
    images, targets = of_different_sizes(scenes, [1, 2, 0])
    before = net(images, targets)
    net.mask_weights = {"masks": 20.0, "dice": 0.5}
    after = net(images, targets)
    torch.testing.assert_close(after["masks"], 20 * before["masks"])
    torch.testing.assert_close(after["dice"], before["dice"] / 2)
    torch.testing.assert_close(after["giou"], before["giou"])


def test_masks_of_detections_are_those_of_their_queries(net: DETR, scenes: Callable) -> None:
    images, _ = of_different_sizes(scenes, [1, 1, 1])
    net.min_score = 0.4
    found = net.detect(images)
    logits, _ = net.predict(images)
    every = net.masks.draw(net.sight(net.look(images)), torch.tensor([1] * 7), torch.arange(7))  # type: ignore[union-attr]
    best = logits[-1, 1].softmax(-1)[:, :-1].amax(-1).argsort(descending=True)
    segments: Tensor = found[1]["segments"]  # type: ignore[typeddict-item]
    assert 0 < len(found[1]["boxes"]) == len(segments) and segments.shape[1:] == (18, 13)
    expected = top_left(every[best[: len(segments)]], (96, 96), (70, 50))
    torch.testing.assert_close(segments, expected)
    net.min_score = 1.1
    assert [len(one["segments"]) for one in net.detect(images)] == [0, 0, 0]  # type: ignore[typeddict-item]


def test_detr_without_masks_refuses_what_would_say_nothing_to_it(tiny_backbone: Callable[..., Any]) -> None:
    for told in ({"frozen_boxes": True}, {"mask_weight": 2.0}, {"dice_weight": 0.0}):
        with pytest.raises(UsageError, match="use --network detr_panoptic$"):
            detector.build("detr", tiny_backbone(), CLASSES, **SMALL, **told)


def test_dilated_backbone_gives_its_last_map_and_three_more() -> None:
    net = detector.build("detr_panoptic", backbone.build("test_resnet", dilation=True), CLASSES, **SMALL)
    assert list(net.used_maps) == [0, 1, 2, 3] and [info.stride for info in net.backbone.maps] == [4, 8, 16, 16]
    found = net.eval().detect(Images(torch.randn(1, 3, 64, 96), [(64, 96)]))
    assert found[0]["segments"].shape == (7, 16, 24)  # type: ignore[typeddict-item]


def test_parameters_are_as_many_as_the_papers() -> None:
    """Of the published panoptic network with its 250 classes, less the ResNet-50."""
    from transformers import DetrConfig, DetrForSegmentation, ResNetConfig

    config = DetrConfig(
        backbone_config=ResNetConfig(out_features=["stage1", "stage2", "stage3", "stage4"]), num_labels=250
    )
    with torch.device("meta"):
        theirs: Any = DetrForSegmentation(config)
        ours = DETR(Maps(), 250, True)  # type: ignore[arg-type]
    expected = sum(p.numel() for name, p in theirs.named_parameters() if ".backbone." not in name)
    assert sum(p.numel() for p in ours.parameters()) == expected


class Maps(nn.Module):
    """A backbone that says what a ResNet-50 does, and is nothing."""

    maps = tuple(MapInfo(64 * k, k) for k in (4, 8, 16, 32))
