"""BYOL: the loss is the paper's, both ways; the teacher follows, hears no gradient and keeps its own statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain.methods import Facts, method
from pretrain.methods.byol import BYOL
from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS

FACTS = Facts((32, 32), None, PIXEL_STATS["imagenet"])


def build(tiny_backbone: Callable[..., Any], **options: Any) -> BYOL:
    small = {"hidden_width": 16, "embedding_width": 8}
    task = method.build("byol", tiny_backbone(dropped=0.5), FACTS, **(small | options))
    assert isinstance(task, BYOL)
    return task.train()


def batch() -> tuple[tuple[Tensor, Tensor], Tensor]:
    first, second = torch.randint(0, 256, (2, 6, 3, 32, 32), dtype=torch.uint8)
    return (first, second), torch.zeros(6)


def test_distance_is_that_of_unit_vectors(tiny_backbone: Callable[..., Any]) -> None:
    p, t = torch.randn(2, 6, 8, dtype=torch.float64)
    apart = nn.functional.normalize(p) - nn.functional.normalize(t)
    assert build(tiny_backbone).distance(p, t).item() == pytest.approx(apart.square().sum(1).mean().item())


def test_each_view_predicts_the_teacher_of_the_other(tiny_backbone: Callable[..., Any]) -> None:
    task, (crops, labels), seen = build(tiny_backbone), batch(), []
    task.pair = lambda crops, finish: (finish(crops[0]), finish(crops[1]))  # type: ignore[assignment]
    task.predict = lambda x: (seen.append(("net", x)), torch.ones(6, 8))[1]  # type: ignore[method-assign]
    task.look_up = lambda x: (seen.append(("teacher", x)), torch.ones(6, 8))[1]  # type: ignore[method-assign]
    assert task((crops, labels))["prediction"].item() == pytest.approx(0, abs=1e-5)
    x, y = task.normalize(crops[0]), task.normalize(crops[1])
    assert [who for who, _ in seen] == ["net", "net", "teacher", "teacher"]
    assert all(torch.equal(got, wanted) for (_, got), wanted in zip(seen, (x, y, x, y), strict=True))


def test_the_teacher_hears_no_gradient_has_no_dropout_and_its_own_batch_norm(tiny_backbone: Callable[..., Any]) -> None:
    task = build(tiny_backbone)
    assert not any(p.requires_grad for p in [*task.target.parameters(), *task.target_projection.parameters()])
    assert not any(m.training for m in task.target.modules() if isinstance(m, nn.Dropout))
    x = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(task.look_up(x), task.look_up(x)) and not torch.equal(task.predict(x), task.predict(x))
    norms = [m for m in task.target.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(m.training and m.running_mean is not None and m.running_mean.any() for m in norms)
    task.eval()
    assert not any(m.training for m in norms)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.1), (0.5, 0.05), (1.0, 0.0)])
def test_the_teacher_follows_along_a_half_cosine(
    tiny_backbone: Callable[..., Any], progress: float, share: float
) -> None:
    task = build(tiny_backbone, momentum=0.9)
    before = [p.clone() for p in task.target_projection.parameters()]
    with torch.no_grad():
        for p in task.parameters():
            p.add_(torch.randn_like(p)) if p.requires_grad else None
    task.after_step(progress)
    for old, now, theirs in zip(before, task.target_projection.parameters(), task.projection.parameters(), strict=True):
        torch.testing.assert_close(now, old + share * (theirs.detach() - old))


def test_the_network_itself_is_exported_and_one_image_refused(tiny_backbone: Callable[..., Any]) -> None:
    task = build(tiny_backbone)
    assert task.exports() == {"backbone": task.backbone}
    with pytest.raises(UsageError, match="BYOL needs at least two images in a batch"):
        task.check_batch(1)
