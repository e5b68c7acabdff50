"""SimCLR: the loss is the paper's formula, written out; head, colors and options are the paper's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pretrain.methods import Facts, method
from pretrain.methods.simclr import SimCLR
from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS

FACTS = Facts((32, 32), None, PIXEL_STATS["imagenet"])


def build(tiny_backbone: Callable[..., Any], **options: Any) -> SimCLR:
    task = method.build("simclr", tiny_backbone(), FACTS, **({"projection_width": 16} | options))
    assert isinstance(task, SimCLR)
    return task.train()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_loss_is_the_paper_s_formula(tiny_backbone: Callable[..., Any], temperature: float) -> None:
    z, z_ = torch.randn(2, 5, 7, dtype=torch.float64)
    views = nn.functional.normalize(torch.stack((z, z_), 1).flatten(0, 1)).tolist()  # neighbors are of one image

    def similarity(i: int, j: int) -> float:
        return math.exp(sum(a * b for a, b in zip(views[i], views[j], strict=True)) / temperature)

    terms = []
    for i in range(10):
        others = sum(similarity(i, k) for k in range(10) if k != i)
        terms.append(-math.log(similarity(i, i ^ 1) / others))
    loss = build(tiny_backbone, temperature=temperature).contrast(z, z_)
    assert loss.item() == pytest.approx(sum(terms) / 10, rel=1e-9)


def test_projection_and_colors_are_the_paper_s(tiny_backbone: Callable[..., Any]) -> None:
    with torch.device("meta"):
        task = SimCLR(tiny_backbone(), FACTS._replace(size=(224, 224)))
    assert [type(layer) for layer in task.projection.layers] == [
        nn.Linear,
        nn.BatchNorm1d,
        nn.ReLU,
        nn.Linear,
        nn.BatchNorm1d,
    ]
    assert [layer.out_features for layer in task.projection.layers if isinstance(layer, nn.Linear)] == [2048, 128]
    color = task.pair.first
    assert color == task.pair.second
    assert (color.jitter, color.gray, color.blur, color.solarize) == (0.8, 0.2, 0.5, 0.0)
    assert color.strengths == (0.8, 0.8, 0.8, 0.2) and color.sigma == (0.1, 2.0)
    assert build(tiny_backbone, jitter_strength=0.5).pair.first.strengths == (0.4, 0.4, 0.4, 0.1)


def test_what_the_probe_watches_is_near_one_for_directions_that_are_spread(tiny_backbone: Callable[..., Any]) -> None:
    task = build(tiny_backbone)
    assert float(task.embed(torch.randn(64, 8)).std(0).mean()) == pytest.approx(1, abs=0.2)
    assert task.embed(torch.randn(1, 8).repeat(64, 1)).std(0).mean() < 1e-3


def test_one_image_is_refused(tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="SimCLR needs at least two images in a batch; give --batch-size 2 or more"):
        build(tiny_backbone).check_batch(1)
    with pytest.raises(UsageError, match="temperature is 0.0; it must be greater than 0"):
        build(tiny_backbone, temperature=0.0)
