"""Shards at addresses that fsspec opens: the samples of local ones, and one sentence for whatever a file system raises.

Its file system in memory stands for all of them; no bucket of a provider is reached from tests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from pretrain.cli import main
from pretrain.data.remote import tars_at
from pretrain.data.shards import ShardSet, find_shards
from pretrain.data.stream import RemoteShards, remote_classes
from pretrain.packing.pack import pack
from shared.errors import DataError
from tests.pretrain.packing.of_images import put

BUCKET = "memory://bucket/shards"


def first_pixel(image: torch.Tensor, rng: Any) -> torch.Tensor:
    return image[:, 0, 0]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Shards in a folder, and the same in a bucket."""
    put(tmp_path / "in", *(f"{name}/{n}.jpg" for name in ("dog", "cat") for n in range(20)))
    pack(tmp_path / "in", tmp_path / "shards", shard_size=5, val_share=0.3)
    system = fsspec.filesystem("memory")
    system.store.clear()
    for place in (tmp_path / "shards").iterdir():
        system.pipe_file(f"/bucket/shards/{place.name}", place.read_bytes())
    return tmp_path / "shards"


def test_a_folder_a_glob_and_a_range_are_the_shards_of_the_split(local: Path) -> None:
    names = sorted(place.name for place in local.glob("train-*.tar"))
    asked = [f"{BUCKET}/{name}" for name in names]
    assert len(names) > 2
    assert find_shards(BUCKET, "train") == find_shards(f"{BUCKET}/", "train") == asked
    assert find_shards(f"{BUCKET}/*.tar", "train") == find_shards(f"{BUCKET}/train-*.tar", None) == asked
    assert find_shards(f"{BUCKET}/train-{{000000..00000{len(names) - 1}}}.tar", "train") == asked
    assert find_shards(BUCKET, "val") == [f"{BUCKET}/{place.name}" for place in sorted(local.glob("val-*.tar"))]
    assert find_shards(f"file://{local}", "train") == find_shards(local, "train")


def test_an_epoch_has_the_samples_of_the_local_shards(local: Path) -> None:
    urls = find_shards(BUCKET, "train")
    here = ShardSet(find_shards(local, "train"), first_pixel)
    lists = remote_classes(urls)
    assert lists == {BUCKET: ["cat", "dog"]}
    there = RemoteShards(urls, first_pixel, seed=0, epoch_samples=len(here), lists=lists)
    expected = [(here.load(n, None)[0].tolist(), here.load(n, None)[1]) for n in range(len(here))]  # pyright: ignore
    assert sorted((pixel.tolist(), label) for pixel, label in there) == sorted(expected)
    assert remote_classes(["memory://elsewhere/a.tar"]) == {"memory://elsewhere": None}


def test_damage_and_absence_are_said_with_the_address(local: Path) -> None:
    system, url = fsspec.filesystem("memory"), find_shards(BUCKET, "train")[0]
    whole = system.cat_file(url)
    for data, why in ((whole[:3000], "is damaged at byte"), (b"<html>" * 200, "is damaged at byte 1200")):
        system.pipe_file(url, data)
        with pytest.raises(DataError, match=f"{url} {why}"):
            list(RemoteShards([url], first_pixel, seed=0, epoch_samples=5))
    system.rm_file(url)
    with pytest.raises(DataError, match=f"there is no shard {url}; check the address"):
        list(RemoteShards([url], first_pixel, seed=0, epoch_samples=5))
    with pytest.raises(DataError, match="there are no .tar shards at memory://bucket/none"):
        find_shards("memory://bucket/none", "train")


def test_a_network_that_fails_and_a_package_that_lacks_are_one_sentence(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unplugged:
        def glob(self, path: str) -> list[str]:
            raise RuntimeError('Could not connect to "https://bucket"\nmore lines')

        cat_file = exists = open = glob

    def opens(address: str) -> tuple[Any, str]:
        if address.startswith("gs"):
            raise ImportError("Please install gcsfs")
        return Unplugged(), address

    monkeypatch.setattr(fsspec.core, "url_to_fs", opens)
    for call in (tars_at, lambda address: remote_classes([f"{address}/a.tar"])):
        with pytest.raises(
            DataError, match=r'\(Could not connect to "https://bucket"\); check the address, the login and'
        ):
            call("s3://bucket/shards")
    with pytest.raises(DataError, match=r"gs:// needs a package; pip install 'chordate\[remote\]'"):
        find_shards("gs://bucket/shards", "train")


@pytest.mark.slow
def test_a_training_streams_them(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "--model",
        "test_resnet",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--size",
        "32",
        "--device",
        "cpu",
        "--num-workers",
        "0",
        "--name",
        "far",
    ]
    assert main(["train", *words, "--data-path", BUCKET, "--samples", "16"]) == 0
    assert json.loads((tmp_path / "runs/far/result.json").read_text())
