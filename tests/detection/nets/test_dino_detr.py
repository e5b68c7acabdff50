"""DINO: its decoder is that of transformers' Grounding DINO without words, its losses are Deformable DETR's there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

from backbones import backbone
from detection.nets.dino_detr import DINO, EDGE
from detection.parts.query.denoising import noised
from detection.parts.query.multiscale import Memory
from detection.parts.query.position import extent, sine_positions
from detection.parts.query.set_loss import set_targets
from detection.types import Images, Target
from shared.loop.optim import parameter_scales
from tests.detection.nets.of_transformers import as_they_want

CLASSES = 5
SMALL: dict[str, Any] = {
    "width": 32,
    "heads": 4,
    "points": 3,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "feedforward": 48,
    "num_queries": 9,
    "denoising": 12,
}


@pytest.fixture
def build(tiny_backbone: Callable[..., Any]) -> Callable[..., DINO]:
    """Small, with every parameter off its start."""

    def make(**told: Any) -> DINO:
        torch.manual_seed(3)
        net = DINO(tiny_backbone(), CLASSES, **(SMALL | told))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return net.eval()

    return make


def of_different_sizes(scenes: Callable, counts: list[int]) -> tuple[Images, list[Target]]:
    images, targets = scenes(counts, size=160, classes=CLASSES, smallest=0.1)
    sizes = [(160, 150), (120, 160), (96, 144)][: len(counts)]
    for target, (height, width) in zip(targets, sizes, strict=True):
        target["boxes"] = target["boxes"] * torch.tensor([width / 144, height / 160] * 2)
    return Images(images.pixels, sizes), targets


class Ours(nn.Module):
    """One of our decoder layers as a layer of transformers' decoder."""

    def __init__(self, layer: nn.Module, memory: Memory) -> None:
        super().__init__()
        self.layer, self.memory = layer, memory

    def forward(
        self, hidden_states: Tensor, position_embeddings: Tensor, reference_points: Tensor, **_: Any
    ) -> tuple[Tensor]:
        return (self.layer(hidden_states, position_embeddings, reference_points, self.memory),)


def test_decoder_is_that_of_grounding_dino_without_words(build: Callable[..., DINO], scenes: Callable) -> None:
    """Positions of the queries, refinement before the norm and predictions after it, boxes looked forward twice."""
    from transformers import GroundingDinoConfig
    from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoDecoder

    images, _ = of_different_sizes(scenes, [2, 1])
    net = build()
    memory = net.encode(images)
    states, references = torch.randn(2, 6, 32), torch.rand(2, 6, 4) * 0.6 + 0.2
    logits, boxes = net.decode(states, references, memory, None)
    theirs: Any = GroundingDinoDecoder(GroundingDinoConfig(d_model=32, decoder_layers=3, query_dim=4))
    theirs.layers = nn.ModuleList(Ours(layer, memory) for layer in net.decoder)
    theirs.layer_norm, theirs.reference_points_head = net.decoder_norm, net.place
    theirs.bbox_embed = nn.ModuleList([net.locate] * 3)
    out = theirs(
        inputs_embeds=states,
        vision_encoder_hidden_states=memory.tokens,
        reference_points=references,
        valid_ratios=memory.where.shares,
        return_dict=True,
    )
    known = [references, *out.intermediate_reference_points.unbind(1)[:-1]]
    for seen, before, said, box in zip(out.intermediate_hidden_states.unbind(1), known, logits, boxes, strict=True):
        torch.testing.assert_close(said, net.classify(seen), rtol=1e-4, atol=1e-5)
        wanted = (net.locate(seen) + before.logit(eps=EDGE)).sigmoid()
        torch.testing.assert_close(box, wanted, rtol=1e-4, atol=1e-5)


def test_positions_of_the_encoder_are_those_of_grounding_dino(scenes: Callable) -> None:
    from transformers import GroundingDinoConfig
    from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoSinePositionEmbedding

    images = Images(torch.zeros(2, 3, 64, 96), [(64, 96), (40, 80)])
    where = extent(images, [torch.zeros(2, 1, 8, 12)])
    mask = torch.zeros(2, 8, 12, dtype=torch.long)
    mask[0], mask[1, :5, :10] = 1, 1
    theirs = GroundingDinoSinePositionEmbedding(GroundingDinoConfig(d_model=32, positional_embedding_temperature=20))
    wanted = theirs(images.pixels[:, :1, :8, :12], mask).flatten(2).transpose(1, 2)
    inside = mask.flatten(1).bool()
    found = sine_positions(where, 32, temperature=20.0)
    torch.testing.assert_close(found[inside], wanted[inside], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("counts", [[3, 1, 2], [2, 0, 1], [0, 0, 0]], ids=str)
def test_losses_are_the_papers_with_the_same_noise(
    build: Callable[..., DINO], scenes: Callable, counts: list[int]
) -> None:
    """Every decoder layer and the cells matched anew; denoising queries with their own objects, over the groups."""
    images, targets = of_different_sizes(scenes, counts)
    net = build().train()
    torch.manual_seed(7)
    losses = net(images, targets)
    torch.manual_seed(7)
    objects = set_targets(targets, images.sizes)
    noise: Any = noised(objects, CLASSES, count=12, label_noise=0.5, box_noise=0.4, edge=EDGE)  # type: ignore[call-arg]
    found = net.predict(images, noise)
    labels = as_they_want(images, targets)["labels"]
    matcher = DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    criterion = DeformableDetrImageLoss(matcher, CLASSES, 0.25, [])
    number = max(1, sum(counts))

    def insist(name: str, last: str, said: Tensor, boxes: Tensor, pairs: Any = None, copies: int = 1) -> None:
        outputs = {"logits": said, "pred_boxes": boxes}
        pairs = matcher(outputs, labels) if pairs is None else pairs
        wanted = criterion.loss_labels(outputs, labels, pairs, number * copies)
        wanted |= criterion.loss_boxes(outputs, labels, pairs, number * copies)
        for ours, theirs, weight in (
            ("classification", "loss_ce", 1),
            ("boxes", "loss_bbox", 5),
            ("giou", "loss_giou", 2),
        ):
            torch.testing.assert_close(losses[f"{name}{ours}{last}"], weight * wanted[theirs], rtol=1e-4, atol=1e-5)

    count = noise.count
    for layer, (said, boxes) in enumerate(zip(found.logits, found.boxes, strict=True)):
        last = "" if layer == 2 else f"_{layer}"
        insist("", last, said[:, count:], boxes[:, count:])
        if count:
            insist("dn_", last, said[:, :count], boxes[:, :count], noise.matches[0], noise.groups)
        else:
            assert all(float(losses[f"dn_{name}{last}"]) == 0 for name in ("classification", "boxes", "giou"))
    insist("enc_", "", found.selected.logits, found.selected.boxes.sigmoid())
    assert len(losses) == 3 * (3 + 3 + 1)


def test_queries_are_learned_and_their_boxes_are_those_of_the_best_cells(
    build: Callable[..., DINO], scenes: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = of_different_sizes(scenes, [1, 1])
    net = build()
    given: list[tuple[Tensor, Tensor]] = []
    decode = net.decode
    monkeypatch.setattr(net, "decode", lambda x, boxes, *more: given.append((x, boxes)) or decode(x, boxes, *more))
    found = net.predict(images)
    ((states, references),) = given
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], net.queries.weight)
    assert torch.equal(references, found.selected.boxes.sigmoid()) and not references.requires_grad
    best = found.selected.logits.max(-1).values
    assert (best[:, :-1] >= best[:, 1:]).all()


@pytest.mark.parametrize("twice", [True, False])
def test_gradients_of_a_layers_boxes_reach_the_layer_before_it_if_it_looks_forward_twice(
    build: Callable[..., DINO], scenes: Callable, twice: bool
) -> None:
    images, _ = of_different_sizes(scenes, [1])
    net = build(look_forward_twice=twice)
    boxes = net.predict(images).boxes
    direct = torch.autograd.grad(boxes[1].sum(), net.locate[-1].bias)[0]  # type: ignore[arg-type]
    once = (boxes[1] * (1 - boxes[1])).sum((0, 1))
    torch.testing.assert_close(direct, (1 + twice) * once, rtol=1e-3, atol=1e-5)  # the bias of one head for all layers


def test_parameters_are_as_many_as_the_papers() -> None:
    """47 million with a ResNet-50, as the authors state."""
    with torch.device("meta"):
        net = DINO(backbone.build("resnet_v1_50"), 91)
    assert sum(p.numel() for p in net.parameters()) == 46_946_302
    assert all(scale == 1 for scale in parameter_scales(net).values()), "all learn at the same rate"


def test_untrained_network_finds_every_class_rare(tiny_backbone: Any, scenes: Callable) -> None:
    images, _ = of_different_sizes(scenes, [1, 1])
    found = DINO(tiny_backbone(), CLASSES, **SMALL).eval().predict(images)
    assert 0.002 < float(found.logits.sigmoid().mean()) < 0.05
    torch.testing.assert_close(found.boxes[0], found.selected.boxes.sigmoid().clamp(EDGE, 1 - EDGE))
