"""DINO: loss, center and head are lightly's; a step has one center, however it is cut; time is part of the state."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.methods import Facts, method
from pretrain.methods.dino import DINO, Head, local_of
from shared.errors import UsageError
from shared.feeding.pixels import PIXEL_STATS
from shared.feeding.plan import rng_for

FACTS = Facts((32, 48), None, PIXEL_STATS["imagenet"])
SMALL = {"prototypes": 16, "hidden_width": 16, "bottleneck_width": 8, "local_crops": 2}


def build(tiny_backbone: Callable[..., Any], **options: Any) -> DINO:
    task = method.build("dino", tiny_backbone(), FACTS, **(SMALL | options))
    assert isinstance(task, DINO)
    return task.train()


def batch(task: DINO, count: int = 4) -> tuple[tuple[Tensor, ...], Tensor]:
    sizes = [task.size] * 2 + [task.local_size] * task.local_crops
    return tuple(torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8) for size in sizes), torch.zeros(count)


def test_loss_and_center_are_lightlys_over_several_steps(tiny_backbone: Callable[..., Any]) -> None:
    from lightly.loss import DINOLoss

    task = build(tiny_backbone, teacher_temperature=0.07, temperature_warmup=0.5)
    theirs = DINOLoss(16, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=3)
    for step in range(4):  # of 4, the warm-up over two of them: at 0, 1/4, 1/2 and 3/4
        student, teacher = torch.randn(4, 5, 16).unbind(), torch.randn(2, 5, 16).unbind()
        ours = task.compared(student, teacher)
        torch.testing.assert_close(ours, theirs([*teacher], [*student], epoch=step))
        task.after_step((step + 1) / 4)
        torch.testing.assert_close(task.loss.center, theirs.center)
        assert theirs.center.any()


def test_head_is_that_of_lightly_with_copied_weights() -> None:
    from lightly.models.modules.heads import DINOProjectionHead

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's old weight norm
        theirs = DINOProjectionHead(12, 16, 8, 32)
    ours = Head(12, 16, 8, 32)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters() if p.requires_grad)
    ours.layers.load_state_dict(theirs.layers.state_dict(prefix="layers."))
    ours.last_layer.load_state_dict({"weight": theirs.last_layer.weight_v.detach() * 3})
    x = torch.randn(5, 12)
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_center_moves_once_in_a_step_by_the_mean_of_its_micro_batches(tiny_backbone: Callable[..., Any]) -> None:
    task = build(tiny_backbone, center_momentum=0.5)
    logits = torch.randn(2, 6, 16)
    for part in (slice(0, 3), slice(3, 6)):
        task.compared(tuple(torch.randn(4, 3, 16)), tuple(logits[:, part]))
        assert not task.loss.center.any()  # type: ignore[operator]
    task.after_step(0.5)
    torch.testing.assert_close(task.loss.center[0, 0], 0.5 * logits.mean((0, 1)))  # type: ignore[index]


def test_views_are_two_large_and_several_small_crops(tiny_backbone: Callable[..., Any]) -> None:
    task = build(tiny_backbone, local_crops=3, crop_split=0.25, crop_scale=0.25, hflip=0.0)
    assert local_of((224, 224)) == (96, 96) and local_of((32, 48)) == (16, 16)
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 90, 120), np.uint8))
    crops = task.view()(image, rng_for(0, 0, 0))
    assert [tuple(crop.shape) for crop in crops] == [(3, 32, 48)] * 2 + [(3, 16, 16)] * 3
    assert not torch.equal(crops[0], crops[1]) and not torch.equal(crops[2], crops[3])
    boxes = [view.view.views[0].scale for view in task.view().views]  # type: ignore[attr-defined]
    assert boxes == [(0.25, 1.0), (0.25, 0.25)]
    alone = build(tiny_backbone, local_crops=0)
    assert len(alone.view()(image, rng_for(0, 0, 0))) == 2
    assert alone(batch(alone))["distillation"].isfinite()


def test_colors_are_the_paper_s(tiny_backbone: Callable[..., Any]) -> None:
    with torch.device("meta"):
        task = DINO(tiny_backbone(), FACTS._replace(size=(224, 224)))
    colors = (*task.colors, task.local_color)
    assert [(c.blur, c.solarize) for c in colors] == [(1.0, 0.0), (0.1, 0.2), (0.5, 0.0)]
    assert all((c.jitter, c.gray, c.strengths) == (0.8, 0.2, (0.4, 0.4, 0.2, 0.1)) for c in colors)


def test_temperature_and_last_layer_follow_the_progress_which_is_part_of_the_state(
    tiny_backbone: Callable[..., Any],
) -> None:
    options = {"teacher_temperature": 0.08, "temperature_warmup": 0.5, "last_layer_frozen": 0.3}
    task, seen = build(tiny_backbone, **options), []
    for progress in (0.0, 0.25, 0.5, 1.0):
        task.after_step(progress)
        torch.stack(list(task(batch(task)).values())).sum().backward()
        weight = task.head.last_layer.weight
        assert weight.grad is not None, "DDP waits for every gradient"
        seen.append((round(task.temperature, 6), bool(weight.grad.any())))
        task.zero_grad()
    assert seen == [(0.04, False), (0.06, False), (0.08, True), (0.08, True)]
    again = build(tiny_backbone, **options)
    task.after_step(0.25)
    again.load_state_dict(task.state_dict())
    assert (again.temperature, again.head.last_layer.frozen) == (task.temperature, True)


def test_the_teacher_is_exported_or_the_network(tiny_backbone: Callable[..., Any]) -> None:
    task = build(tiny_backbone)
    assert task.exports() == {"backbone": task.teacher}
    assert not any(p.requires_grad for p in [*task.teacher.parameters(), *task.teacher_head.parameters()])
    task = build(tiny_backbone, export_teacher=False)
    assert task.exports() == {"backbone": task.backbone}


def test_what_makes_no_sense_is_refused(tiny_backbone: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="crop_scale 0.5 is more than crop_split 0.4; give a smaller one"):
        build(tiny_backbone, crop_scale=0.5)
    net = tiny_backbone()
    net.only = (32, 48)
    with pytest.raises(UsageError, match="accepts only images of 32x48.*give --local-crops 0"):
        method.build("dino", net, FACTS, **SMALL)
    assert method.build("dino", net, FACTS, **(SMALL | {"local_crops": 0}))
