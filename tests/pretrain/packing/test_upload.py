"""Shards at an address are all of a folder or refused; a stopped upload goes on, and nothing is overwritten.

fsspec's file system in memory stands for a bucket.
"""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from pretrain.cli import main
from pretrain.data.shards import find_shards
from pretrain.packing.pack import pack
from pretrain.packing.upload import upload
from shared.errors import DataError
from tests.pretrain.packing.of_images import put

BUCKET = "memory://bucket/new"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    fsspec.filesystem("memory").store.clear()
    put(tmp_path / "in", *(f"{name}/{n}.jpg" for name in ("dog", "cat") for n in range(6)))
    pack(tmp_path / "in", tmp_path / "shards", shard_size=4)
    return tmp_path / "shards"


def at_the_address() -> dict[str, bytes]:
    system = fsspec.filesystem("memory")
    return {name.rpartition("/")[2]: system.cat_file(name) for name in system.find("/bucket/new")}


def files(folder: Path) -> dict[str, bytes]:
    return {place.name: place.read_bytes() for place in folder.iterdir()}


def test_every_file_is_there_and_a_second_upload_overwrites_nothing(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["upload", str(shards), BUCKET]) == 0
    assert f"uploaded {len(files(shards))} files to {BUCKET}" in capsys.readouterr().out
    assert at_the_address() == files(shards)
    assert [Path(url).name for url in find_shards(BUCKET, "train")] == sorted(
        place.name for place in shards.glob("*.tar")
    )
    assert main(["upload", str(shards), BUCKET]) == 3
    assert "has files already, which are not of an unfinished upload of this folder" in capsys.readouterr().err


def test_a_stopped_upload_is_no_set_of_shards_and_goes_on(shards: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload(shards, BUCKET, stop)
    some = at_the_address()
    assert 1 < len(some) <= len(files(shards))
    for address in (BUCKET, f"{BUCKET}/train-*.tar"):
        with pytest.raises(DataError, match="is still being uploaded, or that was stopped; run `pretrain upload`"):
            find_shards(address, "train")
    (shards / "classes.txt").write_text("other\n")
    with pytest.raises(DataError, match="not of an unfinished upload of this folder"):
        upload(shards, BUCKET, lambda done, total: None)
    assert at_the_address() == some


def test_the_rest_of_a_stopped_upload_is_what_was_missing(shards: Path) -> None:
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upload(shards, BUCKET, stop)
    assert upload(shards, BUCKET, lambda done, total: None) == (len(files(shards)), 3)
    assert at_the_address() == files(shards)


def test_what_is_no_address_or_no_shards_is_refused(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upload", str(shards), "/bucket"]) == 2
    assert "'/bucket' is no address to upload to; they start with s3://" in capsys.readouterr().err
    assert main(["upload", str(shards.parent / "in"), BUCKET]) == 3
    assert "is an image folder: pack it first" in capsys.readouterr().err and not at_the_address()
