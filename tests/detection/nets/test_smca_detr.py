"""SMCA: its decoder is the paper's equations spelled out, without Gaussians DETR's, and mixtures leave halves alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detection.nets.detr import DETR
from detection.nets.smca_detr import SMCADETR
from detection.parts.query.position import extent, padding, sine_positions
from detection.parts.query.transformer import hide
from detection.types import Images
from shared.errors import UsageError
from tests.detection.nets.test_detr import Apart, of_different_sizes

CLASSES, QUERIES, HEADS, STRIDE = 3, 7, 4, 32
SMALL: dict[str, Any] = {
    "width": 32,
    "heads": HEADS,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "feedforward": 48,
    "num_queries": QUERIES,
}
TYPES = ["type1", "type2", "type3", "type4"]
MIXTURES = [{}, {"head_mixture": True}, {"query_mixture": True}, {"head_mixture": True, "query_mixture": True}]
each_mixture = pytest.mark.parametrize("mixture", MIXTURES, ids=["plain", "heads", "queries", "both"])
each_type = pytest.mark.parametrize("kind", TYPES)


@pytest.fixture
def make(tiny_backbone: Callable[..., Any]) -> Callable[..., SMCADETR]:
    """A small network with every parameter off its start, so that none can be left out unseen."""

    def build(**told: Any) -> SMCADETR:
        net = SMCADETR(tiny_backbone(), CLASSES, **SMALL | told)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return net.eval()  # neither batch norm nor dropout moves

    return build


def a_memory(images: Images, rows: int = 4, columns: int = 5) -> dict[str, Any]:
    """What an encoder might have made of a padded batch: the arguments of `decode` but for the references."""
    where = extent(images, [torch.zeros(len(images.sizes), 1, rows, columns)])
    memory = torch.randn(len(images.sizes), rows * columns, SMALL["width"])
    told = {"memory": memory, "positions": sine_positions(where, SMALL["width"]), "hidden": hide(padding(where))}
    return told | {"shape": (rows, columns)}


def three_sizes() -> Images:
    return Images(torch.zeros(3, 3, 4 * STRIDE, 5 * STRIDE), [(128, 160), (70, 50), (33, 64)])


def spelled_out(net: SMCADETR, told: dict[str, Any], sizes: list[tuple[int, int]], kind: str) -> tuple[Tensor, Tensor]:
    """The paper's decoder, an equation a line, with PyTorch's attention: (L, B, Q, C) and boxes (L, B, Q, 4)."""
    (rows, columns), batch = told["shape"], len(sizes)
    gaussian_heads = HEADS // 2 if len(set(net.strength[:, -1, 0].tolist())) > 1 else HEADS
    first = QUERIES // 2 if not net.referring[0] else 0
    grid = torch.tensor([(x, y) for y in range(rows) for x in range(columns)], dtype=torch.float32)
    cells = torch.tensor([(width / STRIDE, height / STRIDE) for height, width in sizes])
    query_pos = net.queries.weight.expand(batch, -1, -1)
    tgt = torch.zeros_like(query_pos)
    states, r_hat, r = [], torch.zeros(()), torch.zeros(())
    for n in range(len(net.decoder)):
        layer: Any = net.decoder[n]
        own: Any = net.gaussians[n]
        z = own.norm(tgt + query_pos)
        if n == 0:
            r_hat = net.refer(z)
            r = r_hat.sigmoid() * cells[:, None]
        c = r[:, :, None] + own.move(z).unflatten(-1, (HEADS, 2))
        d = (c[:, :, :, None] - grid).square()
        s = own.scale(z).unflatten(-1, (HEADS, -1)).square()[:, :, :, None] if own.scale is not None else torch.ones(1)
        if kind in ("type1", "type2"):
            distance = s[..., 0] * d.sum(-1)
        else:
            distance = (s[..., :2] * d).sum(-1)
            distance = distance + s[..., 2] * d.prod(-1) if kind == "type4" else distance
        g = -distance.abs() / net_smooth(net)
        g[:, :, gaussian_heads:] = 0
        g[:, :first] = 0
        mask = g.permute(0, 2, 1, 3)
        mask = mask if told["hidden"] is None else mask + told["hidden"]
        q = tgt + query_pos
        tgt = layer.around_self.norm(tgt + attended(layer.self_attention, q, q, tgt, None))
        keys = told["memory"] + told["positions"]
        tgt = layer.around_cross.norm(
            tgt + attended(layer.cross_attention, tgt + query_pos, keys, told["memory"], mask.flatten(0, 1))
        )
        tgt = layer.around_feed.norm(tgt + layer.feed(tgt))
        states.append(net.decoder_norm(tgt))
    out = torch.stack(states)
    boxes = net.locate(out)
    boxes[:, :, first:, :2] += r_hat[:, first:]
    return out, boxes.sigmoid()


def attended(ours: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    theirs = nn.MultiheadAttention(SMALL["width"], HEADS, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    return theirs(q, k, v, attn_mask=mask)[0]


def net_smooth(net: SMCADETR) -> float:
    return 1 / float(net.strength.max())


def decoded(net: SMCADETR, told: dict[str, Any], images: Images) -> Tensor:
    return net.decode(**told, references=net.anchors().sigmoid() * net.cells(images))


@each_mixture
@each_type
def test_decoder_and_boxes_are_the_equations_spelled_out(
    kind: str, mixture: dict[str, bool], make: Callable[..., SMCADETR]
) -> None:
    net, images = make(dynamic_scale=kind, smooth=4.0, **mixture), three_sizes()
    told = a_memory(images)
    states, boxes = spelled_out(net, told, images.sizes, kind)
    torch.testing.assert_close(decoded(net, told, images), states, rtol=1e-5, atol=1e-5)
    net.encoder, net.encoder_norm, net.narrow = Instead(told["memory"]), nn.Identity(), nn.Identity()  # type: ignore[assignment]
    net.backbone.forward_features = lambda _: [torch.zeros(3, SMALL["width"], *told["shape"])]  # type: ignore[method-assign]
    logits, found = net.predict(images)
    torch.testing.assert_close(found, boxes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, net.classify(states), rtol=1e-5, atol=1e-5)


class Instead(nn.Module):
    """An encoder that has its answer already."""

    def __init__(self, memory: Tensor) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, *_: Any) -> Tensor:
        return self.memory


@pytest.mark.parametrize("kind", ["type2", "type3", "type4"])
def test_without_gaussians_it_is_detr_with_the_same_weights(
    kind: str, make: Callable[..., SMCADETR], tiny_backbone: Callable[..., Any], scenes: Callable
) -> None:
    net = make(dynamic_scale=kind)
    detr = DETR(net.backbone, CLASSES, **SMALL).eval()
    shared = {name: value for name, value in net.state_dict().items() if not name.startswith("classify.")}
    left = detr.load_state_dict(shared, strict=False)
    assert set(left.missing_keys) == {"classify.weight", "classify.bias"}
    assert {name.split(".")[0] for name in left.unexpected_keys} == {"gaussians", "refer"}
    images, _ = of_different_sizes(scenes, [1, 1, 1])
    _, wanted = detr.predict(images)
    assert not torch.allclose(net.predict(images)[1], wanted, atol=1e-2)
    with torch.no_grad():
        for gaussian in net.gaussians:
            gaussian.scale.weight.zero_()  # type: ignore[union-attr]
            gaussian.scale.bias.zero_()  # type: ignore[union-attr]
        net.referring.zero_()
    torch.testing.assert_close(net.predict(images)[1], wanted, rtol=1e-5, atol=1e-5)


def changed(net: SMCADETR) -> None:
    """Other moves and scales in every layer, and other references."""
    with torch.no_grad():
        for part in (net.gaussians, net.refer):
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter))


def test_mixed_heads_leave_the_second_half_as_it_is_whatever_the_gaussians_are(make: Callable[..., SMCADETR]) -> None:
    """One layer, of whose attention one half of the heads alone comes through."""
    for half, same in ((slice(0, 16), True), (slice(16, 32), False)):
        net, images = make(head_mixture=True, decoder_layers=1), three_sizes()
        told = a_memory(images)
        with torch.no_grad():
            net.decoder[0].cross_attention.out_proj.weight[:, half] = 0  # type: ignore[union-attr, index, operator]
        before = decoded(net, told, images)
        changed(net)
        assert torch.equal(decoded(net, told, images), before) == same
        assert same or not torch.allclose(decoded(net, told, images), before, atol=1e-3)


def test_mixed_queries_leave_the_first_half_and_its_boxes_as_they_are(
    make: Callable[..., SMCADETR], scenes: Callable
) -> None:
    net = make(query_mixture=True, decoder_layers=1)
    images, _ = of_different_sizes(scenes, [1, 1, 1])
    before, half = net.predict(images), QUERIES // 2
    changed(net)
    for old, new in zip(before, net.predict(images), strict=True):
        assert torch.equal(old[:, :, :half], new[:, :, :half])
        assert ((old[:, :, half:] - new[:, :, half:]).abs().amax(-1) > 1e-4).all()


def test_boxes_lie_around_references_of_which_mixed_queries_have_none(make: Callable[..., SMCADETR]) -> None:
    for mixture, none in (({}, 0), ({"query_mixture": True}, QUERIES // 2)):
        net, images = make(**mixture), three_sizes()
        images.pixels.normal_()
        with torch.no_grad():
            for parameter in net.locate[-1].parameters():
                parameter.zero_()
        centers = net.predict(images)[1][..., :2]
        assert torch.equal(centers[:, :, :none], torch.full_like(centers[:, :, :none], 0.5))
        expected = net.anchors().sigmoid()[none:].expand(3, 3, -1, -1)
        torch.testing.assert_close(centers[:, :, none:], expected)


def test_references_are_counted_in_cells_of_the_unpadded_image(make: Callable[..., SMCADETR]) -> None:
    net = make()
    expected = torch.tensor([[[5.0, 4.0]], [[50 / 32, 70 / 32]], [[2.0, 33 / 32]]])
    assert torch.equal(net.cells(three_sizes()), expected)


@each_mixture
def test_what_the_memory_holds_of_padding_is_never_attended(
    mixture: dict[str, bool], make: Callable[..., SMCADETR]
) -> None:
    net, images = make(**mixture), three_sizes()
    told = a_memory(images)
    before = decoded(net, told, images)
    unseen = told["hidden"][:, 0, 0].isinf()
    assert unseen.any(1).tolist() == [False, True, True]
    told["memory"] = told["memory"].masked_fill(unseen[..., None], 1e4)
    assert torch.equal(decoded(net, told, images), before)


@each_type
def test_an_image_padded_in_a_larger_batch_gives_the_same(
    kind: str, make: Callable[..., SMCADETR], scenes: Callable
) -> None:
    net = make(dynamic_scale=kind)
    images, _ = scenes([2], size=96)
    own = Images(images.pixels[:, :, :64, :64], [(64, 64)])
    padded = torch.full((2, 3, 96, 128), 5.0)
    padded[0, :, :64, :64] = own.pixels[0]
    alone = net.detect(own)[0]
    net.backbone = Apart(net.backbone)  # type: ignore[assignment]
    beside = net.detect(Images(padded, [(64, 64), (96, 128)]))[0]
    assert len(alone["scores"]) == QUERIES
    for key in alone:
        torch.testing.assert_close(alone[key], beside[key], rtol=1e-4, atol=1e-4)


@each_mixture
@each_type
def test_every_parameter_gets_a_gradient_whatever_the_options(
    kind: str, mixture: dict[str, bool], make: Callable[..., SMCADETR], scenes: Callable
) -> None:
    net = make(dynamic_scale=kind, **mixture).train()
    images, targets = of_different_sizes(scenes, [2, 0, 1])
    losses = net(images, targets)
    assert len(losses) == 9
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_pre_norm_differs_and_learns(make: Callable[..., SMCADETR], scenes: Callable) -> None:
    before, after = make(pre_norm=True), make()
    after.load_state_dict(before.state_dict(), strict=False)
    images, targets = of_different_sizes(scenes, [2, 0, 1])
    assert not torch.allclose(before.predict(images)[1], after.predict(images)[1], atol=1e-3)
    torch.stack(list(before(images, targets).values())).sum().backward()
    assert all(parameter.grad is not None for parameter in before.parameters())


def test_every_class_is_rare_at_first_and_pairs_are_found_best_first(
    tiny_backbone: Callable[..., Any], make: Callable[..., SMCADETR], scenes: Callable
) -> None:
    images, _ = of_different_sizes(scenes, [1, 1, 1])
    fresh = SMCADETR(tiny_backbone(), CLASSES, **SMALL)
    assert torch.equal(fresh.classify.bias, torch.full((CLASSES,), -math.log(99)))
    net = make()
    logits, _ = net.predict(images)
    for found, scores in zip(net.detect(images), logits[-1].sigmoid().flatten(1), strict=True):
        torch.testing.assert_close(found["scores"], scores.sort(descending=True).values[:QUERIES])


def test_the_last_layer_alone_is_judged_when_asked_for(make: Callable[..., SMCADETR], scenes: Callable) -> None:
    images, targets = of_different_sizes(scenes, [2, 0, 1])
    assert set(make(no_aux_loss=True)(images, targets)) == {"classification", "boxes", "giou"}


@pytest.mark.parametrize("smooth", [0, -8.0, math.nan])
def test_smooth_must_be_above_nothing(smooth: float, make: Callable[..., SMCADETR]) -> None:
    with pytest.raises(UsageError, match=r"smooth is .*; give a number above 0"):
        make(smooth=smooth)


def test_unknown_type_is_refused(make: Callable[..., SMCADETR]) -> None:
    with pytest.raises(UsageError, match="dynamic_scale is 'type5'"):
        make(dynamic_scale="type5")
