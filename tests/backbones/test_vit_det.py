"""The ViT under ViTDet is transformers' VitDetBackbone: windows, global blocks, relative positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import VitDetBackbone, VitDetConfig

from backbones.timm_zoo import Row, TimmBackbone

EMBED, DEPTH, HEADS, WINDOW = 64, 4, 4, 4


def ours_and_transformers(side: int) -> tuple[Any, Any]:
    """A small ViT of windows, two of four blocks global, with random positions; and transformers' with its weights."""
    small = {
        "embed_dim": EMBED,
        "depth": DEPTH,
        "num_heads": HEADS,
        "window_size": WINDOW,
        "global_attn_indexes": (1, 3),
    }
    row = Row("samvit_base_patch16_224", {**small, "neck_chans": 0, "use_abs_pos": True}, after_neck=True)
    ours = TimmBackbone(row, img_size=(side, side)).eval()
    for name, weight in ours.net.named_parameters():
        if "pos" in name:
            nn.init.normal_(weight, std=0.5)
    config = VitDetConfig(
        hidden_size=EMBED,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        window_size=WINDOW,
        window_block_indices=[0, 2],
        use_relative_position_embeddings=True,
        image_size=side,
        pretrain_image_size=side,
        patch_size=16,
    )
    theirs = VitDetBackbone(config).eval()
    theirs.load_state_dict(dict(renamed(ours.net, theirs.state_dict())))
    return ours, theirs


def renamed(net: Any, theirs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(transformers' name, our tensor): it keeps a place for a class token that it does not have."""
    own = net.state_dict()
    for name, tensor in theirs.items():
        if name == "embeddings.position_embeddings":
            yield name, torch.cat((tensor[:, :1], own["pos_embed"].flatten(1, 2)), 1)
        else:
            usual = name.replace("embeddings.projection", "patch_embed.proj").replace("encoder.layer", "blocks")
            usual = usual.replace("attention", "attn")
            yield name, own[usual]


@pytest.mark.parametrize("size", [(176, 176), (112, 208)], ids=["as built", "another size"])
def test_the_vit_is_that_of_transformers(size: tuple[int, int]) -> None:
    """11 x 11 places in windows of 4 need padding. Of another size, relative positions are stretched alike, absolute
    ones not quite: ours are antialiased, so they are left out there."""
    ours, theirs = ours_and_transformers(176)
    if size != (176, 176):
        nn.init.zeros_(ours.net.pos_embed)
        nn.init.zeros_(theirs.embeddings.position_embeddings)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        (mine,) = ours.forward_features(pixels)
        (plain,) = theirs(pixels).feature_maps
        other = ours.net.neck(plain)  # ours ends with a norm
    assert mine.shape == (2, EMBED, size[0] // 16, size[1] // 16)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert mine.std() > 0.1


def test_positions_of_the_vit_matter() -> None:
    """Or the test above would pass without them."""
    ours, _ = ours_and_transformers(176)
    pixels = torch.randn(1, 3, 176, 176)
    with torch.no_grad():
        before = ours.forward_features(pixels)[0]
        for name in ("pos_embed", "blocks.0.attn.rel_pos_h", "blocks.1.attn.rel_pos_w"):
            kept = ours.net.get_parameter(name).clone()
            nn.init.zeros_(ours.net.get_parameter(name))
            assert (ours.forward_features(pixels)[0] - before).abs().max() > 1e-2, name
            ours.net.get_parameter(name).copy_(kept)
