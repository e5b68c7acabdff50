"""Barlow Twins: the loss is the paper's formula, written out; projector, colors and rates are the paper's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pretrain.methods import Facts, method
from pretrain.methods.barlow_twins import BarlowTwins
from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS
from shared.loop.lars import LARS

FACTS = Facts((32, 32), None, PIXEL_STATS["imagenet"])


def build(tiny_backbone: Callable[..., Any], **options: Any) -> BarlowTwins:
    task = method.build("barlow_twins", tiny_backbone(), FACTS, **({"projector_width": 16} | options))
    assert isinstance(task, BarlowTwins)
    return task.train()


@pytest.mark.parametrize("redundancy", [0.005, 1.0])
def test_loss_is_the_paper_s_formula(tiny_backbone: Callable[..., Any], redundancy: float) -> None:
    z, z_ = torch.randn(2, 12, 5, dtype=torch.float64) * 3
    both = torch.cat((z, z_), 1).T
    correlations = torch.corrcoef(both)[:5, 5:]
    on, off = (correlations.diagonal() - 1).square().sum(), correlations.fill_diagonal_(0).square().sum()
    loss = build(tiny_backbone, redundancy=redundancy).correlate(z, z_)
    # lightly adds 1e-5 to the variances
    assert loss.item() == pytest.approx(float(on + redundancy * off), rel=1e-4)


def test_projector_has_no_biases_and_the_paper_s_size(tiny_backbone: Callable[..., Any]) -> None:
    layers = build(tiny_backbone).projector.layers
    assert [type(layer) for layer in layers] == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]
    assert all(layer.bias is None for layer in layers if isinstance(layer, nn.Linear))
    with torch.device("meta"):
        official = BarlowTwins(tiny_backbone(), FACTS)
    assert sum(p.numel() for p in official.projector.parameters()) == 8 * 8192 + 2 * 8192**2 + 2 * 2 * 8192


def test_loss_scale_is_the_rate_of_biases_and_norms_and_leaves_weights_as_they_are(
    tiny_backbone: Callable[..., Any],
) -> None:
    """Under LARS, which the paper's two rates of 0.2 and 0.0048 belong to."""
    steps = []
    for scale in (1.0, 0.024):
        torch.manual_seed(0)
        task = build(tiny_backbone, loss_scale=scale, projector_layers=2)
        before = {name: p.detach().clone() for name, p in task.named_parameters()}
        optimizer = LARS(task.parameters(), 0.2)
        torch.manual_seed(1)
        crops = torch.randint(0, 256, (2, 6, 3, 32, 32), dtype=torch.uint8)
        torch.stack(list(task(((crops[0], crops[1]), torch.zeros(6))).values())).sum().backward()
        optimizer.step()
        steps.append({name: p.detach() - before[name] for name, p in task.named_parameters()})
    weight, norm = "projector.layers.0.weight", "projector.layers.1.bias"
    torch.testing.assert_close(steps[1][weight], steps[0][weight], rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(steps[1][norm], 0.024 * steps[0][norm], rtol=1e-3, atol=1e-7)


def test_colors_of_the_views_are_the_paper_s(tiny_backbone: Callable[..., Any]) -> None:
    with torch.device("meta"):
        pair = BarlowTwins(tiny_backbone(), FACTS._replace(size=(224, 224))).pair
    for color, blur, solarize in ((pair.first, 1.0, 0.0), (pair.second, 0.1, 0.2)):
        assert (color.jitter, color.gray, color.blur, color.solarize) == (0.8, 0.2, blur, solarize)
        assert color.strengths == (0.4, 0.4, 0.2, 0.1) and color.sigma == (0.1, 2.0)


def test_one_image_is_refused(tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="Barlow Twins needs at least two images in a batch"):
        build(tiny_backbone).check_batch(1)
