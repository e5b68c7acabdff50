"""What a conversion makes computes what its parent computed, and says what it changed and what it left as it began."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import Backbone, backbone
from backbones.conversions import CONVERSIONS, RESIZE, conversion_for, fit_sizes
from backbones.inherit import find_parent, inherit, is_stale, keep, kept_args, rebuild
from backbones.timm_zoo import Row, TimmBackbone
from shared.errors import WeightsError
from shared.weights.card import Card
from shared.weights.store import Store
from shared.weights.transfer import fill

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2}
PLAIN = {"patch_size": 16, "class_token": False, "global_pool": "avg", "fc_norm": False}
STAGES = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 3, 1)}


def vit(img_size: Any = 224, **args: Any) -> Any:
    return TimmBackbone(Row("vision_transformer", SMALL | PLAIN | {"img_size": img_size} | args)).eval()


def vitdet(img_size: int = 224, **args: Any) -> Any:
    told = {"use_rel_pos": False, "neck_chans": 0, "global_attn_indexes": (1,), "img_size": img_size}
    return TimmBackbone(
        Row("samvit_base_patch16_224", SMALL | {"use_abs_pos": True} | told | args, after_neck=True)
    ).eval()


def hiera(**args: Any) -> Any:
    told = {"abs_win_pos_embed": True, "img_size": (224, 224)}
    return TimmBackbone(Row("hiera_tiny_224", STAGES | told | args)).eval()


def hieradet() -> Any:
    told = {"window_spec": (8, 4, 14, 7), "global_att_blocks": (4,), "global_pos_size": (14, 14)}
    return TimmBackbone(Row("sam2_hiera_base_plus", STAGES | told)).eval()


def scrambled(net: Any) -> Any:
    """Every parameter has a value of its own, also those that begin at 0 or 1."""
    for parameter in net.parameters():
        nn.init.normal_(parameter, parameter.mean().item(), 0.1)
    return net


def converted(parent: Backbone, child: Backbone) -> tuple[str, list[str], list[str]]:
    """Fill the child; the conversion's name, what it changed, what it left as initialized."""
    tensors = parent.state_dict()
    way = conversion_for(tensors, child)
    assert way is not None
    made, changed = way(tensors, child)
    told = fill(child, made, source="parent", digest="", allow_missing=way.may_stay, converted=changed)
    return way.name, told.converted, told.missing


def blocks_of(net: Any, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return net.net.forward_intermediates(x, intermediates_only=True)


def furthest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    assert len(ours) == len(theirs) > 0
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(ours, theirs, strict=True))


# --- ViT -> ViTDet --------------------------------------------------------------------------


def test_vitdet_computes_what_the_vit_did_where_a_window_covers_the_image() -> None:
    parent, child = scrambled(vit()), vitdet(use_rel_pos=True)
    name, changed, kept = converted(parent, child)
    assert name == "vit-to-vitdet" and changed == ["net.pos_embed"]
    assert kept == [
        *(f"net.blocks.{i}.attn.rel_pos_{side}" for i in range(3) for side in "hw"),
        "net.neck.weight",
        "net.neck.bias",
    ]
    x = torch.randn(2, 3, 224, 224)
    assert furthest(blocks_of(child, x), blocks_of(parent, x)) < 1e-4
    parent.net.pos_embed.data[0, 5] += 1
    assert furthest(blocks_of(child, x), blocks_of(parent, x)) > 1e-3, "the comparison can fail"


def test_vitdet_with_global_attention_alone_computes_it_for_any_image() -> None:
    parent, child = scrambled(vit()), vitdet(use_rel_pos=True, global_attn_indexes=(0, 1, 2))
    converted(parent, child)
    x = torch.randn(2, 3, 96, 160)
    assert furthest(blocks_of(child, x), blocks_of(parent, x)) < 1e-4


def test_registers_class_token_and_final_norm_have_no_place() -> None:
    parent = scrambled(vit(reg_tokens=4, no_embed_class=False))
    child = vitdet()
    _, changed, kept = converted(parent, child)
    assert kept == ["net.neck.weight", "net.neck.bias"]
    patches = parent.net.pos_embed[:, 4:].reshape(1, 14, 14, 32)
    assert torch.equal(child.net.pos_embed, patches) and changed == ["net.pos_embed"]
    classed = scrambled(vit(class_token=True, global_pool="token", reg_tokens=4, no_embed_class=True))
    converted(classed, child)
    assert torch.equal(child.net.pos_embed.flatten(1, 2), classed.net.pos_embed)


def test_layer_scales_are_folded_into_the_projections_before_them() -> None:
    parent, child = scrambled(vit(init_values=0.5)), vitdet()
    _, changed, _ = converted(parent, child)
    assert "net.blocks.2.attn.proj.weight" in changed and "net.blocks.2.mlp.fc2.bias" in changed
    x = torch.randn(1, 3, 224, 224)
    assert furthest(blocks_of(child, x), blocks_of(parent, x)) < 1e-4


def test_positions_go_to_the_size_the_child_was_built_for() -> None:
    parent, child = scrambled(vit()), vitdet(320, global_attn_indexes=(0, 1, 2))
    converted(parent, child)
    assert child.net.pos_embed.shape == (1, 20, 20, 32)
    x = torch.randn(1, 3, 320, 320)
    assert furthest(blocks_of(child, x), blocks_of(parent, x)) < 1e-4, "the ViT resamples its positions on the way"


def test_positions_of_no_square_are_refused() -> None:
    child = vitdet()
    way = conversion_for(vit().state_dict(), child)
    assert way is not None
    with pytest.raises(WeightsError, match="15 position embeddings are not for a square image"):
        way(vit().state_dict() | {"net.pos_embed": torch.zeros(1, 15, 32)}, child)


def test_tensors_without_a_place_are_refused_and_not_dropped() -> None:
    parent, child = vit(qk_norm=True), vitdet()
    with pytest.raises(WeightsError, match=r"unexpected \(net.blocks.0.attn.q_norm.weight"):
        converted(parent, child)


# --- Hiera -> HieraDet ----------------------------------------------------------------------


def flat_positions(net: Any) -> None:
    """The same position everywhere: Hiera and HieraDet stretch positions by different cubics, and this one by none."""
    with torch.no_grad():
        net.net.pos_embed.copy_(net.net.pos_embed.mean((2, 3), keepdim=True).expand_as(net.net.pos_embed))


@pytest.mark.parametrize("scales", [None, 0.5], ids=["no layer scale", "layer scale"])
def test_hieradet_computes_what_the_hiera_did(scales: float | None) -> None:
    parent, child = scrambled(hiera(init_values=scales)), hieradet()
    flat_positions(parent)
    name, changed, kept = converted(parent, child)
    assert name == "hiera-to-hieradet" and not kept and ("net.pos_embed_window" in changed)
    assert len(changed) == (1 if scales is None else 1 + 4 * 7)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert furthest(child.forward_features(x), parent.forward_features(x)) < 1e-4
        assert furthest([child(x)], [parent(x)]) < 1e-4


def test_hieradet_of_a_hiera_stays_near_it_with_positions_of_any_shape() -> None:
    parent, child = hiera(), hieradet()
    converted(parent, child)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert furthest(child.forward_features(x), parent.forward_features(x)) < 0.02


def test_hiera_to_hieradet_and_back_is_bit_equal() -> None:
    parent, child, again = scrambled(hiera()), hieradet(), hiera()
    converted(parent, child)
    assert converted(child, again)[0] == "hieradet-to-hiera"
    assert all(torch.equal(a, b) for a, b in zip(parent.parameters(), again.parameters(), strict=True))


def test_hiera_without_window_positions_has_no_way_to_hieradet() -> None:
    assert conversion_for(hiera(abs_win_pos_embed=False).state_dict(), hieradet()) is None


def test_no_conversion_leads_between_strangers() -> None:
    assert conversion_for(backbone.build("test_resnet").state_dict(), vitdet()) is None
    assert conversion_for(vit().state_dict(), backbone.build("test_resnet")) is None
    assert len({way.name for way in (*CONVERSIONS, RESIZE)}) == len(CONVERSIONS) + 1


def test_parent_is_left_as_it_was() -> None:
    parent = scrambled(vit(init_values=0.5))
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    converted(parent, vitdet())
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())


# --- sizes ----------------------------------------------------------------------------------


def resized(net: Any, child: Any) -> list[str]:
    tensors, changed = fit_sizes(net.state_dict(), child)
    fill(child, tensors, source="parent", digest="")
    return changed


def test_vit_of_another_size_computes_what_the_first_does_there() -> None:
    small, large = scrambled(vit(224, class_token=True, global_pool="token")), vit(320, class_token=True)
    large.net.global_pool = "token"
    assert resized(small, large) == ["net.pos_embed"]
    x = torch.randn(1, 3, 320, 320)
    with torch.no_grad():
        assert furthest([large(x)], [small(x)]) < 1e-4
    assert torch.equal(large.net.pos_embed[:, 0], small.net.pos_embed[:, 0]), "the class token keeps its own"


def test_vit_may_be_resized_to_an_oblong() -> None:
    small, wide = scrambled(vit(224)), vit((96, 160))
    resized(small, wide)
    x = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        assert furthest([wide(x)], [small(x)]) < 1e-4


def test_vitdet_of_another_size_computes_what_the_first_does_there() -> None:
    small, large = scrambled(vitdet(224, use_rel_pos=True)), vitdet(448, use_rel_pos=True)
    changed = resized(small, large)
    assert changed == ["net.pos_embed", "net.blocks.1.attn.rel_pos_h", "net.blocks.1.attn.rel_pos_w"]
    assert large.net.blocks[1].attn.rel_pos_h.shape == (55, 16)
    x = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        assert furthest(large.forward_features(x), small.forward_features(x)) < 1e-4


def swin(window: int) -> Any:
    told = {"embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": window, "strict_img_size": False}
    return TimmBackbone(Row("swin_tiny_patch4_window7_224", told)).eval()


def tiny_vit(window: int) -> Any:
    told = {"embed_dims": (16, 16), "depths": (1, 1), "num_heads": (1, 2), "window_sizes": (7, window)}
    return TimmBackbone(Row("tiny_vit_5m_224", told)).eval()


@pytest.mark.parametrize("make", [swin, tiny_vit])
def test_window_tables_keep_their_shape_over_the_window(make: Callable[[int], Any]) -> None:
    """A bias that grows with the distance keeps growing with it, and its range stays."""
    small, large = make(7), make(10)
    tables = [name for name in small.state_dict() if name.endswith(("bias_table", "attention_biases"))]
    changed = resized(scrambled(small), make(10))
    assert changed and set(changed) <= set(tables)
    name = changed[-1]
    table = small.get_parameter(name)
    down_first = name.endswith("bias_table")  # (places, heads), or (heads, places)
    places = table.shape[0 if down_first else 1]
    side = int(places**0.5)
    slope = torch.linspace(-1, 1, side).repeat_interleave(side)
    with torch.no_grad():
        table.copy_(slope[:, None].expand_as(table) if down_first else slope.expand_as(table))
    resized(small, large)
    made = large.get_parameter(name)
    rows = (made.T if down_first else made)[0]
    size = int(len(rows) ** 0.5)
    assert size == {13: 19, 7: 10}[side]
    rows = rows.detach().unflatten(0, (size, size))
    assert (rows - rows[:, :1]).abs().max() < 1e-5, "constant across"
    assert (rows.diff(dim=0) > 0).all() and rows[0, 0] == pytest.approx(-1, abs=0.1)


def test_positions_to_a_larger_grid_and_back_are_nearly_the_same() -> None:
    small, large, again = vit(224), vit(448), vit(224)
    with torch.no_grad():
        small.net.pos_embed.copy_(torch.linspace(0, 1, 196).sin()[None, :, None].expand(1, 196, 32))
    resized(small, large)
    resized(large, again)
    assert (small.net.pos_embed - again.net.pos_embed).abs().max() < 0.02


def test_shapes_that_differ_for_another_reason_are_left_to_be_refused() -> None:
    with pytest.raises(WeightsError, match=r"of another shape \(net.pos_embed"):
        resized(vit(), vit(embed_dim=64))


# --- a tag of one serves another ------------------------------------------------------------


@pytest.fixture
def small_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones of these tests on offer: a ViT, and a ViTDet that it can become."""
    backbone.names()
    told = SMALL | PLAIN | {"img_size": 224}
    monkeypatch.setitem(backbone.builders, "small_vit", partial(TimmBackbone, Row("vision_transformer", told)))
    told = SMALL | {"use_abs_pos": True, "neck_chans": 0}
    monkeypatch.setitem(backbone.builders, "small_vitdet", partial(TimmBackbone, Row("samvit_base_patch16_224", told)))


def put(store: Store, card: Callable[..., Card], arch: str, seed: int = 1, **told: Any) -> Any:
    torch.manual_seed(seed)
    return store.put(backbone.build(arch), card(arch=arch, tag="i-jepa", method="i-jepa", **told))


def test_parent_is_found_converted_and_kept_with_its_lineage(
    small_names: None, store: Store, card: Callable[..., Card]
) -> None:
    pixels = {"mean": [0.5] * 3, "std": [0.25] * 3}
    source = put(store, card, "small_vit", pixels=pixels, licence="CC BY-NC 4.0")
    child = backbone.build("small_vitdet")
    parent = find_parent(store, "small_vitdet", child, "i-jepa", None)
    assert parent is not None and parent.digest == source.digest
    inherited = inherit(store, parent, "small_vitdet", child)
    kept = keep(store, inherited, "small_vitdet")
    assert kept.card.parents == [source.reference] and kept.card.method == "vit-to-vitdet"
    assert kept.card.conversion["name"] == "vit-to-vitdet" and kept.card.conversion["converted"] == ["net.pos_embed"]
    assert "net.neck.weight" in kept.card.conversion["kept"] and "by vit-to-vitdet" in str(inherited.transfer)
    assert (kept.card.pixels, kept.card.licence, kept.card.epoch) == (pixels, "CC BY-NC 4.0", 3)
    assert [node["digest"] for node in store.lineage(kept)] == [kept.digest, source.digest]
    again = rebuild(kept.card)
    store.load(again, store.find("small_vitdet", "i-jepa"))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), child.parameters(), strict=True))


def test_tag_of_strangers_is_no_parent(small_names: None, store: Store, card: Callable[..., Card]) -> None:
    child = backbone.build("small_vitdet")
    put(store, card, "test_resnet")
    put(store, card, "test_vit")  # a ViT, and of another width
    assert find_parent(store, "small_vitdet", child, "i-jepa", None) is None
    assert find_parent(store, "small_vitdet", child, "vicreg", None) is None


def test_two_possible_parents_are_a_question(
    small_names: None, store: Store, card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backbone.builders, "other_vit", backbone.builders["small_vit"])
    put(store, card, "small_vit")
    put(store, card, "other_vit")
    with pytest.raises(WeightsError, match="can all be converted to small_vitdet; choose one with `pretrain convert"):
        find_parent(store, "small_vitdet", backbone.build("small_vitdet"), "i-jepa", None)


def test_converted_weights_are_stale_once_their_parent_is_trained_again(
    small_names: None, store: Store, card: Callable[..., Card]
) -> None:
    parent = put(store, card, "small_vit")
    kept = keep(store, inherit(store, parent, "small_vitdet", backbone.build("small_vitdet")), "small_vitdet")
    assert not is_stale(store, kept) and not is_stale(store, parent)
    put(store, card, "small_vit", seed=2)
    assert is_stale(store, kept) and not is_stale(store, parent)


def test_conversion_that_does_not_exist_is_one_sentence(
    small_names: None, store: Store, card: Callable[..., Card]
) -> None:
    parent = put(store, card, "test_resnet")
    with pytest.raises(
        WeightsError, match="there is no conversion from test_resnet to small_vitdet; the conversions are vit-to-"
    ):
        inherit(store, parent, "small_vitdet", backbone.build("small_vitdet"))


def test_what_the_weights_were_built_with_comes_back_and_stochastic_depth_does_not(card: Callable[..., Card]) -> None:
    told = card(arch="resnet50_v1d", args={"aws_compat": True, "drop_path": 0.3})
    assert kept_args(told) == {"aws_compat": True}
    assert "net.layer1.0.downsample.0.weight" in rebuild(told).state_dict(), "no pooling before the 1x1 convolution"
