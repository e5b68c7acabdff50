"""Validation images that are training images as well are counted by content and said."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.data import overlap as overlaps
from pretrain.data.labeled import choose, open_labeled
from pretrain.data.overlap import overlap
from pretrain.packing.pack import pack
from pretrain.probing.evaluate import Images, known_answers
from pretrain.recipe import PretrainRecipe
from pretrain.training.train import open_data
from shared.recipes.recipe import make


def put(root: Path, *numbers: int) -> Path:
    """Class folders of noise images, the same for the same number; all files have the same size in bytes."""
    for n in numbers:
        path = root / "ab"[n % 2] / f"{root.name}-{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, compress_level=0)
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def packed(folder: Path) -> str:
    pack(folder, folder.with_name(f"{folder.name}-shards"))
    return str(folder.with_name(f"{folder.name}-shards"))


@pytest.mark.parametrize("kinds", ["folder folder", "shards folder", "folder shards", "shards shards"])
def test_images_in_both_sets_are_counted_by_content_whatever_their_names(kinds: str, tmp_path: Path) -> None:
    folders = [put(tmp_path / "one", *range(8)), put(tmp_path / "two", 6, 7, 8, 9, 10, 11)]
    known, asked = (
        packed(folder) if kind == "shards" else str(folder) for kind, folder in zip(kinds.split(), folders, strict=True)
    )
    sets = open_labeled(known, asked, lambda image, rng: image)
    assert overlap(sets.known, sets.asked) == (2, 6) and overlap(sets.known, sets.known) == (8, 8)
    assert str(overlap(sets.known, sets.asked)) == "2 of 6 validation images"


def test_only_the_chosen_images_count(tmp_path: Path) -> None:
    sets = open_labeled(
        packed(put(tmp_path / "one", *range(8))), str(put(tmp_path / "two", *range(8))), lambda *_: None
    )
    first = {int(index) for index in choose(sets.known, 4).indices}
    names = {sets.known.name(index).rpartition("-")[2] for index in first}
    also = {
        path.rpartition("-")[2].removesuffix(".png")
        for path in np.array(sets.asked.paths)[choose(sets.asked, 3).indices]
    }
    assert overlap(choose(sets.known, 4), choose(sets.asked, 3)) == (len(names & also), 3)


def test_large_sets_are_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = open_labeled(str(put(tmp_path / "one", *range(8))), str(put(tmp_path / "two", *range(8))), lambda *_: None)
    monkeypatch.setattr(overlaps, "MOST", 3)
    assert overlap(sets.known, sets.asked) == (3, 3)


def test_training_says_which_validation_images_it_trains_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train, val = packed(put(tmp_path / "one", *range(8))), packed(put(tmp_path / "two", 6, 7, 8, 9))
    values: dict[str, Any] = {"data_path": train, "val_path": val, "method": "supervised"}
    open_data(make(PretrainRecipe, values))
    assert "2 of 4 validation images are training images as well" in caplog.text
    caplog.clear()
    open_data(make(PretrainRecipe, values | {"val_path": packed(put(tmp_path / "three", 20, 21))}))
    assert "validation images" not in caplog.text


@pytest.mark.parametrize("limit", [None, 2])
def test_evaluation_says_what_is_in_its_bank_and_what_the_weights_have_seen(
    limit: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = packed(put(tmp_path / "one", *range(8))), packed(put(tmp_path / "two", *range(6, 12)))
    sets = open_labeled(one, two, lambda image, rng: image)
    images: Any = Images(choose(sets.known, 0), choose(sets.asked, 0), 2)

    def found(path: str | None) -> dict[str, Any]:
        card = SimpleNamespace(data={"path": str(path)}, recipe={"limit": limit, "data_path": path})
        subject: Any = SimpleNamespace(exported=SimpleNamespace(card=card))
        return known_answers(subject, images)

    assert found(two) == {"bank": (2, 6), "trained_on": (limit or 6, 6)}
    assert "2 of 6 validation images are among the training images" in caplog.text
    assert f"{limit or 6} of 6 validation images are images that" in caplog.text
    assert found(None) == {"bank": (2, 6)}
    assert found(str(tmp_path / "gone")) == {"bank": (2, 6)} and "whether it has seen these is unknown" in caplog.text
