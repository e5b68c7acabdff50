"""Masked Hiera: equal to the authors' package with the same weights and mask, blind to hidden units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import backbone
from backbones.hiera import Hiera
from backbones.timm_zoo import Row
from pretrain.masked.hiera import MaskedHiera
from pretrain.masked.places import patches_of, split_places, taken
from shared.errors import UsageError

SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4}


def small_hiera(size: tuple[int, int] = (96, 96), **told: Any) -> Hiera:
    args = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 1, 2), "img_size": size} | told
    return Hiera(Row("hiera_tiny_224", args), drop_path=0.0)


def as_ours(state: dict[str, Tensor], decoder_blocks: int) -> dict[str, Tensor]:
    """Weights of the authors' masked autoencoder under our names."""
    named = {}
    for name, value in state.items():
        if name.startswith("decoder_") or name == "mask_token":
            name = f"decoder.{name.removeprefix('decoder_')}"
            name = name.replace(f"blocks.{decoder_blocks - 1}", "last").replace("pos_embed", "positions")
            name = name.replace("decoder.pred.", "decoder.predict.")
            value = (
                value.flatten() if name.endswith("mask_token") else value[0] if name.endswith("positions") else value
            )
        elif name.startswith("multi_scale_fusion_heads"):
            name = name.replace("multi_scale_fusion_heads", "fuse")
        else:
            name = "backbone.net." + name.replace("encoder_norm", "head.norm")
        named[name] = value
    return named


@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
def test_outputs_and_loss_equal_those_of_the_authors(size: tuple[int, int]) -> None:
    hiera = pytest.importorskip("hiera")
    theirs = hiera.MaskedAutoencoderHiera(
        input_size=size, embed_dim=16, num_heads=1, stages=(1, 2, 1, 2), q_pool=2,
        decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=4,
    ).eval()  # fmt: skip
    ours = MaskedHiera(small_hiera(size), size, **SMALL).eval()
    ours.load_state_dict(as_ours(theirs.state_dict(), 2))
    units = size[0] * size[1] // 32**2
    x, noise = torch.randn(3, 3, *size), torch.rand(3, units)
    seen, hidden = split_places(noise, ours.seen)
    assert ours.seen == int(units * (1 - 0.6))
    mask = torch.zeros(3, units, dtype=torch.bool).scatter_(1, seen, True)  # True is seen
    with torch.no_grad():
        loss, predicted, pixels, _ = theirs(x, mask=mask)
        torch.testing.assert_close(ours(x, noise), loss, rtol=1e-4, atol=0)
        asked = ours.places[hidden].flatten(1)
        in_order = asked.argsort(1)  # theirs come row by row
        mine = taken(ours.predict(x, seen, hidden), in_order).flatten(0, 1)
        torch.testing.assert_close(mine, predicted, rtol=1e-4, atol=2e-6)
        truth = taken(patches_of(x, 16, 16), asked.gather(1, in_order)).flatten(0, 1)
        white = (truth - truth.mean(-1, keepdim=True)) / (truth.var(-1, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(white, pixels, rtol=1e-4, atol=1e-5)


def test_base_has_as_many_parameters_as_the_authors() -> None:
    with torch.device("meta"):
        net = MaskedHiera(backbone.build("hiera_base"), (224, 224))
    assert sum(p.numel() for p in net.parameters()) == 78_635_648


@pytest.mark.parametrize("windows", [False, True])
def test_hidden_units_change_the_target_but_no_prediction(windows: bool) -> None:
    net = MaskedHiera(small_hiera(abs_win_pos_embed=windows), (64, 96), **SMALL, norm_pixels=False).eval()
    noise = torch.rand(2, 6)
    seen, hidden = split_places(noise, net.seen)
    x = torch.randn(2, 3, 64, 96)
    other = x.clone()
    top, left = divmod(int(hidden[1, 0]), 3)
    other[1, :, top * 32 : top * 32 + 32, left * 32 : left * 32 + 32] = 4.0
    assert torch.equal(net.predict(x, seen, hidden), net.predict(other, seen, hidden))
    assert net(x, noise) != net(other, noise)


@pytest.mark.parametrize("windows", [False, True])
def test_everything_learns_and_the_backbone_is_left_as_it_was_built(windows: bool) -> None:
    told = small_hiera(abs_win_pos_embed=windows)
    names = set(told.state_dict())
    net = MaskedHiera(told, (96, 96), **SMALL)
    net(torch.randn(2, 3, 96, 96)).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert {n.removeprefix("backbone.") for n in net.state_dict() if n.startswith("backbone.")} == names
    assert told.forward_features(torch.randn(1, 3, 96, 96))[-1].shape == (1, 128, 3, 3), "it pools three times again"


def test_masks_come_from_torchs_generator_and_from_nothing_else() -> None:
    net, x, losses = MaskedHiera(small_hiera(), (96, 96), **SMALL).eval(), torch.randn(2, 3, 96, 96), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        losses.append(net(x).item())
    assert losses[0] == losses[1] != losses[2]


def test_weights_are_left_alone_unless_they_are_to_be_fresh() -> None:
    net = small_hiera()
    before = net.net.blocks[0].mlp.fc1.weight.clone()
    MaskedHiera(net, (96, 96), **SMALL)
    assert torch.equal(net.net.blocks[0].mlp.fc1.weight, before)
    MaskedHiera(net, (96, 96), **SMALL, fresh=True)
    assert not torch.equal(net.net.blocks[0].mlp.fc1.weight, before)


def test_what_cannot_be_masked_so_is_refused(tiny_backbone: type) -> None:
    with pytest.raises(UsageError, match="mask units of a Hiera; use one such as hiera_abswin_base"):
        MaskedHiera(tiny_backbone(), (96, 96))
    with pytest.raises(UsageError, match="mask units of 32 pixels do not divide an image of 96x100; take --size 96 96"):
        MaskedHiera(small_hiera(), (96, 100))
    with pytest.raises(UsageError, match="mask_ratio 0.9 of 6 places leaves nothing to see"):
        MaskedHiera(small_hiera(), (64, 96), ratio=0.9)
