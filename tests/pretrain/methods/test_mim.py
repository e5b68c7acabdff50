"""The method mim: the right network for the backbone, the views of its paper, refusals in one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones import backbone
from backbones.base import Backbone
from backbones.hiera import Hiera
from backbones.timm_zoo import Row
from pretrain.masked.hiera import MaskedHiera
from pretrain.masked.mae import MAE
from pretrain.masked.simmim import SimMIM
from pretrain.methods import Facts, Method, method
from pretrain.methods.mim import VARIANTS
from shared.errors import UsageError
from shared.feeding.image import decode_image
from shared.feeding.pixels import PIXEL_STATS

FACTS = Facts(size=(64, 96), num_classes=None, pixels=PIXEL_STATS["imagenet"])
DECODER = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4}


def small_hiera() -> Hiera:
    args = {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1), "img_size": (64, 96), "abs_win_pos_embed": True}
    return Hiera(Row("hiera_tiny_224", args))


def build(net: Backbone, facts: Facts = FACTS, **options: Any) -> Method:
    return method.build("mim", net, facts, **(DECODER | options))


NETS = {
    "simmim": lambda: backbone.build("test_resnet"),
    "mae": lambda: backbone.build("test_vit"),
    "hiera": small_hiera,
}
PAGES = {"simmim": SimMIM, "mae": MAE, "hiera": MaskedHiera}
each = pytest.mark.parametrize("kind", list(VARIANTS))


@each
def test_each_kind_of_backbone_gets_the_network_made_for_it(kind: str) -> None:
    net = NETS[kind]()
    task = build(net)
    assert type(task.net) is PAGES[kind] and task.backbone is net and task.exports() == {"backbone": net}
    names = [name for name, _ in task.named_parameters()]
    assert len(names) == len(set(names)) == len({n for n in task.state_dict() if n in names}), "nothing is kept twice"


@each
def test_any_backbone_may_be_told_to_take_simmim(kind: str) -> None:
    assert type(build(NETS[kind](), variant="simmim").net) is SimMIM


@each
def test_a_batch_gives_one_loss_from_which_every_trained_weight_learns(kind: str) -> None:
    task, images = build(NETS[kind]()), torch.randint(256, (3, 3, 64, 96), dtype=torch.uint8)
    losses = task((images, None))
    assert list(losses) == ["reconstruction"] and losses["reconstruction"].isfinite()
    losses["reconstruction"].backward()
    assert not [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    first = next(p for p in task.backbone.parameters() if p.requires_grad)
    assert first.grad is not None and first.grad.abs().sum() > 0


@each
def test_the_same_seed_hides_the_same_places(kind: str) -> None:
    task, images = build(NETS[kind]()).eval(), torch.randint(256, (3, 3, 64, 96), dtype=torch.uint8)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(task((images, None))["reconstruction"].item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("kind", "scale", "bicubic", "ratio"),
    [("simmim", 0.67, False, 0.6), ("mae", 0.2, True, 0.75), ("hiera", 0.2, True, 0.6)],
)
def test_crops_and_ratios_are_those_of_the_paper(kind: str, scale: float, bicubic: bool, ratio: float) -> None:
    task: Any = build(NETS[kind]())
    crop, flip = task.view().views
    assert crop.scale == (scale, 1.0) and crop.ratio == (0.75, pytest.approx(4 / 3)) and crop.bicubic is bicubic
    assert flip.p == 0.5 and VARIANTS[kind].ratio == ratio
    assert build(NETS[kind](), crop_scale=0.5).view().views[0].scale == (0.5, 1.0)  # type: ignore[attr-defined]
    image = torch.randint(256, (3, 80, 70), dtype=torch.uint8)
    for view in (task.view(), task.val_view()):
        shown = view(image, np.random.default_rng(0))
        assert shown.shape == (3, 64, 96) and shown.dtype == torch.uint8


def test_the_decoder_is_as_large_as_it_is_told_to_be() -> None:
    decoder: Any = build(backbone.build("test_vit"), decoder_width=48, decoder_depth=3, decoder_heads=6).net.decoder
    assert len(decoder.blocks) == 2 and decoder.last.attn.num_heads == 6 and decoder.embed.out_features == 48
    task: Any = method.build("mim", backbone.build("test_vit"), FACTS)
    assert (len(task.net.decoder.blocks) + 1, task.net.decoder.last.attn.num_heads) == (8, 16)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("simmim", {"variant": "mae"}, "this method needs a plain vision transformer, and this backbone is not one"),
        ("mae", {"variant": "hiera"}, "mask units of a Hiera; use one such as hiera_abswin_base"),
        ("mae", {"variant": "simmmim"}, "variant is 'simmmim', did you mean 'simmim'.*; it can be auto, simmim"),
        ("simmim", {"mask_ratio": 0}, "mask_ratio 0.0 of .* leaves nothing to predict; take one between 0 and 1"),
        ("mae", {"mask_ratio": 1.0}, "mask_ratio 1.0 of 24 places leaves nothing to see; take one between 0 and 1"),
        ("hiera", {"mask_ratio": 0.99}, "mask_ratio 0.99 of 6 places leaves nothing to see; take one between 0 and 1"),
        ("mae", {"mask_ratio": "much"}, "mask_ratio is 'much'; give a number"),
        ("mae", {"mask_ratio": 1.5}, "mask_ratio is 1.5; it must be from 0 to 1"),
        ("mae", {"crop_scale": 2}, "crop_scale is 2.0; it must be greater than 0 and up to 1"),
        ("mae", {"crop_ratio": 0.5}, "crop_ratio is 0.5; it must be from 1 to 100"),
        ("mae", {"decoder_heads": 5}, "1 blocks, 5 heads and width 32 cannot be built"),
        ("simmim", {"mask_size": 7}, "mask cells of 7 pixels do not divide an image of 64x96"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(kind: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as told:
        build(NETS[kind](), **options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("kind", "size", "says"),
    [
        ("simmim", (64, 100), "stride 32, does not divide an image of 64x100; take --size 64 96"),
        ("mae", (64, 90), "patches of 16x16 pixels do not divide an image of 64x90; take --size 64 96"),
        ("hiera", (64, 80), "mask units of 32 pixels do not divide an image of 64x80; take --size 64 64"),
    ],
)
def test_images_that_places_do_not_divide_are_refused(kind: str, size: tuple[int, int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build(NETS[kind](), FACTS._replace(size=size))


@each
@pytest.mark.skipif("CHORDATE_REAL_DATA" not in os.environ, reason="CHORDATE_REAL_DATA names no folder of real images")
def test_hidden_parts_of_photographs_are_told_better_than_by_their_mean(kind: str) -> None:
    files = sorted((Path(os.environ["CHORDATE_REAL_DATA"]) / "imagenet-sample").glob("*.JPEG"))[:8]
    assert len(files) == 8
    torch.manual_seed(0)
    task = build(NETS[kind](), hflip=0.0, crop_scale=1.0)
    view = task.val_view()
    images = torch.stack(
        [view(decode_image(file.read_bytes(), upright=True), np.random.default_rng(0)) for file in files]
    )
    by_mean = (task.normalize(images) - task.normalize(images).mean()).abs().mean().item() if kind == "simmim" else 1.0
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(40):
        loss = task((images, None))["reconstruction"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-8:]) / 8 < 0.95 * by_mean
