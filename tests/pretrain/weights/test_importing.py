"""`pretrain import` and `pretrain convert`: whole or not at all, with a card that says where it all came from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from backbones import backbone
from backbones.timm_zoo import ZOO, Row, TimmBackbone
from detection.recipe import DetectRecipe
from detection.training.build import open_backbone
from pretrain.cli import main
from shared.recipes.recipe import make
from shared.weights.card import Card, Exported
from shared.weights.store import Store

NAME = "test_resnet"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A timm checkpoint with a classifier."""
    torch.manual_seed(7)
    net: Any = backbone.build(NAME)
    path = tmp_path / "theirs.pth"
    torch.save({"state_dict": net.net.state_dict() | {"fc.weight": torch.ones(3, 3)}, "epoch": 9}, path)
    return path


@pytest.fixture
def run(store: Store, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """One command into the store: exit code, and what it said."""

    def command(*words: Any) -> tuple[int, str]:
        code = main([*map(str, words), "--weights-dir", str(store.root)])
        told = capsys.readouterr()
        return code, told.out + told.err

    return command


def only(store: Store) -> Exported:
    (exported,) = store.all()
    return exported


# --- import ---------------------------------------------------------------------------------


def test_imported_weights_are_found_by_tag_and_compute_the_same(
    run: Callable[..., tuple[int, str]], file: Path, store: Store
) -> None:
    code, said = run("import", file, "--model", NAME, "--tag", "theirs", "--rgb-mode", "imagenet")
    assert code == 0 and "layout: plain (state_dict)" in said and "skipped, not part of the backbone: fc.weight" in said
    count = len(backbone.build(NAME).state_dict())
    assert f"{count}/{count} tensors" in said and "exported test_resnet theirs@" in said
    recipe = make(DetectRecipe, {"network": "fcos", "backbone": NAME, "backbone_tag": "theirs"})
    opened = open_backbone(recipe, store)
    torch.manual_seed(7)
    theirs = backbone.build(NAME).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(opened.net.eval()(x), theirs(x))


def test_card_says_where_weights_are_from(run: Callable[..., tuple[int, str]], file: Path, store: Store) -> None:
    told = ("--source", "a friend, by mail", "--licence", "CC BY-NC 4.0", "--rgb-mode", "clip")
    assert run("import", file, "--model", NAME, "--tag", "theirs", *told)[0] == 0
    card = only(store).card
    assert card.source == {
        "file": "theirs.pth",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "layout": "plain (state_dict)",
        "told": "a friend, by mail",
    }
    assert (card.licence, card.method, card.arch, card.tag) == ("CC BY-NC 4.0", "import", NAME, "theirs")
    assert card.finished and card.pixels["mean"][0] == pytest.approx(0.48145466)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("--model", "resnet18", "--tag", "x"), 4, "give its --model .key layout: plain"),
        (("--model", "test_vit", "--tag", "x"), 4, "the file has no tensors of test_vit"),
        (("--model", "test_resnt", "--tag", "x"), 2, "no backbone 'test_resnt'"),
        (("--model", NAME, "--tag", "../x"), 2, "is not a valid tag or name"),
        (("--model", NAME), 2, "required: --tag"),
        (("--model", NAME, "--tag", "x", "--rgb-mode", "imagnet"), 2, "did you mean 'imagenet'"),
        (("--model", NAME, "--tag", "x", "--size", "0"), 2, "argument --size: the value is 0; it must be from 8"),
        (("--model", NAME, "--tag", "x", "--size", "96"), 2, "has no option for an image size; remove the size"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    run: Callable[..., tuple[int, str]], file: Path, store: Store, words: tuple[str, ...], code: int, sentence: str
) -> None:
    got, said = run("import", file, *words)
    assert got == code and re.search(sentence, said) and said.count("\n") == 1 and "Traceback" not in said
    assert not store.root.exists() or not store.all()


def test_file_with_code_in_it_is_refused_with_exit_code_4(
    run: Callable[..., tuple[int, str]], tmp_path: Path, store: Store
) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"state_dict": backbone.build(NAME).state_dict(), "hooks": Bomb()}, tmp_path / "bomb.pth")
    code, said = run("import", tmp_path / "bomb.pth", "--model", NAME, "--tag", "x")
    assert code == 4 and "is a pickle that contains code" in said and said.count("\n") == 1
    assert not (tmp_path / "executed").exists() and not store.root.exists()


def test_part_of_a_file_is_taken_only_where_that_is_said(
    run: Callable[..., tuple[int, str]], file: Path, store: Store
) -> None:
    tensors = torch.load(file, weights_only=True)["state_dict"]
    torch.save({n: v for n, v in tensors.items() if not n.startswith("layer4.")}, file)
    code, said = run("import", file, "--model", NAME, "--tag", "x", "--rgb-mode", "centered")
    assert code == 4 and "missing (net.layer4" in said and not store.root.exists()
    code, said = run(
        "import", file, "--model", NAME, "--tag", "x", "--rgb-mode", "centered", "--allow-missing", "net.layer4.*"
    )
    assert code == 0 and "kept as initialized: net.layer4" in said and only(store).card.tag == "x"


def test_pixels_the_file_speaks_of_are_believed_and_not_overruled(
    run: Callable[..., tuple[int, str]], tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ZOO, NAME, Row(NAME))
    net: Any = backbone.build(NAME)
    nn.init.normal_(net.net.conv1[0].weight)
    stats = {"mean": (0.5191, 0.5306, 0.4877), "std": (0.2316, 0.2304, 0.2588)}
    path = tmp_path / "theirs.pt"
    torch.save({"state": net.net.state_dict(), "birder_version": "0.8.4", "rgb_stats": stats}, path)
    code, said = run("import", path, "--model", NAME, "--tag", "x", "--rgb-mode", "imagenet")
    assert code == 4 and "says it was trained with mean (0.5191" in said and "remove --rgb-mode" in said
    code, said = run("import", path, "--model", NAME, "--tag", "x")
    assert code == 0 and "from the file" in said
    assert only(store).card.pixels == {name: list(values) for name, values in stats.items()}


def test_pixels_that_nobody_tells_are_asked_for_where_timms_own_are_unusual(
    run: Callable[..., tuple[int, str]], tmp_path: Path, store: Store
) -> None:
    net: Any = TimmBackbone(Row("vit_tiny_patch16_224"))
    torch.save(net.net.state_dict(), tmp_path / "vit.pth")
    words = ("import", tmp_path / "vit.pth", "--model", "vit_tiny_patch16_224", "--tag", "x")
    code, said = run(*words)
    assert code == 2 and "has no pixel mean and std" in said and "give them with --rgb-mode" in said
    assert run(*words, "--rgb-mode", "centered")[0] == 0 and only(store).card.pixels["mean"] == [0.5] * 3


def test_positions_of_another_size_are_resampled_and_recorded(
    run: Callable[..., tuple[int, str]], tmp_path: Path, store: Store
) -> None:
    net: Any = TimmBackbone(Row("test_vit"), img_size=(64, 64))
    torch.save(net.net.state_dict(), tmp_path / "vit.pth")
    words = ("import", tmp_path / "vit.pth", "--model", "test_vit", "--tag", "x", "--rgb-mode", "centered")
    code, said = run(*words, "--size", "96", "128")
    assert code == 0 and "converted: net.pos_embed" in said
    card = only(store).card
    assert card.args == {"img_size": [96, 128]} and card.conversion["converted"] == ["net.pos_embed"]
    opened = open_backbone(make(DetectRecipe, {"backbone": "test_vit", "backbone_tag": "x"}), store)
    positions: Any = opened.net.state_dict()["net.pos_embed"]
    assert positions.shape[1] == 6 * 8 + 1 and opened.transfer is not None and not opened.transfer.converted


# --- convert --------------------------------------------------------------------------------


@pytest.fixture
def small(store: Store, card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch) -> Exported:
    """A small ViT under the tag `mae`, and a small ViTDet on offer."""
    backbone.names()
    told = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    vit = Row("vision_transformer", told | {"img_size": 224, "patch_size": 16})
    monkeypatch.setitem(backbone.builders, "small_vit", partial(TimmBackbone, vit))
    vitdet = Row("samvit_base_patch16_224", told | {"use_abs_pos": True, "neck_chans": 0}, after_neck=True)
    monkeypatch.setitem(backbone.builders, "small_vitdet", partial(TimmBackbone, vitdet))
    return store.put(backbone.build("small_vit"), card(arch="small_vit", tag="mae", licence="CC BY-NC 4.0"))


def test_converted_tag_says_its_parent_and_what_stayed(
    run: Callable[..., tuple[int, str]], small: Exported, store: Store
) -> None:
    code, said = run("convert", "--model", "small_vit", "--tag", "mae", "--to", "small_vitdet", "--size", "320")
    assert code == 0 and "as small_vitdet by vit-to-vitdet" in said and "kept as initialized: net.blocks.0" in said
    made = store.find("small_vitdet", "mae")
    assert made.card.parents == [small.reference] and made.card.args == {"img_size": [320, 320]}
    assert made.card.licence == "CC BY-NC 4.0" and made.card.conversion["kept"][-1] == "net.neck.bias"
    opened = open_backbone(make(DetectRecipe, {"backbone": "small_vitdet", "backbone_tag": "mae"}), store)
    assert opened.parent == made and opened.net.state_dict()["net.pos_embed"].shape == (1, 20, 20, 32)


def test_tag_for_another_image_size_has_a_name_of_its_own(
    run: Callable[..., tuple[int, str]], small: Exported, store: Store
) -> None:
    words = ("convert", "--model", "small_vit", "--tag", "mae", "--to", "small_vit")
    assert run(*words, "--size", "96", "160")[0] == 0 and run(*words, "--size", "96", "--new-tag", "small")[0] == 0
    made = store.find("small_vit", "mae-96x160")
    assert made.card.conversion["name"] == "resize" and made.card.conversion["converted"] == ["net.pos_embed"]
    assert store.find("small_vit", "small").card.args == {"img_size": [96, 96]}
    assert store.find("small_vit", "mae").digest == small.digest, "what was there means what it meant"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            ("--tag", "mae", "--to", "small_vit"),
            2,
            "it is already .*; give another backbone with --to, or a --size",
        ),
        (("--tag", "mae", "--to", "test_resnet"), 4, "there is no conversion from small_vit to test_resnet"),
        (("--tag", "mea", "--to", "small_vitdet"), 4, "no weights tagged 'mea' .*did you mean 'mae'"),
        (("--tag", "mae", "--to", "small_vitdt"), 2, "no backbone 'small_vitdt'"),
        (("--tag", "mae", "--to", "small_vitdet", "--epoch", "7"), 4, "no 'mae' at epoch 7"),
        (("--tag", "mae", "--to", "small_vitdet", "--new-tag", "a/b"), 2, "is not a valid tag or name"),
    ],
)
def test_conversion_that_cannot_be_is_one_sentence(
    run: Callable[..., tuple[int, str]], small: Exported, store: Store, words: tuple[str, ...], code: int, sentence: str
) -> None:
    got, said = run("convert", "--model", "small_vit", *words)
    assert got == code and re.search(sentence, said) and said.count("\n") == 1
    assert len(store.all()) == 1


def test_network_without_tables_is_told_so(
    run: Callable[..., tuple[int, str]], store: Store, card: Callable[..., Card]
) -> None:
    store.put(backbone.build("test_vit", img_size=(96, 96)), card(arch="test_vit", args={"img_size": [96, 96]}))
    code, said = run("convert", "--model", "test_vit", "--tag", "supervised", "--to", "test_vit", "--size", "96")
    assert code == 2 and "no position embeddings that depend on the image size" in said and said.count("\n") == 1
