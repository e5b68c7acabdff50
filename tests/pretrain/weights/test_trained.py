"""A file whose tensors fit and which computed something else is refused: function, pixels, grid of positions."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from backbones import backbone
from backbones.foreign import read_checkpoint
from backbones.origin import origins_of
from backbones.timm_zoo import ZOO, Row, TimmBackbone
from pretrain.cli import main
from shared.weights.card import Card
from shared.weights.store import Store

CENTERED = {"mean": [0.5] * 3, "std": [0.5] * 3}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture
def run(store: Store, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """`pretrain import` into the store: exit code, and what it said."""

    def command(*words: Any) -> tuple[int, str]:
        code = main(["import", *map(str, words), "--tag", "x", "--weights-dir", str(store.root)])
        told = capsys.readouterr()
        return code, told.out + told.err

    return command


def of_timm(name: str, **args: Any) -> dict[str, Any]:
    """The tensors of timm's network, every parameter and statistic with a value of its own."""
    net = timm.create_model(name, num_classes=0, **args)
    for where, value in net.state_dict().items():
        if where.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 1.5)
        elif value.is_floating_point():
            value.add_(torch.randn_like(value), alpha=0.02)
    return net.state_dict()


def refused(told: tuple[int, str], sentence: str, store: Store, code: int = 4) -> None:
    assert told[0] == code and re.search(sentence, told[1]), told
    assert told[1].count("\n") == 1 and (not store.root.exists() or not store.all())


# --- function -------------------------------------------------------------------------------


def test_timms_darknet_has_another_slope_than_ours(run: Callable[..., Any], tmp_path: Path, store: Store) -> None:
    torch.save(of_timm("darknet53"), tmp_path / "weights.pth")
    told = run(tmp_path / "weights.pth", "--model", "darknet53")
    refused(told, r"negative_slope 0\.1 for 0\.01 in \d+ places; give --model darknet53\.c2ns_in1k", store)


TELLING: dict[str, Callable[[Path, dict[str, Any]], Path]] = {}


def telling(function: Callable[[Path, dict[str, Any]], Path]) -> Callable[[Path, dict[str, Any]], Path]:
    TELLING[function.__name__] = function
    return function


@telling
def training_checkpoint(folder: Path, tensors: dict[str, Any]) -> Path:
    torch.save({"arch": "tf_efficientnet_b0", "state_dict": tensors}, folder / "best.pth.tar")
    return folder / "best.pth.tar"


@telling
def training_flags(folder: Path, tensors: dict[str, Any]) -> Path:
    torch.save({"args": Namespace(model="tf_efficientnet_b0"), "model": tensors}, folder / "best.pth")
    return folder / "best.pth"


@telling
def file_name(folder: Path, tensors: dict[str, Any]) -> Path:
    torch.save(tensors, folder / "tf_efficientnet_b0_aa-827b6e33.pth")
    return folder / "tf_efficientnet_b0_aa-827b6e33.pth"


@telling
def config(folder: Path, tensors: dict[str, Any]) -> Path:
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors")
    facts = {"architecture": "tf_efficientnet_b0", "pretrained_cfg": {**IMAGENET, "tag": "aa_in1k"}}
    (folder / "config.json").write_text(json.dumps(facts))
    return folder / "model.safetensors"


@telling
def nothing(folder: Path, tensors: dict[str, Any]) -> Path:
    torch.save(tensors, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize("how", [how for how in TELLING if how != "nothing"])
def test_network_is_read_from_what_stands_in_or_beside_the_file(tmp_path: Path, how: str) -> None:
    file = TELLING[how](tmp_path, {"weight": torch.ones(1)})
    said = origins_of(file, read_checkpoint(file)).arch
    assert said is not None and str(said.arch).partition(".")[0] == "tf_efficientnet_b0" and said.where


@pytest.mark.parametrize(("how", "model"), [("config", "efficientnet_v1_b0"), ("nothing", "efficientnet_b0")])
def test_tf_variant_is_not_the_plain_one(
    run: Callable[..., Any], tmp_path: Path, store: Store, how: str, model: str
) -> None:
    file = TELLING[how](tmp_path, of_timm("tf_efficientnet_b0"))
    sentence = r"eps 1e-05 for 0\.001 in \d+ places, Conv2d for Conv2dSame in \d+ places.*--model tf_efficientnet_b0"
    words = (file, "--model", model, "--rgb-mode", "imagenet")
    refused(run(*words), sentence, store)
    if how == "config":
        refused(run(*words, "--trained-as", "efficientnet_b0"), sentence, store)


def test_file_that_says_or_is_said_to_be_the_plain_one_is_taken(run: Callable[..., Any], tmp_path: Path) -> None:
    tensors = of_timm("efficientnet_b0")
    torch.save({"arch": "efficientnet_b0", "state_dict": tensors}, tmp_path / "best.pth.tar")
    words = ("--model", "efficientnet_v1_b0", "--rgb-mode", "imagenet")
    code, said = run(tmp_path / "best.pth.tar", *words)
    assert code == 0 and "network: efficientnet_b0 (best.pth.tar)" in said
    torch.save(tensors, tmp_path / "weights.pth")
    code, said = run(tmp_path / "weights.pth", *words, "--trained-as", "efficientnet_b0")
    assert code == 0 and "network: efficientnet_b0 (--trained-as)" in said


def test_trained_as_takes_names_of_timm(run: Callable[..., Any], tmp_path: Path, store: Store) -> None:
    told = run(tmp_path / "none.pth", "--model", "efficientnet_v1_b0", "--trained-as", "eficientnet_b0")
    refused(told, "timm has no such network, did you mean 'efficientnet_b0'", store, code=2)


# --- pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["config.json", "file"])
def test_pixels_that_are_said_are_taken_and_not_overruled(
    run: Callable[..., Any], tmp_path: Path, store: Store, where: str
) -> None:
    content = {"arch": "test_resnet", "state_dict": of_timm("test_resnet")}
    if where == "file":
        content["pretrained_cfg"] = CENTERED
    else:
        facts = {"architecture": "test_resnet", "pretrained_cfg": CENTERED}
        (tmp_path / "config.json").write_text(json.dumps(facts))
    torch.save(content, tmp_path / "weights.pth")
    told = run(tmp_path / "weights.pth", "--model", "test_resnet", "--rgb-mode", "imagenet")
    refused(told, r"says it was trained with mean \(0\.5, 0\.5, 0\.5\).*remove --rgb-mode", store)
    code, said = run(tmp_path / "weights.pth", "--model", "test_resnet")
    assert code == 0 and "pixels: mean (0.5, 0.5, 0.5)" in said
    assert store.find("test_resnet", "x").card.pixels == CENTERED


def test_name_whose_published_weights_have_several_pixels_asks(
    run: Callable[..., Any], tmp_path: Path, store: Store
) -> None:
    torch.save(of_timm("resnet34"), tmp_path / "weights.pth")
    told = run(tmp_path / "weights.pth", "--model", "resnet34")
    refused(told, r"mean \(0\.485.* or \(0\.5.*give them with --rgb-mode", store, code=2)
    published = tmp_path / "resnet34.bt_in1k.pth"
    (tmp_path / "weights.pth").rename(published)
    code, said = run(published, "--model", "resnet34")
    assert code == 0 and "mean (0.485, 0.456, 0.406)" in said and "from the name resnet34.bt_in1k.pth" in said


def test_config_that_cannot_be_read_is_not_passed_over(run: Callable[..., Any], tmp_path: Path, store: Store) -> None:
    torch.save(of_timm("test_resnet"), tmp_path / "weights.pth")
    (tmp_path / "config.json").write_text("{")
    refused(run(tmp_path / "weights.pth", "--model", "test_resnet"), "config.json cannot be read as JSON", store)


# --- positions ------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """A small ViT on offer, for 224 pixels if no size is given."""
    backbone.names()
    told = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 224, "patch_size": 16, "class_token": False}
    row = Row("vision_transformer", {**told, "global_pool": "avg", "fc_norm": False})
    monkeypatch.setitem(backbone.builders, "small_vit", partial(TimmBackbone, row))
    return "small_vit"


def rows_and_columns(rows: int, cols: int, width: int = 32) -> torch.Tensor:
    """(1, rows * cols, width): positions that grow down the image, and are the same along a row."""
    down = torch.linspace(-1, 1, rows).repeat_interleave(cols)
    return down[None, :, None].expand(1, rows * cols, width).contiguous()


def is_constant_along_rows(positions: torch.Tensor, rows: int, cols: int) -> bool:
    grid = positions[0].unflatten(0, (rows, cols))
    return bool((grid - grid[:, :1]).abs().max() < 1e-4 and (grid[1:, 0, 0] > grid[:-1, 0, 0]).all())


def oblong(small: str) -> dict[str, Any]:
    net: Any = backbone.build(small, img_size=(64, 256))
    return net.net.state_dict() | {"pos_embed": rows_and_columns(4, 16)}


def test_positions_of_an_unknown_grid_are_refused_and_a_said_size_counts(
    run: Callable[..., Any], tmp_path: Path, store: Store, small: str
) -> None:
    torch.save(oblong(small), tmp_path / "weights.pth")
    refused(run(tmp_path / "weights.pth", "--model", small), "64 positions of pos_embed .* --trained-size 128$", store)
    told = run(tmp_path / "weights.pth", "--model", small, "--trained-size", "64", "224")
    refused(told, "--trained-size 64 224: .* has other tables", store, code=2)
    code, said = run(tmp_path / "weights.pth", "--model", small, "--trained-size", "64", "256", "--size", "128")
    assert code == 0 and "converted: net.pos_embed" in said, "as many positions, on another grid"
    positions = loaded(store, small, (128, 128))
    assert is_constant_along_rows(positions, 8, 8)


def loaded(store: Store, name: str, size: tuple[int, int], tag: str = "x") -> torch.Tensor:
    net: Any = backbone.build(name, img_size=size)
    store.load(net, store.find(name, tag))
    return net.net.pos_embed


def test_size_in_a_config_counts(run: Callable[..., Any], tmp_path: Path, store: Store, small: str) -> None:
    torch.save({"state_dict": oblong(small), "args": Namespace(img_size=[64, 256])}, tmp_path / "weights.pth")
    code, said = run(tmp_path / "weights.pth", "--model", small)
    assert code == 0 and "converted: net.pos_embed" in said
    assert is_constant_along_rows(loaded(store, small, (224, 224)), 14, 14)


def test_size_on_a_card_counts(store: Store, small: str, card: Callable[..., Card]) -> None:
    net: Any = backbone.build(small, img_size=(64, 256))
    net.net.load_state_dict(oblong(small))
    store.put(net, card(arch=small, tag="oblong", args={"img_size": [64, 256]}))
    words = ("convert", "--model", small, "--tag", "oblong", "--to", small, "--size", "128", "--new-tag", "square")
    assert main([*words, "--weights-dir", str(store.root)]) == 0
    assert is_constant_along_rows(loaded(store, small, (128, 128), "square"), 8, 8)


def test_vitdet_of_an_oblong_vit_keeps_its_rows(
    store: Store, small: str, card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"embed_dim": 32, "depth": 2, "num_heads": 2, "use_abs_pos": True, "neck_chans": 0}
    row = Row("samvit_base_patch16_224", told, after_neck=True)
    monkeypatch.setitem(backbone.builders, "small_vitdet", partial(TimmBackbone, row))
    net: Any = backbone.build(small, img_size=(64, 256))
    net.net.load_state_dict(oblong(small))
    store.put(net, card(arch=small, tag="oblong", args={"img_size": [64, 256]}))
    words = ("convert", "--model", small, "--tag", "oblong", "--to", "small_vitdet")
    assert main([*words, "--weights-dir", str(store.root)]) == 0
    positions = loaded(store, "small_vitdet", (224, 224), "oblong")
    assert is_constant_along_rows(positions.flatten(1, 2), 14, 14)


def test_every_row_of_the_table_that_computes_something_else_than_timms_is_known() -> None:
    """`--pretrained` of a row would load weights that compute something else; such rows name timm's published ones."""
    from backbones.function import differences, on_meta, same_tensors, timm_net

    for name in ("darknet53", "mobilenet_v2", "convnext_v2_tiny"):
        row = ZOO[name]
        ours, theirs = on_meta(backbone.build, name), on_meta(timm_net, row.timm_name)
        other = same_tensors(ours, theirs) and bool(differences(ours, theirs))
        assert other == (row.published is not None), name
