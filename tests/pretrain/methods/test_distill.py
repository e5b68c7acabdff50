"""Distillation: the error is the paper's; a teacher is found or refused, sees what it is used to, and never changes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import backbone
from pretrain.joint.frozen import Teacher
from pretrain.methods import Facts, method
from pretrain.methods.distill import Distill, at_size
from pretrain.methods.distill import error as error_of
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PIXEL_STATS, Normalize
from shared.loop.optim import parameter_groups
from shared.recipes.recipe import OptimConfig
from shared.weights.card import Card
from shared.weights.store import Store

FACTS = Facts((32, 32), None, PIXEL_STATS["imagenet"])


def build(net: Any, **options: Any) -> Distill:
    facts = options.pop("facts", FACTS)
    task = method.build("distill", net, facts, **({"teacher": "untrained:test_vit"} | options))
    assert isinstance(task, Distill)
    return task.train()


def batch(count: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8), torch.zeros(count)


def test_losses_are_mean_squared_errors_of_normalized_features(tiny_backbone: Callable[..., Any]) -> None:
    task, (images, labels) = build(tiny_backbone(), map_weight=2.0), batch()
    teacher = task.teacher.net
    x = Normalize(PIXEL_STATS["imagenet"])(images)
    with torch.no_grad():
        wanted_map, wanted = teacher.forward_features(x)[-1], teacher(x)
        found_map, found = task.backbone.forward_features(x)[-1], task.backbone(x)
        losses = task((images, labels))
        pooled = (task.pooled_head(found) - torch.nn.functional.layer_norm(wanted, wanted.shape[1:])).square().mean()
        same = at_size(found_map, wanted_map.shape[-2:]).movedim(1, -1)
    torch.testing.assert_close(losses["pooled"], pooled, rtol=1e-4, atol=1e-5)
    places = wanted_map.movedim(1, -1)
    standard = (places - places.mean(-1, keepdim=True)) / (places.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = 2 * (task.map_head(same) - standard).square().mean()
    torch.testing.assert_close(losses["map"], expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_of_any_scale_costs_about_one_where_nothing_is_known() -> None:
    for scale in (1e-2, 1.0, 1e3):
        wanted = scale * torch.randn(64, 32)
        assert float(error_of(torch.zeros(64, 32), wanted)) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize(("options", "named"), [({"map_weight": 0.0}, ["pooled"]), ({"pooled_weight": 0.0}, ["map"])])
def test_without_one_of_the_losses_every_trained_weight_still_has_a_gradient(options: dict, named: list[str]) -> None:
    task = build(backbone.build("mobilenetv4_conv_small"), **options)
    losses = task(batch())
    assert list(losses) == named
    losses[named[0]].backward()
    assert all(p.grad is not None for p in task.parameters() if p.requires_grad)
    frozen = [name for name, p in task.backbone.named_parameters() if not p.requires_grad]
    assert bool(frozen) == ("pooled_weight" in options), "the head convolution is not in the map"


def test_the_teacher_sees_its_own_mean_std_and_size(tiny_backbone: Callable[..., Any]) -> None:
    net, seen = tiny_backbone(), []
    net.only = (48, 40)
    net.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    teacher = Teacher(net, PIXEL_STATS["centered"], "it", (32, 32))
    seen.clear()
    pixels = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    teacher(pixels)
    assert all(x.shape == (2, 3, 48, 40) for x in seen)
    torch.testing.assert_close(seen[0], torch.ones(2, 3, 48, 40))  # white, for a mean and std of 0.5
    assert build(tiny_backbone(), teacher_size=64).teacher.size == (64, 64)


def test_the_teacher_is_nowhere_but_in_the_losses(tiny_backbone: Callable[..., Any]) -> None:
    task = build(tiny_backbone())
    theirs = {id(p) for p in task.teacher.net.parameters()}
    assert theirs and not theirs & {id(p) for p in task.parameters()}
    sizes = sum(v.numel() for v in task.state_dict().values() if isinstance(v, Tensor))
    assert sizes < sum(p.numel() for p in task.teacher.net.parameters())
    assert deepcopy(task).teacher is task.teacher
    assert not any(module.training for module in task.train().teacher.net.modules())
    assert parameter_groups(task, OptimConfig()) and task.exports() == {"backbone": task.backbone}


def test_a_tag_is_found_by_its_name_and_is_a_parent(
    tiny_backbone: Callable[..., Any], store: Store, card: Callable[..., Card]
) -> None:
    torch.manual_seed(3)
    net = backbone.build("test_vit")
    made = store.put(net, card(arch="test_vit", tag="big"))
    facts = FACTS._replace(weights_dir=store.root)
    task = build(tiny_backbone(), facts=facts, teacher=None, teacher_tag="big")
    assert [exported.digest for exported in task.learns_from] == [made.digest] and task.source == {}
    assert all(torch.equal(a, b) for a, b in zip(task.teacher.net.parameters(), net.parameters(), strict=True))
    for options in ({"teacher_tag": "small"}, {"teacher": "test_resnet", "teacher_tag": "big"}):
        with pytest.raises(WeightsError, match="small|test_resnet"):
            build(tiny_backbone(), facts=facts, **({"teacher": None} | options))
    named = build(tiny_backbone(), teacher="untrained:test_resnet")
    assert named.learns_from == [] and named.source == {"published": "features of untrained:test_resnet"}


def test_another_teacher_is_refused_when_a_run_is_resumed(
    tiny_backbone: Callable[..., Any], store: Store, card: Callable[..., Card]
) -> None:
    store.put(backbone.build("test_vit"), card(arch="test_vit", tag="big"))
    options: dict[str, Any] = {"facts": FACTS._replace(weights_dir=store.root), "teacher": None, "teacher_tag": "big"}
    state = build(tiny_backbone(), **options).state_dict()
    build(tiny_backbone(), **options).load_state_dict(state)
    store.put(backbone.build("test_vit"), card(arch="test_vit", tag="big"))
    with pytest.raises(WeightsError, match="this run learnt from test_vit big@.*give --teacher-tag as tag@digest"):
        build(tiny_backbone(), **options).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"teacher": None}, UsageError, "distill needs a teacher; give --teacher-tag TAG, or --teacher timm:NAME"),
        ({"teacher": "test_vit"}, UsageError, "distill needs a teacher"),
        ({"teacher_tag": "big"}, UsageError, "--teacher untrained:test_vit and --teacher-tag big are two teachers"),
        ({"teacher": "timm:test_vitt"}, UsageError, "no backbone 'test_vitt'"),
        ({"teacher": "timm:test_vit.r160_in1k"}, WeightsError, "could not be downloaded"),
        ({"pooled_weight": 0.0, "map_weight": 0.0}, UsageError, "nothing is learnt"),
    ],
)
def test_teachers_that_are_none_are_refused(
    options: dict, kind: type, sentence: str, tiny_backbone: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(kind, match=sentence):
        build(tiny_backbone(), facts=FACTS._replace(weights_dir=tmp_path), **options)
