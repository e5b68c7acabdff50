"""From a recipe to a detector on the right weights: complete or not at all, frozen as configured."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from backbones import backbone
from backbones.timm_zoo import Row, TimmBackbone
from detection.recipe import DetectRecipe
from detection.training.build import backbone_name, build_detector, open_backbone
from detection.training.task import DetectTask
from shared.errors import UsageError, WeightsError
from shared.feeding.pixels import PIXEL_STATS
from shared.recipes.recipe import make
from shared.weights.card import Card, Exported
from shared.weights.store import Store

ARCH = "test_resnet"
SMALL = {"network": "fcos", "network_args": {"width": 64, "depth": 1}}


def recipe(**told: Any) -> DetectRecipe:
    return make(DetectRecipe, SMALL | told)


@pytest.fixture
def trained(store: Store, card: Callable[..., Card]) -> nn.Module:
    """A backbone that lies in the store under the tag `supervised`, with pixels of its own."""
    torch.manual_seed(7)
    net = backbone.build(ARCH)
    store.put(net, card(arch=ARCH, pixels={"mean": [0.5] * 3, "std": [0.25] * 3}))
    return net


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- which weights --------------------------------------------------------------------------


def test_tag_alone_finds_the_backbone_its_weights_and_its_pixels(store: Store, trained: nn.Module) -> None:
    opened = open_backbone(recipe(backbone_tag="supervised"), store)
    assert same(opened.net, trained)
    assert opened.stats.mean == (0.5,) * 3 and opened.stats.std == (0.25,) * 3
    assert opened.parent is not None and opened.parent.card.arch == ARCH
    assert opened.transfer is not None and opened.transfer.matched_tensors == opened.transfer.total_tensors


def test_backbone_and_tag_find_the_same(store: Store, trained: nn.Module) -> None:
    assert same(open_backbone(recipe(backbone=ARCH, backbone_tag="supervised"), store).net, trained)


def test_backbone_without_a_tag_starts_from_random_weights(store: Store, trained: nn.Module) -> None:
    opened = open_backbone(recipe(backbone=ARCH), store)
    assert opened.parent is None and opened.transfer is None and not same(opened.net, trained)
    assert opened.stats == PIXEL_STATS["imagenet"]
    assert open_backbone(recipe(backbone=ARCH, rgb_mode="birder"), store).stats == PIXEL_STATS["birder"]


def test_neither_backbone_nor_tag_is_the_backbone_of_the_papers(store: Store) -> None:
    assert backbone_name(recipe().model, store) == "resnet_v1_50"


def test_tag_of_two_backbones_asks_which(store: Store, trained: nn.Module, card: Callable[..., Card]) -> None:
    store.put(backbone.build("test_vit"), card(arch="test_vit"))
    with pytest.raises(WeightsError, match="is a tag of test_resnet, test_vit; choose one with --backbone"):
        open_backbone(recipe(backbone_tag="supervised"), store)


def test_unknown_tag_never_merely_labels(store: Store, trained: nn.Module) -> None:
    with pytest.raises(WeightsError, match="no weights tagged 'supervisd' .*did you mean 'supervised'"):
        open_backbone(recipe(backbone=ARCH, backbone_tag="supervisd"), store)
    with pytest.raises(WeightsError, match="no weights tagged 'supervised' for test_vit .*test_resnet has that tag"):
        open_backbone(recipe(backbone="test_vit", backbone_tag="supervised"), store)


def test_epoch_without_a_tag_means_the_only_tag_there_is(
    store: Store, trained: nn.Module, card: Callable[..., Card]
) -> None:
    assert same(open_backbone(recipe(backbone=ARCH, backbone_epoch=0), store).net, trained)
    with pytest.raises(
        WeightsError, match="has no weights for test_vit; train some with `pretrain train --model test_v"
    ):
        open_backbone(recipe(backbone="test_vit", backbone_epoch=0), store)
    store.put(backbone.build(ARCH), card(arch=ARCH, tag="another"))
    with pytest.raises(WeightsError, match="has the tags another, supervised; choose one with --backbone-tag"):
        open_backbone(recipe(backbone=ARCH, backbone_epoch=0), store)


def test_epoch_picks_among_the_exports_of_a_tag(store: Store, trained: nn.Module, card: Callable[..., Card]) -> None:
    early = backbone.build(ARCH)
    store.put(early, card(arch=ARCH, epoch=1, finished=False))
    assert same(open_backbone(recipe(backbone_tag="supervised", backbone_epoch=1), store).net, early)
    assert same(open_backbone(recipe(backbone_tag="supervised", backbone_epoch=0), store).net, trained)
    with pytest.raises(WeightsError, match="no 'supervised' at epoch 2; found"):
        open_backbone(recipe(backbone_tag="supervised", backbone_epoch=2), store)


def test_tag_of_a_detector_is_refused(store: Store, card: Callable[..., Card]) -> None:
    store.put(nn.Linear(2, 2), card(arch=f"fcos-{ARCH}", tag="mine", kind="detector"))
    with pytest.raises(WeightsError, match="is a detector, not a backbone; give a tag that `pretrain` exported"):
        open_backbone(recipe(backbone_tag="mine"), store)


def test_weights_of_a_backbone_of_another_shape_are_refused(store: Store, card: Callable[..., Card]) -> None:
    store.put(backbone.build("test_vit"), card(arch=ARCH))
    with pytest.raises(WeightsError, match="does not match: tensors .* missing .* unexpected"):
        open_backbone(recipe(backbone=ARCH, backbone_tag="supervised"), store)


def test_missing_tensors_may_stay_when_they_are_named(store: Store, card: Callable[..., Card]) -> None:
    net = backbone.build(ARCH)
    del net.net.layer4
    store.put(net, card(arch=ARCH))
    with pytest.raises(WeightsError, match=r"missing \(net.layer4"):
        open_backbone(recipe(backbone=ARCH, backbone_tag="supervised"), store)
    opened = open_backbone(recipe(backbone=ARCH, backbone_tag="supervised", allow_missing=["net.layer4.*"]), store)
    assert opened.transfer is not None and all(n.startswith("net.layer4") for n in opened.transfer.missing)
    assert torch.equal(opened.net.net.conv1[0].weight, net.net.conv1[0].weight)


def test_pixels_that_disagree_with_the_weights_are_refused(store: Store, trained: nn.Module) -> None:
    with pytest.raises(WeightsError, match="was trained with pixel mean .0.500, .*; remove --rgb-mode"):
        open_backbone(recipe(backbone_tag="supervised", rgb_mode="imagenet"), store)


def test_pixels_that_agree_with_the_weights_are_accepted(store: Store, card: Callable[..., Card]) -> None:
    store.put(backbone.build(ARCH), card(arch=ARCH))
    assert open_backbone(recipe(backbone_tag="supervised", rgb_mode="imagenet"), store).parent is not None


def test_weights_that_do_not_say_their_pixels_are_refused(store: Store, card: Callable[..., Card]) -> None:
    store.put(backbone.build(ARCH), card(arch=ARCH, pixels={}))
    with pytest.raises(WeightsError, match="has no pixel mean and std on its card"):
        open_backbone(recipe(backbone_tag="supervised"), store)


def test_changed_byte_is_refused_on_the_way_to_a_detector(store: Store, trained: nn.Module) -> None:
    exported: Exported = store.find(ARCH, "supervised")
    path = exported.path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="does not match the sha256 on its card"):
        open_backbone(recipe(backbone_tag="supervised"), store)


def test_changed_card_is_refused_on_the_way_to_a_detector(store: Store, trained: nn.Module) -> None:
    path: Path = store.find(ARCH, "supervised").path / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epoch": 300}, indent=2, sort_keys=True) + "\n")
    with pytest.raises(WeightsError, match="was modified"):
        open_backbone(recipe(backbone_tag="supervised"), store)


def test_weights_can_be_left_out_for_who_fills_the_whole_detector(store: Store, trained: nn.Module) -> None:
    opened = open_backbone(recipe(backbone_tag="supervised"), store, load=False)
    assert opened.parent is not None and opened.transfer is None and not same(opened.net, trained)


@pytest.mark.parametrize("width", ["1", "1.0"])
def test_width_of_one_is_every_backbone(store: Store, width: str) -> None:
    assert backbone_name(recipe(backbone=ARCH, backbone_param=width).model, store) == ARCH


@pytest.mark.parametrize("width", ["0.5", "wide"])
def test_other_widths_are_refused(store: Store, width: str) -> None:
    with pytest.raises(UsageError, match="exists in width 1 only; remove --backbone-param"):
        backbone_name(recipe(backbone=ARCH, backbone_param=width).model, store)


def test_stochastic_depth_reaches_the_backbone(store: Store) -> None:
    net = open_backbone(recipe(backbone=ARCH, drop_path=0.3), store).net
    rates = [layer.drop_prob for layer in net.modules() if type(layer).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.3)


# --- weights that have to be converted ------------------------------------------------------


@pytest.fixture
def hiera(store: Store, card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch) -> Exported:
    """A small Hiera under the tag `mim`, and a small HieraDet on offer that nobody has trained."""
    backbone.names()
    small = {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 2, 1)}
    parent = Row("hiera_tiny_224", small | {"abs_win_pos_embed": True})
    monkeypatch.setitem(backbone.builders, "small_hiera", partial(TimmBackbone, parent))
    child = Row("sam2_hiera_base_plus", small | {"global_att_blocks": (2,), "global_pos_size": (14, 14)})
    monkeypatch.setitem(backbone.builders, "small_hieradet", partial(TimmBackbone, child))
    return store.put(backbone.build("small_hiera"), card(arch="small_hiera", tag="mim"))


def test_tag_of_a_backbone_that_can_become_the_one_asked_for_is_converted_and_kept(
    store: Store, hiera: Exported
) -> None:
    opened = open_backbone(recipe(backbone="small_hieradet", backbone_tag="mim"), store)
    assert opened.transfer is not None and opened.parent is not None
    assert opened.transfer.converted == ["net.pos_embed_window"] and opened.transfer.missing == []
    assert "small_hiera mim" in str(opened.transfer) and "as small_hieradet by hiera-to-hieradet" in str(
        opened.transfer
    )
    assert opened.parent.card.arch == "small_hieradet" and opened.parent.card.parents == [hiera.reference]
    assert [node["arch"] for node in store.lineage(opened.parent)] == ["small_hieradet", "small_hiera"]
    again = open_backbone(recipe(backbone="small_hieradet", backbone_tag="mim"), store)
    assert again.parent == opened.parent and same(again.net, opened.net), "the second time it is simply there"


def test_dry_run_converts_and_writes_nothing(store: Store, hiera: Exported) -> None:
    opened = open_backbone(recipe(backbone="small_hieradet", backbone_tag="mim", dry_run=True), store)
    assert opened.transfer is not None and opened.parent == hiera
    assert [exported.digest for exported in store.all()] == [hiera.digest]


def test_conversion_follows_a_parent_that_is_trained_again_unless_a_digest_is_named(
    store: Store, hiera: Exported, card: Callable[..., Card]
) -> None:
    first = open_backbone(recipe(backbone="small_hieradet", backbone_tag="mim"), store)
    newer = store.put(backbone.build("small_hiera"), card(arch="small_hiera", tag="mim"))
    second = open_backbone(recipe(backbone="small_hieradet", backbone_tag="mim"), store)
    assert second.parent is not None and second.parent.card.parents == [newer.reference]
    assert not same(first.net, second.net) and first.parent is not None
    pinned = open_backbone(recipe(backbone="small_hieradet", backbone_tag=f"mim@{first.parent.digest}"), store)
    assert pinned.parent == first.parent and same(pinned.net, first.net)


def test_conversion_picks_the_epoch_that_is_asked_for(store: Store, hiera: Exported, card: Callable[..., Card]) -> None:
    early = store.put(backbone.build("small_hiera"), card(arch="small_hiera", tag="mim", epoch=1, finished=False))
    opened = open_backbone(recipe(backbone="small_hieradet", backbone_tag="mim", backbone_epoch=1), store)
    assert opened.parent is not None and opened.parent.card.parents == [early.reference]
    assert opened.parent.card.epoch == 1 and not opened.parent.card.finished


def test_pixels_that_disagree_are_refused_before_anything_is_converted(store: Store, hiera: Exported) -> None:
    with pytest.raises(WeightsError, match="was trained with pixel mean"):
        open_backbone(recipe(backbone="small_hieradet", backbone_tag="mim", rgb_mode="birder"), store)
    assert len(store.all()) == 1


def test_tag_that_cannot_be_converted_is_missing_as_ever(store: Store, hiera: Exported) -> None:
    with pytest.raises(WeightsError, match="no weights tagged 'mim' for test_resnet .*small_hiera has that tag"):
        open_backbone(recipe(backbone=ARCH, backbone_tag="mim"), store)


def test_backbone_is_built_as_its_weights_were(store: Store, card: Callable[..., Card]) -> None:
    net = backbone.build("test_vit", img_size=(96, 96))
    store.put(net, card(arch="test_vit", args={"img_size": [96, 96], "drop_path": 0.5}))
    opened = open_backbone(recipe(backbone="test_vit", backbone_tag="supervised"), store)
    assert same(opened.net, net) and opened.args == {"img_size": [96, 96]}
    assert not any(type(layer).__name__ == "DropPath" for layer in opened.net.modules())


def test_position_tables_of_another_size_are_resampled_and_reported(store: Store, card: Callable[..., Card]) -> None:
    store.put(backbone.build("test_vit", img_size=(96, 96)), card(arch="test_vit"))
    opened = open_backbone(recipe(backbone="test_vit", backbone_tag="supervised"), store)
    assert opened.transfer is not None and opened.transfer.converted == ["net.pos_embed"]


# --- what is frozen -------------------------------------------------------------------------


def learning(**told: Any) -> set[str]:
    """What of a small detector learns: parts of the backbone, neck, head."""
    torch.manual_seed(0)
    built = build_detector(recipe(**told), backbone.build(ARCH), 3)
    task = DetectTask(built, PIXEL_STATS["imagenet"]).train()
    names = {name for name, p in task.named_parameters() if p.requires_grad}
    for layer in built.backbone.modules():
        own = list(layer.parameters(recurse=False))
        if isinstance(layer, nn.BatchNorm2d) and not any(p.requires_grad for p in own):
            assert not layer.training, "frozen statistics hold still in training mode"
    return names


def parts(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names}


def test_without_flags_everything_learns() -> None:
    names = learning()
    assert parts(names) == {"backbone", "neck", "head"}
    assert any(".layer1." in name for name in names) and any("conv1" in name for name in names)


def test_frozen_backbone_leaves_neck_and_head() -> None:
    assert parts(learning(freeze_backbone=True)) == {"neck", "head"}


def test_frozen_body_leaves_the_class_head() -> None:
    assert {name.split(".")[2] for name in learning(freeze_body=True)} == {"classification_head"}


def test_frozen_stages_are_the_stem_and_the_first_ones() -> None:
    names = learning(freeze_backbone_stages=2)
    kept = {name.split(".")[3] for name in names if name.startswith("detector.backbone.")}
    assert kept == {"layer3", "layer4"} and {"neck", "head"} <= parts(names)


def test_frozen_batch_norm_leaves_the_convolutions() -> None:
    everything, names = learning(), learning(freeze_backbone_bn=True)
    gone = everything - names
    assert gone and all(".bn" in name or "conv1.1." in name or "downsample" in name or "conv1" in name for name in gone)
    assert {name for name in everything if name.endswith("conv2.weight")} <= names


def test_freeze_flags_that_exclude_one_another_are_refused() -> None:
    with pytest.raises(UsageError, match="are mutually exclusive; keep one"):
        learning(freeze_backbone=True, freeze_body=True)
    with pytest.raises(UsageError, match="--freeze-backbone-stages 9: this backbone has a stem and 4 stages"):
        learning(freeze_backbone_stages=9)


def test_what_no_loss_can_reach_is_frozen() -> None:
    built = build_detector(recipe(), backbone.build("mobilenetv4_conv_small_050"), 3)
    still = [name for name, p in built.backbone.named_parameters() if not p.requires_grad]
    assert still and all("conv_head" in name or "norm_head" in name for name in still)


def test_network_is_asked_about_its_options(store: Store) -> None:
    with pytest.raises(UsageError, match="detector 'fcos' has no option 'dept', did you mean 'depth'"):
        build_detector(recipe(network_args={"dept": 3}), backbone.build(ARCH), 3)
    with pytest.raises(UsageError, match="no detector 'fcoss', did you mean 'fcos'"):
        build_detector(recipe(network="fcoss"), backbone.build(ARCH), 3)
