"""DETR: outputs, losses and gradients are those of transformers' DETR with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

from backbones.base import MapInfo
from detection.nets.detr import DETR
from detection.types import Images
from shared.errors import UsageError
from tests.detection.nets.of_transformers import as_theirs, as_they_want, detr_of_transformers, own_parameters

CLASSES = 3
RESNET_50 = 23_454_912  # parameters of its convolutions
SMALL: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "feedforward": 48,
    "num_queries": 7,
}


@pytest.fixture
def net(tiny_backbone: Callable[..., Any]) -> DETR:
    """Small, with every parameter off its start, so that none can be left out unseen."""
    return loud(DETR(tiny_backbone(), CLASSES, **SMALL))


def loud(net: DETR) -> DETR:
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net.eval()  # neither batch norm nor dropout moves


def of_different_sizes(scenes: Callable, counts: list[int]) -> tuple[Images, list]:
    images, targets = scenes(counts, size=96, classes=CLASSES, smallest=0.1)
    sizes = [(96, 80), (70, 50), (33, 64)][: len(counts)]
    for target, (height, width) in zip(targets, sizes, strict=True):
        target["boxes"] = target["boxes"] * torch.tensor([width / 80, height / 96] * 2)
    return Images(images.pixels, sizes), targets


def layers_of(theirs: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits and boxes of every decoder layer, as the paper's auxiliary heads say them.

    transformers' own feed each layer with normalized states as soon as auxiliary losses are on, so these are off.
    """
    states: list[Tensor] = []
    layers = theirs.model.decoder.layers
    hooks = [layer.register_forward_hook(lambda _module, _given, out: states.append(out)) for layer in layers]
    theirs(**(batch | {"labels": None}))
    for hook in hooks:
        hook.remove()
    normed = theirs.model.decoder.layernorm(torch.stack(states))
    return theirs.class_labels_classifier(normed), theirs.bbox_predictor(normed).sigmoid()


def test_logits_and_boxes_of_padded_images_are_those_of_transformers(net: DETR, scenes: Callable) -> None:
    images, targets = of_different_sizes(scenes, [2, 1, 1])
    theirs: Any = detr_of_transformers(net, CLASSES)
    logits, boxes = net.predict(images)
    out = theirs(**(as_they_want(images, targets) | {"labels": None}))
    torch.testing.assert_close(logits[-1], out.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(boxes[-1], out.pred_boxes, rtol=1e-5, atol=1e-5)
    assert boxes[-1].std(1).min() > 1e-3, "queries differ"


@pytest.mark.parametrize("counts", [[3, 1, 2], [2, 0, 1]])
@pytest.mark.parametrize("aux", [True, False])
def test_loss_and_gradients_are_those_of_transformers(
    net: DETR, scenes: Callable, counts: list[int], aux: bool
) -> None:
    images, targets = of_different_sizes(scenes, counts)
    net.judged = slice(None) if aux else slice(-1, None)
    theirs: Any = detr_of_transformers(net, CLASSES)
    batch = as_they_want(images, targets)
    logits, boxes = layers_of(theirs, batch)
    theirs.config.auxiliary_loss = aux
    expected, _, _ = ForObjectDetectionLoss(logits[-1], batch["labels"], "cpu", boxes[-1], theirs.config, logits, boxes)
    losses = net(images, targets)
    assert len(losses) == (9 if aux else 3)
    total = torch.stack(list(losses.values())).sum()
    torch.testing.assert_close(total, expected.squeeze(), rtol=1e-5, atol=1e-5)
    total.backward()
    ours = {name: parameter.grad for name, parameter in net.named_parameters()}
    net.zero_grad()
    expected.backward()
    own = own_parameters(theirs)
    assert len(own) > 100
    for name, parameter in own.items():
        torch.testing.assert_close(as_theirs(name, ours), parameter.grad, rtol=1e-3, atol=1e-5)
    for name, parameter in net.backbone.named_parameters():
        torch.testing.assert_close(ours[f"backbone.{name}"], parameter.grad, rtol=1e-3, atol=1e-5)


def test_padding_changes_nothing(net: DETR, scenes: Callable) -> None:
    images, _ = scenes([2], size=96)
    own = Images(images.pixels[:, :, :64, :64], [(64, 64)])
    padded = torch.full((2, 3, 96, 128), 5.0)
    padded[0, :, :64, :64] = own.pixels[0]
    alone = net.detect(own)[0]
    net.backbone = Apart(net.backbone)
    beside = net.detect(Images(padded, [(64, 64), (96, 128)]))[0]
    for key in alone:
        torch.testing.assert_close(alone[key], beside[key], rtol=1e-4, atol=1e-4)


class Apart(nn.Module):
    """A backbone that sees the first image without what lies around it, as no convolution does."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone, self.maps = backbone, backbone.maps

    def forward_features(self, x: Tensor) -> list[Tensor]:
        maps = self.backbone.forward_features(x)
        for own, whole in zip(self.backbone.forward_features(x[:1, :, :64, :64]), maps, strict=True):
            whole[:1, :, : own.shape[-2], : own.shape[-1]] = own
        return maps


def test_every_query_says_its_likeliest_class_best_first(net: DETR, scenes: Callable) -> None:
    images, _ = of_different_sizes(scenes, [1, 1, 1])
    logits, _ = net.predict(images)
    chances = logits[-1].softmax(-1)[..., :CLASSES]
    for found, chance in zip(net.detect(images), chances, strict=True):
        assert len(found["boxes"]) == SMALL["num_queries"]
        scores, labels = chance.max(-1)
        order = scores.argsort(descending=True)
        torch.testing.assert_close(found["scores"], scores[order])
        assert torch.equal(found["labels"], labels[order])


def test_few_and_sure_detections_are_kept_when_asked_for(net: DETR, scenes: Callable) -> None:
    images, _ = of_different_sizes(scenes, [1, 1, 1])
    every = [found["scores"] for found in net.detect(images)]
    net.max_detections = 4
    assert [len(found["scores"]) for found in net.detect(images)] == [4, 4, 4]
    net.min_score = float(every[0][2:4].mean())  # between two scores, so that rounding decides nothing
    for scores, found in zip(every, net.detect(images), strict=True):
        torch.testing.assert_close(found["scores"], scores[:4][scores[:4] >= net.min_score])


def test_pre_norm_differs_and_learns(tiny_backbone: Callable[..., Any], scenes: Callable) -> None:
    torch.manual_seed(0)
    before = DETR(tiny_backbone(), CLASSES, **SMALL, pre_norm=True)
    after = DETR(tiny_backbone(), CLASSES, **SMALL)
    after.load_state_dict(before.state_dict(), strict=False)
    images, targets = scenes([2, 1], classes=CLASSES)
    assert not torch.allclose(before.eval().predict(images)[1], after.eval().predict(images)[1], atol=1e-3)
    torch.stack(list(before(images, targets).values())).sum().backward()
    assert all(parameter.grad is not None for parameter in before.parameters())


def test_parameters_are_as_many_as_the_papers() -> None:
    """41,302,368 that learn, and 222,400 of the first layers of its ResNet-50, whose batch norm has none."""
    with torch.device("meta"):
        net = DETR(Maps(), 91)  # type: ignore[arg-type]
    assert sum(p.numel() for p in net.parameters()) + RESNET_50 == 41_302_368 + 222_400


class Maps(nn.Module):
    """A backbone that says what a ResNet-50 does, and is nothing."""

    maps = tuple(MapInfo(64 * k, k) for k in (4, 8, 16, 32))


def test_heads_that_cannot_share_the_width_are_refused(tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="width 36 does not fit 8 heads; give a multiple of 8 and of 4"):
        DETR(tiny_backbone(), CLASSES, width=36)


def test_learned_positions_are_those_of_transformers(tiny_backbone: Callable[..., Any], scenes: Callable) -> None:
    net = loud(DETR(tiny_backbone(), CLASSES, **SMALL, position_embedding="learned"))
    images, targets = of_different_sizes(scenes, [2, 1, 1])
    theirs: Any = detr_of_transformers(net, CLASSES, position_embedding_type="learned")
    out = theirs(**(as_they_want(images, targets) | {"labels": None}))
    logits, boxes = net.predict(images)
    torch.testing.assert_close(logits[-1], out.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(boxes[-1], out.pred_boxes, rtol=1e-5, atol=1e-5)
    torch.stack(list(net(images, targets).values())).sum().backward()
    assert all(parameter.grad is not None for parameter in net.positions.parameters())  # type: ignore[union-attr]


def test_learned_positions_end_after_fifty_places_and_others_are_unknown(tiny_backbone: Callable[..., Any]) -> None:
    net = DETR(tiny_backbone(), CLASSES, **SMALL, position_embedding="learned").eval()
    assert len(net.detect(Images(torch.zeros(1, 3, 64, 1600), [(64, 1600)]))) == 1
    with pytest.raises(UsageError, match="50 rows and columns, and this batch has 2x51; use --position-embedding sine"):
        net.detect(Images(torch.zeros(1, 3, 64, 1632), [(64, 1632)]))
    with pytest.raises(UsageError, match="no positions 'sines'; position_embedding is sine or learned"):
        DETR(tiny_backbone(), CLASSES, **SMALL, position_embedding="sines")
