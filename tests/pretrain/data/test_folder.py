"""A folder of class folders is what the shards packed from it are: same classes, same images, same refusals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.folder import ImageFolder, image_folders
from pretrain.data.shards import ShardSet, find_shards
from pretrain.packing.pack import pack
from shared.devices.flat import opened
from shared.errors import BadSample, DataError
from shared.feeding.feed import in_order
from shared.feeding.plan import rng_for


def put(root: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 256, (9, 6 + n % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, {".png": "PNG"}.get(path.suffix, "JPEG"))
    return root


def keep(image: Any, rng: Any) -> Any:
    return image


def square(image: Any, rng: Any) -> Any:
    return image[:, :6, :6]


@pytest.fixture
def split_folder(tmp_path: Path) -> Path:
    train = [f"train/{name}/{n}.jpg" for name in ("dog", "ant") for n in range(5)]
    return put(tmp_path / "in", *train, "val/dog/x.png", "val/ant/y.jpg", "train/ant/deep/z.jpg", ".hidden/a/b.jpg")


def pictures(samples: Any) -> dict[bytes, int]:
    loaded = [samples.load(n, rng_for(0, 0, n)) for n in range(len(samples))]
    return {pixels.numpy().tobytes(): label for pixels, label in loaded}


def test_a_folder_holds_the_images_and_classes_of_the_shards_packed_from_it(
    split_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pack(split_folder, tmp_path / "out")
    for split, ours in zip(("train", "val"), image_folders(split_folder, keep), strict=True):
        packed = ShardSet(find_shards(tmp_path / "out", split), keep)
        assert ours is not None and ours.classes == packed.classes == ["ant", "dog"]
        assert (ours.sizes, ours.num_classes) == (packed.sizes, packed.num_classes)
        assert pictures(ours) == pictures(packed) and len(pictures(ours)) == len(ours) > 0


def test_batches_come_stacked_with_labels_and_through_workers(split_folder: Path) -> None:
    train, _ = image_folders(split_folder, square)
    plain = list(in_order(train, 4))
    assert [tuple(images.shape) for images, _ in plain] == [(4, 3, 6, 6), (4, 3, 6, 6), (3, 3, 6, 6)]
    assert torch.cat([labels for _, labels in plain]).tolist() == train.labels.tolist()
    assert set(train.labels.tolist()) == {0, 1}
    for (a, b), (c, d) in zip(plain, map(opened, in_order(train, 4, workers=1)), strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)


def test_without_train_and_val_folders_everything_is_one_set(tmp_path: Path) -> None:
    train, val = image_folders(put(tmp_path / "in", "b/1.jpg", "a/1.jpg"), keep)
    assert val is None and train.classes == ["a", "b"] and len(train) == 2


def test_the_fingerprint_is_of_names_classes_and_sizes(tmp_path: Path) -> None:
    def fingerprint(*names: str) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        return image_folders(put(root, *names), keep)[0].fingerprint

    assert fingerprint("a/1.jpg", "b/2.jpg") == fingerprint("a/1.jpg", "b/2.jpg")
    assert len({fingerprint("a/1.jpg", "b/2.jpg"), fingerprint("a/1.jpg", "b/3.jpg"), fingerprint("a/1.jpg")}) == 3


def test_an_image_that_cannot_be_read_is_named(split_folder: Path) -> None:
    train, _ = image_folders(split_folder, keep)
    (split_folder / train.paths[0]).write_bytes(b"no image")
    (split_folder / train.paths[1]).unlink()
    for n, reason in ((0, "not an image of a known format"), (1, "No such file")):
        with pytest.raises(BadSample, match=reason) as refusal:
            train.load(n, rng_for(0, 0, 0))
        assert refusal.value.name == str(split_folder / train.paths[n])


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "there is no jpg"),
        (["1.jpg", "a/2.jpg"], "is not in a class folder"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg"], "is not in train"),
    ],
)
def test_folders_that_are_none_are_refused_with_what_was_expected(
    names: list[str], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match=complaint):
        image_folders(put(tmp_path / "in", *names), keep)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        image_folders(tmp_path / "nothing", keep)


def test_restart_marked_files_are_read_as_others_are(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    pixels.save(buffer, "JPEG", restart_marker_rows=1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(buffer.getvalue())
    train, _ = image_folders(tmp_path, keep)
    assert isinstance(train, ImageFolder)
    assert train.load(0, rng_for(0, 0, 0))[0].shape == (3, 32, 32)
