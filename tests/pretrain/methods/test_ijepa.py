"""I-JEPA: encoder and predictor equal installed references, the loss is the formula, the average follows."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from backbones import backbone
from backbones.base import Backbone
from backbones.timm_zoo import Row, TimmBackbone
from backbones.tokens import forward_tokens, sincos_positions, vit_of
from pretrain.methods import Facts, method
from pretrain.methods.ijepa import IJEPA, Predictor, last_tokens
from pretrain.views.crops import RandomResizedCrop
from shared.devices.flat import opened
from shared.errors import UsageError
from shared.feeding.feed import Feed
from shared.feeding.pixels import PIXEL_STATS
from shared.feeding.plan import seed_of
from shared.loop.optim import parameter_groups
from shared.recipes.recipe import OptimConfig

# the encoder of the paper, smaller: no class token, norm before the pooling; 8x8 patches of 4 pixels
VIT = {
    "img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4,
    "class_token": False, "global_pool": "avg", "fc_norm": False,
}  # fmt: skip
FACTS = Facts(size=(32, 32), num_classes=None, pixels=PIXEL_STATS["imagenet"])
SMALL: dict[str, Any] = {"predictor_width": 16, "predictor_depth": 2}


def encoder(**told: Any) -> Backbone:
    return TimmBackbone(Row("vision_transformer", VIT | told))


def build(net: Backbone | None = None, facts: Facts = FACTS, **told: Any) -> IJEPA:
    torch.manual_seed(0)
    task = method.build("i-jepa", net or encoder(), facts, **(SMALL | told))
    assert isinstance(task, IJEPA)
    return task.train()


def batch(count: int = 4, size: tuple[int, int] = (32, 32)) -> tuple[Tensor, Tensor]:
    return torch.randint(256, (count, 3, *size), dtype=torch.uint8), torch.zeros(count, dtype=torch.long)


def loss_of(task: IJEPA, data: Any, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return task(data)["prediction"]


def shaken(module: nn.Module) -> Any:
    """The same with every learnt weight well away from where it starts, biases and scales included."""
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return module


# --- parity ---------------------------------------------------------------------------------


def test_encoder_equals_the_published_one_with_copied_weights() -> None:
    from transformers import IJepaConfig, IJepaModel

    ours = shaken(build()).eval()
    vit = vit_of(ours.backbone)
    theirs: Any = IJepaModel(
        IJepaConfig(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
            image_size=32, patch_size=4, layer_norm_eps=1e-6,
        )
    ).eval()  # fmt: skip
    theirs.load_state_dict(as_transformers_names(vit), strict=True)
    x = torch.randn(3, 3, 32, 32)
    expected = theirs(x).last_hidden_state
    torch.testing.assert_close(forward_tokens(ours.backbone, x), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.1


def as_transformers_names(vit: Any) -> dict[str, Tensor]:
    """Weights of a timm ViT under the names transformers gives them."""
    names = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    named = {
        "embeddings.position_embeddings": vit.pos_embed,
        "embeddings.patch_embeddings.projection.weight": vit.patch_embed.proj.weight,
        "embeddings.patch_embeddings.projection.bias": vit.patch_embed.proj.bias,
        "layernorm.weight": vit.norm.weight,
        "layernorm.bias": vit.norm.bias,
    }
    for i, block in enumerate(vit.blocks):
        for kind in ("weight", "bias"):
            for ours, theirs in names.items():
                named[f"layers.{i}.{theirs}.{kind}"] = getattr(block.get_submodule(ours), kind)
            for part, value in zip("qkv", getattr(block.attn.qkv, kind).chunk(3), strict=True):
                named[f"layers.{i}.attention.{part}_proj.{kind}"] = value
    return named


@pytest.mark.parametrize("grid", [(4, 4), (3, 5)])
def test_predictor_equals_that_of_lightly_with_copied_weights(grid: tuple[int, int]) -> None:
    from lightly.models.modules import IJEPAPredictorTIMM

    patches = grid[0] * grid[1]
    ours: Any = shaken(Predictor(grid, width=12, inner=16, depth=3, heads=4))
    theirs = IJEPAPredictorTIMM(num_patches=16, depth=3, mlp_dim=12, predictor_embed_dim=16, num_heads=4)
    theirs.decoder.pos_embed = nn.Parameter(ours.positions[None], requires_grad=False)
    theirs.decoder.mask_token = ours.mask_token
    theirs.decoder.blocks, theirs.decoder.norm = nn.Sequential(*ours.blocks, ours.last), ours.norm
    theirs.predictor_embed, theirs.predictor_proj = ours.narrow, ours.widen
    seen, context = torch.randn(2, 5, 12), torch.stack([torch.randperm(patches)[:5] for _ in range(2)])
    targets = torch.randint(patches, (2, 3, 4))
    expected = theirs(seen.clone(), [context], list(targets.unbind(1)))
    torch.testing.assert_close(
        ours(seen, context, targets), expected.unflatten(0, (3, 2)).transpose(0, 1), rtol=1e-4, atol=1e-5
    )
    assert expected.std() > 0.1


def test_positions_are_those_of_lightly() -> None:
    from lightly.models.utils import initialize_2d_sine_cosine_positional_embedding

    theirs = nn.Parameter(torch.zeros(1, 36, 32))
    initialize_2d_sine_cosine_positional_embedding(theirs, num_prefix_tokens=0)
    torch.testing.assert_close(sincos_positions(6, 6, 32), theirs[0].detach(), rtol=1e-5, atol=1e-5)


@given(tokens=st.integers(1, 6), more=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_a_block_run_for_its_last_tokens_is_the_block(tokens: int, more: int, seed: int) -> None:
    from timm.models.vision_transformer import Block

    torch.manual_seed(seed)
    block: Any = shaken(Block(16, 4, qkv_bias=True))
    x = torch.randn(2, tokens + more, 16, requires_grad=True)
    weights = [x, *block.parameters()]
    results = [block(x)[:, -tokens:], last_tokens(block, x, tokens)]
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    slopes = [torch.autograd.grad(y.square().sum(), weights) for y in results]
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-4)


# --- the loss -------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "patch"), [((32, 32), 4), ((32, 48), 4), ((60, 42), 6), ((70, 84), 14)])
def test_loss_is_the_formula_block_by_block(size: tuple[int, int], patch: int) -> None:
    net, facts = shaken(encoder(img_size=size, patch_size=patch)), FACTS._replace(size=size)
    task = shaken(build(net, facts, min_keep=4))
    data = batch(3, size)
    task.before_step(7)
    torch.manual_seed(5)
    context, targets = task.masks.draw(3, 7)
    x, distances = task.normalize(data[0]), []
    for image, seen, blocks in zip(x, context, targets, strict=True):
        features = F.layer_norm(vit_of(task.target).forward_features(image[None]), (32,))[0]
        told = forward_tokens(task.backbone, image[None], seen[None])
        for block in blocks:
            answer = task.predictor(told, seen[None], block[None, None])[0, 0]
            difference = (answer - features[block]).abs()
            distances.append(torch.where(difference < 1, difference**2 / 2, difference - 0.5).mean())
    expected = torch.stack(distances).mean()
    torch.testing.assert_close(loss_of(task, data, seed=5), expected, rtol=1e-4, atol=1e-6)
    assert task.masks.grid == (size[0] // patch, size[1] // patch)


def test_masks_are_those_of_the_step_and_of_the_random_state() -> None:
    task, data = build(), batch()
    losses = {}
    for step, seed in ((0, 0), (0, 1), (3, 0)):
        task.before_step(step)
        losses[step, seed] = loss_of(task, data, seed).item()
        assert loss_of(task, data, seed).item() == losses[step, seed]
    assert len(set(losses.values())) == 3


def test_labels_are_left_alone() -> None:
    task, (images, labels) = build(), batch()
    assert loss_of(task, (images, labels)) == loss_of(task, (images, labels + 3)) == loss_of(task, (images, None))


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3", "test_vit4"])
def test_every_weight_that_may_learn_gets_a_gradient(name: str) -> None:
    task = build(backbone.build(name), FACTS._replace(size=(96, 112)), predictor_width=24)
    loss_of(task, batch(2, (96, 112))).backward()
    assert not [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert not [n for n, p in task.named_parameters() if not p.requires_grad and p.grad is not None]


@pytest.mark.parametrize(("name", "heads"), [("test_vit", 2), ("test_vit2", 2), ("vit_pwee_patch16_reg1_gap_256", 4)])
def test_the_predictor_has_the_heads_of_the_encoder_unless_told(name: str, heads: int) -> None:
    for told, expected in ((0, heads), (8, 8)):
        with torch.device("meta"):
            task = build(backbone.build(name), FACTS._replace(size=(96, 96)), predictor_heads=told)
        blocks: Any = [*task.predictor.blocks, task.predictor.last]
        assert [block.attn.num_heads for block in blocks] == [expected] * 2


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="torch's attention in bfloat16 needs vector instructions, which are turned off",
)
def test_half_precision_gives_nearly_the_same_loss() -> None:
    task, data = build(), batch()
    full = loss_of(task, data)
    with torch.autocast("cpu", torch.bfloat16):
        half = loss_of(task, data)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.02) and half.item() != full.item()


# --- the average ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task() -> IJEPA:
    return build()


@given(momentum=st.floats(0, 1), progress=st.floats(0, 1))
def test_the_average_follows_less_and_less(task: IJEPA, momentum: float, progress: float) -> None:
    shaken(task.backbone)
    task.momentum = momentum
    keep = momentum + (1 - momentum) * progress
    before = [p.clone() for p in task.target.parameters()]
    task.after_step(progress)
    for old, new, theirs in zip(before, task.target.parameters(), task.backbone.parameters(), strict=True):
        torch.testing.assert_close(new, keep * old + (1 - keep) * theirs.detach(), rtol=1e-4, atol=1e-6)


def test_momentum_begins_at_its_value_and_ends_at_one() -> None:
    task = build()
    shaken(task.backbone)
    start, end = vit_of(task.target).norm.weight.clone(), vit_of(task.backbone).norm.weight.detach()
    task.after_step(1.0)
    assert torch.equal(vit_of(task.target).norm.weight, start)
    task.after_step(0.0)
    torch.testing.assert_close(vit_of(task.target).norm.weight, start + 0.004 * (end - start))


def test_the_average_starts_as_the_backbone_learns_nothing_and_travels_with_the_state() -> None:
    task = build()
    assert all(torch.equal(a, b) for a, b in zip(task.target.parameters(), task.backbone.parameters(), strict=True))
    learning = {name for group in parameter_groups(task, OptimConfig()) for name in group["names"]}
    assert {name.split(".")[0] for name in learning} == {"backbone", "predictor"}
    assert "backbone.net.pos_embed" not in learning
    shaken(task.backbone)
    task.after_step(0.0)
    fresh = build(encoder())
    fresh.load_state_dict(task.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fresh.target.parameters(), task.target.parameters(), strict=True))
    assert not torch.equal(vit_of(fresh.target).norm.weight, vit_of(fresh.backbone).norm.weight)


def test_stochastic_depth_acts_in_the_backbone_alone() -> None:
    net = TimmBackbone(Row("vision_transformer", VIT), drop_path=0.5)
    task = build(net)
    x, keep = torch.randn(4, 3, 32, 32), torch.arange(64).expand(4, -1)
    assert not torch.equal(forward_tokens(task.backbone, x), forward_tokens(task.backbone, x))
    assert torch.equal(task.look_up(x, keep[:, None]), task.look_up(x, keep[:, None]))
    assert task.backbone.training and not task.eval().train().target.training
    assert not task.look_up(x, keep[:, None]).requires_grad


@pytest.mark.parametrize("target", [True, False])
def test_the_export_is_the_average_unless_told_otherwise(target: bool) -> None:
    task = build(export_target=target)
    exported = task.exports()["backbone"]
    assert exported is (task.target if target else task.backbone)
    assert type(exported) is type(task.backbone)
    assert exported.state_dict().keys() == task.backbone.state_dict().keys()


def test_a_copy_of_the_task_draws_its_own_masks() -> None:
    task = build()
    twin, data = deepcopy(task), batch()
    twin.before_step(3)
    expected = loss_of(twin, data)
    task.before_step(1)
    assert loss_of(twin, data) == expected


# --- positions, views -----------------------------------------------------------------------


def test_positions_are_fixed_unless_they_are_told_or_were_published() -> None:
    expected = sincos_positions(8, 8, 32)
    assert torch.equal(vit_of(build().backbone).pos_embed[0], expected)
    free = vit_of(build(fixed_positions=False).backbone).pos_embed
    assert free.requires_grad and not torch.equal(free[0], expected)
    published = encoder()
    published.pixels = PIXEL_STATS["imagenet"]
    theirs = vit_of(published).pos_embed
    before = theirs.detach().clone()
    build(published)
    assert torch.equal(theirs, before) and theirs.requires_grad


def test_the_view_is_a_crop_of_at_least_the_share_and_never_mirrored() -> None:
    task, rng = build(crop_scale=0.5), np.random.default_rng(0)
    view = task.view()
    assert isinstance(view, RandomResizedCrop) and view.scale == (0.5, 1.0)
    assert build().view().scale == (0.3, 1.0)  # type: ignore[attr-defined]
    ramp = torch.arange(100, dtype=torch.uint8).expand(3, 100, 100).clone()
    crops = [view(ramp, rng) for _ in range(30)]
    assert all((crop[0, 0].int().diff() >= 0).all() and crop.shape == (3, 32, 32) for crop in crops)
    widths = [int(crop[0, 0, -1]) - int(crop[0, 0, 0]) for crop in crops]
    assert min(widths) > 100 * (0.5 * 3 / 4) ** 0.5 - 8 and max(widths) > 85


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "told", "sentence"),
    [
        ((32, 32), {"momentum": 1.5}, "momentum is 1.5; it must be from 0 to 1"),
        ((32, 32), {"crop_scale": 0.0}, "crop_scale is 0.0; it must be greater than 0"),
        ((32, 32), {"predictor_depth": 0}, "predictor_depth is 0; it must be from 1"),
        ((32, 32), {"num_targets": 0}, "num_targets is 0; it must be from 1"),
        (
            (32, 32),
            {"predictor_heads": 3},
            "3 attention heads do not divide predictor_width 16; give --predictor-heads",
        ),
        (
            (32, 32),
            {"predictor_width": 18, "predictor_heads": 2},
            "sine-cosine positions need a width divisible by 4, not 18",
        ),
        ((32, 32), {"min_keep": 60}, "a grid of 8x8 patches is too small to mask"),
        ((16, 16), {}, "a grid of 4x4 patches is too small to mask"),
        ((30, 32), {}, "patches of 4x4 pixels do not divide an image of 30x32; take --size 32 32"),
    ],
)
def test_what_cannot_work_is_refused_with_a_way_out(size: tuple[int, int], told: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        build(encoder(), FACTS._replace(size=size), **told)


def test_a_backbone_without_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="use one such as vit_reg4_m16_rms_avg or vit_base_patch16_224"):
        build(backbone.build("test_resnet"))


def test_a_refused_backbone_is_left_as_it_was() -> None:
    net = encoder()
    before = vit_of(net).pos_embed.detach().clone()
    with pytest.raises(UsageError):
        build(net, predictor_heads=3)
    assert torch.equal(vit_of(net).pos_embed, before) and vit_of(net).pos_embed.requires_grad


# --- masks come with the batch --------------------------------------------------------------


class Gray:
    """Nine gray images without labels."""

    sizes, fingerprint = (9,), "f" * 64

    def load(self, index: int, rng: Any) -> Any:
        return torch.full((3, 32, 32), 20 * index, dtype=torch.uint8)

    def collate(self, samples: list[Any]) -> Any:
        return torch.stack(samples), torch.full((len(samples),), -1)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_brings_the_masks_that_the_step_would_draw(workers: int) -> None:
    task = build(encoder(), FACTS, min_keep=4)
    feed = Feed(Gray(), seed=3, batch_size=3, micro_batches=2, workers=workers, beside=task.beside())
    for step, micro_batches in enumerate(feed.steps(2, 4), start=2):
        for i, (images, labels, masks) in enumerate(map(opened, micro_batches)):
            task.before_step(step)
            torch.manual_seed(seed_of(3, 2 * step + i))
            context, targets = task.masks.draw(len(images), task.step)
            assert type(masks) is tuple and masks[0].equal(context) and masks[1].equal(targets)
            torch.manual_seed(seed_of(3, 2 * step + i))
            drawn = task.eval()((images, labels))["prediction"]
            assert task((images, labels, masks))["prediction"].equal(drawn)
