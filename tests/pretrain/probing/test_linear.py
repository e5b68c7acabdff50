"""A linear probe reads off what a line can separate, and nothing of the backbone moves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones import backbone
from pretrain.probing.linear import LinearProbe, linear_on_vectors
from pretrain.probing.probe import Vectors
from pretrain.probing.recipe import EvalRecipe, LinearOptimConfig, LinearScheduleConfig
from shared.feeding.pixels import PIXEL_STATS
from shared.loop.optim import build_optimizer
from shared.recipes.flags import from_args

SHORT = LinearScheduleConfig(epochs=20)


def corners(count: int, seed: int = 0, classes: int = 6, width: int = 10) -> Vectors:
    """Vectors far along the axis of their class, at a scale that only standardising makes learnable."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return Vectors(1e-3 * (6 * F.one_hot(labels, width) + torch.randn(count, width, generator=rng)) + 5.0, labels)


def quick(known: Vectors, asked: Vectors, seed: int = 0) -> dict[str, float]:
    return linear_on_vectors(known, asked, 6, optim=LinearOptimConfig(), schedule=SHORT, batch_size=32, seed=seed)


def test_what_a_line_separates_is_told_apart_without_a_fault() -> None:
    assert quick(corners(600), corners(90, seed=1)) == {"linear": 1.0, "linear_top5": 1.0}


def test_what_says_nothing_of_the_class_is_told_at_chance() -> None:
    known, asked = corners(600), corners(600, seed=1)
    blind = Vectors(torch.randn(600, 10, generator=torch.Generator().manual_seed(2)), asked.labels)
    assert quick(Vectors(blind.values.flip(0), known.labels), blind)["linear"] == pytest.approx(1 / 6, abs=0.06)


def test_the_quick_form_is_the_same_for_the_same_seed() -> None:
    known, asked = Vectors(torch.randn(96, 10), torch.arange(96) % 6), corners(60)
    assert quick(known, asked) == quick(known, asked)


def test_the_default_is_the_published_protocol() -> None:
    recipe = from_args(EvalRecipe, ["--schedule", "cosine"], prog="pretrain eval", folder="eval", own="").recipe
    assert (recipe.optim.opt, recipe.optim.lr, recipe.optim.momentum, recipe.optim.wd) == ("sgd", 0.02, 0.9, 1e-6)
    assert (recipe.schedule.epochs, recipe.schedule.lr_scheduler, recipe.schedule.lr_cosine_min) == (100, "cosine", 0)
    assert recipe.runtime.batch_size == 256 and recipe.runtime.grad_accum_steps == 1


def test_only_the_layer_learns_and_the_backbone_keeps_weights_and_statistics() -> None:
    net = backbone.build("test_resnet")
    task = LinearProbe(net, PIXEL_STATS["imagenet"], 3).train()
    assert not any(part.training for part in net.modules()) and task.classifier.training
    before = {name: value.clone() for name, value in task.state_dict(keep_vars=False).items() if "extra" not in name}
    optimizer = build_optimizer(task, LinearOptimConfig(lr=1.0))
    images, labels = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8), torch.arange(12) % 3
    losses = []
    for _ in range(8):
        loss = task((images, labels))["classification"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = {name for name, value in before.items() if not torch.equal(value, task.state_dict()[name])}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_evaluation_counts_over_all_batches() -> None:
    task = LinearProbe(backbone.build("test_resnet"), PIXEL_STATS["imagenet"], 7).eval()
    images = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8)
    best = task.classify(images).topk(5).indices
    labels = torch.cat((best[:4, 0], best[4:7, 4], (best[7:, 0] + 7) % 7))
    labels[7:] = torch.tensor([next(c for c in range(7) if c not in row) for row in best[7:].tolist()])
    told = task.evaluate([(images[:3], labels[:3]), (images[3:], labels[3:])])
    assert told == {"linear": 0.4, "linear_top5": 0.7}


def test_a_probe_begun_on_other_weights_is_not_continued() -> None:
    task = LinearProbe(backbone.build("test_resnet"), PIXEL_STATS["imagenet"], 3)
    state = task.state_dict()
    task.load_state_dict(state)
    torch.manual_seed(5)
    with pytest.raises(RuntimeError, match="other weights"):
        LinearProbe(backbone.build("test_resnet"), PIXEL_STATS["imagenet"], 3).load_state_dict(state)
