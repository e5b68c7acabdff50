"""SSD and SSDLite: losses and detections are those of torchvision with the same weights; boxes cover the image."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models.detection import ssd as reference
from torchvision.models.detection import ssdlite as lite_reference
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.ops import box_iou

from backbones.base import MapInfo
from detection.nets.ssd import SSD, PatientNorm, ssd, ssdlite
from detection.types import Images, Target
from shared.errors import UsageError
from tests.detection.nets.same_detections import pairs_of_same

CLASSES = 3
NETS = {"ssd": ssd, "ssdlite": ssdlite}
PUBLISHED = {
    "ssd": DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]], scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
    ),
    "ssd300": DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    ),
    "ssdlite": DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95),
}
TOLD = {
    "ssd": {},
    "ssd300": {},
    "ssdlite": {"score_thresh": 0.001, "nms_thresh": 0.55, "detections_per_img": 300, "topk_candidates": 300},
}


class Levels(nn.Module):
    """Our levels as torchvision wants them."""

    def __init__(self, net: SSD) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict((str(i), level) for i, level in enumerate(self.net.levels(x)))


def of_torchvision(name: str, net: SSD, size: int) -> reference.SSD:
    """torchvision's SSD with its own boxes and head, and our weights in it."""
    with torch.no_grad():
        widths = [level.shape[1] for level in net.eval().levels(torch.zeros(1, 3, size, size))]
    boxes = PUBLISHED[name]
    if name != "ssdlite":
        head = reference.SSDHead(widths, boxes.num_anchors_per_location(), CLASSES + 1)
    else:
        head = lite_reference.SSDLiteHead(
            widths, boxes.num_anchors_per_location(), CLASSES + 1, lambda c: nn.BatchNorm2d(c, eps=0.001, momentum=0.03)
        )
    head.load_state_dict(net.head.state_dict())
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3, "_skip_resize": True}
    return reference.SSD(Levels(net), boxes, (size, size), CLASSES + 1, head=head, **plain, **TOLD[name])


@pytest.fixture(params=NETS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def net(name: str, tiny_backbone: Callable[..., Any]) -> SSD:
    """Small, and with heads loud enough that every loss and score differs from place to place."""
    net = NETS[name](tiny_backbone(), CLASSES, extra_width=0.1, empty_negatives=0)
    for part in (net.extras, net.head):
        for layer in part.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return net.eval()  # batch norm holds still, so that two passes are one


def whole(scenes: Callable, counts: list[int], size: int) -> tuple[Images, list[Target]]:
    """Scenes that fill their batch, as torchvision's SSD resizes every image to."""
    images, targets = scenes(counts, size=size, classes=CLASSES, smallest=0.05)
    return images._replace(sizes=[(size, size)] * len(counts)), targets


def shifted(targets: list[Target]) -> list[dict[str, Tensor]]:
    """torchvision keeps 0 for background."""
    return [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]


@pytest.mark.parametrize("counts", [[3, 5, 1], [4, 0, 2], [0, 0, 0]])
def test_losses_are_those_of_torchvision(name: str, net: SSD, scenes: Callable, counts: list[int]) -> None:
    images, targets = whole(scenes, counts, 256)
    losses = net(images, targets)
    other = of_torchvision(name, net, 256).train()
    for part in (net, other.head):
        part.eval()
    theirs = other(list(images.pixels), shifted(targets))
    pairs = {"classification": "classification", "boxes": "bbox_regression"}
    assert losses.keys() == pairs.keys() and theirs.keys() == set(pairs.values())
    for ours, called in pairs.items():
        torch.testing.assert_close(losses[ours], theirs[called], rtol=1e-4, atol=1e-5)
    assert sum(counts) == 0 or losses["boxes"] > 0.1, "some default box holds something"


def test_gradients_are_those_of_torchvision(name: str, net: SSD, scenes: Callable) -> None:
    images, targets = whole(scenes, [3, 0], 256)
    other = of_torchvision(name, net, 256).train()
    for part in (net, other.head):
        part.eval()
    torch.stack(list(net(images, targets).values())).sum().backward()
    ours = {called: p.grad.clone() for called, p in net.named_parameters()}
    net.zero_grad()
    torch.stack(list(other(list(images.pixels), shifted(targets)).values())).sum().backward()
    head = {f"head.{called}": p.grad for called, p in other.head.named_parameters()}
    theirs = {called: p.grad for called, p in net.named_parameters()} | head
    assert ours.keys() == theirs.keys()
    for called, gradient in ours.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradient, theirs[called], rtol=1e-3, atol=1e-4 * scale + 1e-9)


def test_detections_are_those_of_torchvision(name: str, net: SSD, scenes: Callable) -> None:
    images, _ = whole(scenes, [2, 3], 128)
    theirs = of_torchvision(name, net, 128).eval()(list(images.pixels))
    for ours, other in zip(net.detect(images), theirs, strict=True):
        assert len(ours["scores"]) > 20
        pairs_of_same(ours, other, first_label=1)


@settings(max_examples=40)
@given(
    places=st.integers(1, 12),
    held=st.sets(st.integers(0, 11)),
    negatives=st.integers(0, 4),
    empty=st.integers(0, 4),
)
def test_the_hardest_empty_boxes_are_learnt_from(
    places: int, held: set[int], negatives: int, empty: int, tiny_backbone: Callable[..., Any]
) -> None:
    """As many as told per box that holds something, fewer where there are fewer, and never one that holds something."""
    net = ssd(tiny_backbone(), CLASSES, extra_width=0.1, negatives=negatives, empty_negatives=empty)
    surprise = torch.rand(2, places)
    mask = torch.zeros(2, places, dtype=torch.bool)
    mask[0, [p for p in held if p < places]] = True
    for row, loss, holds in zip(net.hardest(surprise, mask), surprise, mask, strict=True):
        wanted = negatives * int(holds.sum()) if holds.any() else empty
        hardest = sorted(loss[~holds].tolist(), reverse=True)[:wanted]
        assert float(row.sum()) == pytest.approx(sum(hardest), abs=1e-5)


def test_images_without_boxes_teach_what_is_not_there(name: str, scenes: Callable, tiny_backbone: Any) -> None:
    """Unlike in the paper, and only as much as one box with its empty ones would."""
    net = NETS[name](tiny_backbone(), CLASSES, extra_width=0.1).eval()
    images, targets = whole(scenes, [0, 0], 128)
    losses = net(images, targets)
    surprise = -net.predict(images.pixels).scores.log_softmax(-1)[..., 0]
    torch.testing.assert_close(losses["classification"], surprise.topk(3).values.sum())
    assert losses["boxes"] == 0


def test_levels_and_default_boxes_are_those_of_the_papers(name: str, net: SSD) -> None:
    with torch.no_grad():
        levels = net.levels(torch.zeros(1, 3, 512, 512))
        assert [tuple(level.shape[-2:]) for level in levels] == [(n, n) for n in (32, 16, 8, 4, 2, 1)]
    assert net.default_boxes.per_place == {"ssd": [4, 6, 6, 6, 4, 4], "ssdlite": [6] * 6}[name]
    full = NETS[name](net.backbone, CLASSES)
    widths = {"ssd": [512, 256, 256, 256], "ssdlite": [512, 256, 256, 128]}[name]
    assert [extra[-1][0].out_channels for extra in full.extras] == widths


def test_plain_vit_gives_five_levels_of_even_scales(name: str, tiny_backbone: Callable[..., Any]) -> None:
    plain = tiny_backbone()
    plain.maps = (MapInfo(8, 16),)
    forward = plain.forward_features
    plain.forward_features = lambda x: [forward(x)[2]]
    net = NETS[name](plain, CLASSES, extra_width=0.1).eval()
    with torch.no_grad():
        found = net.predict(torch.zeros(1, 3, 512, 512))
    grids = [32 * 32, 16 * 16, 8 * 8, 4 * 4, 2 * 2]
    per_place = {"ssd": [4, 6, 6, 4, 4], "ssdlite": [6] * 5}[name]
    assert len(found.boxes) == found.scores.shape[1] == sum(n * a for n, a in zip(grids, per_place, strict=True))
    squares = [2 * net.default_boxes.get_buffer(f"level{i}")[0, 2].item() for i in range(5)]
    scales = {"ssd": [0.07, 0.15, 0.375, 0.6, 0.825], "ssdlite": [0.2, 0.3875, 0.575, 0.7625, 0.95]}[name]
    assert squares == pytest.approx(scales)


@pytest.mark.parametrize("size", [(512, 512), (320, 320), (384, 640), (512, 480)])
def test_boxes_anywhere_in_the_image_are_met_equally_well(name: str, net: SSD, size: tuple[int, int]) -> None:
    """Steps that are not the map's own would leave three quarters of the image without default boxes."""
    height, width = size
    shapes = [(-(-height // s), -(-width // s)) for s in (16, 32, 64, 128, 256, 512)]
    default_boxes = torch.cat(net.default_boxes(shapes, size))
    rng = torch.Generator().manual_seed(0)
    smallest, largest = {"ssd": (0.06, 0.6), "ssdlite": (0.18, 0.6)}[name]
    sides = (smallest + (largest - smallest) * torch.rand(1000, 1, generator=rng)) * torch.tensor([width, height])
    corner = torch.rand(1000, 2, generator=rng) * (torch.tensor([width, height]) - sides)
    best = box_iou(torch.cat((corner, corner + sides), 1), default_boxes).amax(1)
    middle = corner + sides / 2 > torch.tensor([width, height]) / 2
    shares = [float((best[(middle == torch.tensor(q)).all(1)] >= 0.5).float().mean()) for q in QUADRANTS]
    assert min(shares) > 0.85 and max(shares) - min(shares) < 0.1, shares


QUADRANTS = [[False, False], [True, False], [False, True], [True, True]]


def test_one_image_alone_can_be_learnt_from(name: str, scenes: Callable, tiny_backbone: Callable[..., Any]) -> None:
    """Its coarsest level is one place, which batch norm would refuse."""
    net = NETS[name](tiny_backbone(), CLASSES, extra_width=0.1).train()
    losses = net(*whole(scenes, [2], 128))
    torch.stack(list(losses.values())).sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for p in [*net.extras.parameters(), *net.head.parameters()]
    )


def test_patient_norm_is_batch_norm_but_for_single_values() -> None:
    ours, theirs = PatientNorm(4).train(), nn.BatchNorm2d(4).train()
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours.running_var, theirs.running_var)
    single, before = torch.randn(1, 4, 1, 1), ours.running_mean.clone()
    assert torch.equal(ours(single), theirs.eval()(single)) and torch.equal(ours.running_mean, before)


def test_boxes_of_one_pixel_and_a_thousand_of_them_give_finite_losses(net: SSD) -> None:
    corner = (torch.rand(1000, 2) * 94).round()
    crowd = Target(boxes=torch.cat((corner, corner + 1), 1), labels=torch.randint(CLASSES, (1000,)))
    images = Images(torch.randn(2, 3, 96, 96), [(96, 96)] * 2)
    losses = net.train()(images, [crowd, Target(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))])
    torch.stack(list(losses.values())).sum().backward()
    assert all(math.isfinite(value) for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.head.parameters())


def test_half_precision_decides_in_full(net: SSD, scenes: Callable) -> None:
    images, targets = whole(scenes, [2, 0], 128)
    with torch.autocast("cpu", torch.bfloat16):
        found, losses = net.predict(images.pixels), net(images, targets)
    assert {x.dtype for x in (*found, *losses.values())} == {torch.float32}


def test_ssdlite_is_set_as_torchvision_sets_it(tiny_backbone: Callable[..., Any]) -> None:
    net = ssdlite(tiny_backbone(), CLASSES)
    for part in (net.extras, net.head):
        norms = [layer for layer in part.modules() if isinstance(layer, nn.BatchNorm2d)]
        convs = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]
        assert norms and {(norm.eps, norm.momentum) for norm in norms} == {(0.001, 0.03)}
        weights = torch.cat([conv.weight.flatten() for conv in convs])
        assert float(weights.std()) == pytest.approx(0.03, rel=0.05)
        assert any(conv.groups == conv.in_channels > 1 for conv in convs)
    activations = {type(layer) for layer in net.modules() if isinstance(layer, nn.ReLU | nn.ReLU6)}
    assert nn.ReLU6 in activations


# --- the first paper's ---------------------------------------------------------------------------


@pytest.fixture
def net300(tiny_backbone: Callable[..., Any]) -> SSD:
    """The paper's levels on a small backbone with the strides of its VGG16."""
    torch.manual_seed(0)
    small = tiny_backbone(16)
    small.maps, every = small.maps[1:3], small.forward_features
    small.forward_features = lambda x: every(x)[1:3]
    net = ssd(small, CLASSES, ssd300=True, extra_width=0.1, empty_negatives=0)
    nn.init.uniform_(net.first[0].scale, 10, 30)  # type: ignore[arg-type]
    return net.eval()


def test_losses_and_detections_of_ssd300_are_those_of_torchvision(net300: SSD, scenes: Callable) -> None:
    images, targets = whole(scenes, [3, 5], 300)
    other = of_torchvision("ssd300", net300, 300)
    theirs = other.train()(list(images.pixels), shifted(targets))
    losses = net300(images, targets)
    for ours, called in {"classification": "classification", "boxes": "bbox_regression"}.items():
        torch.testing.assert_close(losses[ours], theirs[called], rtol=1e-4, atol=1e-5)
    assert losses["boxes"] > 0.1, "some default box holds something"
    for ours, found in zip(net300.detect(images), other.eval()(list(images.pixels)), strict=True):
        assert len(ours["scores"]) > 20
        torch.testing.assert_close(ours["scores"], found["scores"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_ssd300_has_8732_boxes_on_the_maps_of_the_paper(net300: SSD) -> None:
    levels = net300.levels(torch.zeros(1, 3, 300, 300))
    assert [tuple(level.shape[-2:]) for level in levels] == [(n, n) for n in (38, 19, 10, 5, 3, 1)]
    assert len(net300.predict(torch.zeros(1, 3, 300, 300)).boxes) == 8732
    lengths = levels[0].norm(dim=1) / net300.first[0].scale.norm()  # type: ignore[operator, union-attr]
    assert (lengths <= 1.01).all()


@torch.no_grad()
def test_ssd300_looks_past_the_padding_of_a_batch(net300: SSD) -> None:
    pixels = torch.randn(1, 3, 300, 300)
    padded = torch.nn.functional.pad(pixels, (0, 20, 0, 20))
    beside, alone = (net300.unpadded(Images(x, [(300, 300)])) for x in (padded, pixels))
    assert torch.equal(beside, alone) and torch.equal(net300.predict(beside).scores, net300.predict(pixels).scores)


def test_ssd300_refuses_other_images_and_backbones(net300: SSD, tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="ssd300 accepts only images of 300x300, not 200x300; give --size 300"):
        net300.detect(Images(torch.zeros(1, 3, 300, 300), [(200, 300)]))
    with pytest.raises(UsageError, match="strides 8 and 16; this backbone has .4, 8, 16, 32., use tv_vgg16"):
        ssd(tiny_backbone(), CLASSES, ssd300=True)
