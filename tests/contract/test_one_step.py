"""One training step of every backbone and every network on offer, on a processor: what meta tensors cannot show.

`make test-oldest` runs it with the lowest releases that pyproject.toml allows.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from backbones import Backbone, backbone
from backbones.timm_zoo import ZOO
from detection.nets import detector, finds, takes_proposals
from detection.types import Images, Target
from pretrain.methods import Facts, method
from shared.feeding.pixels import PIXEL_STATS

CLASSES, SIDE = 3, 64
QUICK = ["resnet_v1_50", "mobilenet_v2"]
BACKBONES = [(name, {}) for name in backbone.names()]
BACKBONES += [(name, {"aws_compat": True}) for name, row in ZOO.items() if row.aws is not None]


def in_words(value: Any) -> str:
    return "aws" if isinstance(value, dict) and value else ""


def step(task: nn.Module, losses: dict[str, torch.Tensor]) -> float:
    """One step of SGD; the largest change of a parameter."""
    parameters = [p for p in task.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    torch.optim.SGD(parameters, lr=0.01).step()
    return max(float((p.detach() - old).abs().max()) for p, old in zip(parameters, before, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            *row,
            marks=[] if row[0] in QUICK else pytest.mark.slow,
            id="-".join(filter(None, (row[0], in_words(row[1])))),
        )
        for row in BACKBONES
    ],
)
def test_backbone_makes_a_step_of_classification_and_one_on_its_maps(name: str, options: dict[str, Any]) -> None:
    net: Backbone = backbone.build(name, **options)
    size = net.only or (SIDE, SIDE)
    task = method.build("supervised", net, Facts(size=size, num_classes=CLASSES, pixels=PIXEL_STATS["imagenet"]))
    images, labels = torch.randint(256, (2, 3, *size), dtype=torch.uint8), torch.arange(2)
    assert 0 < step(task.train(), task((images, labels))) < 1
    task.zero_grad()
    maps = net.forward_features(torch.randn(2, 3, *size))
    assert [tuple(x.shape) for x in maps] == [(2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in net.maps]
    assert 0 < step(net, {"maps": torch.stack([x.square().mean() for x in maps]).mean()}) < 1


@pytest.mark.parametrize(
    "network", [name if name == "fcos" else pytest.param(name, marks=pytest.mark.slow) for name in detector.names()]
)
def test_network_makes_a_step_and_detects(network: str) -> None:
    built = detector.build(network, backbone.build("test_resnet"), CLASSES, **detector.facts(network).get("tiny", {}))
    boxes = torch.tensor([[8.0, 8, 60, 50], [40, 30, 90, 80]])
    target = Target(boxes=boxes, labels=torch.arange(2))
    if "masks" in finds(network):
        target["masks"] = torch.ones(2, 96, 96, dtype=torch.uint8)
    if "keypoints" in finds(network):
        points = detector.options(network)["num_keypoints"].default
        target["keypoints"] = torch.cat(
            (boxes[:, None, :2].repeat(1, points, 1) + 5, torch.full((2, points, 1), 2.0)), 2
        )
    images = Images(torch.randn(2, 3, 96, 96), [(96, 96)] * 2)
    if takes_proposals(network):
        images = images._replace(proposals=[torch.cat((boxes + 4, torch.ones(2, 1)), 1)] * 2)
    assert 0 < step(built.train(), built(images, [target, target])) < 1
    assert len(built.eval().detect(images)) == 2
