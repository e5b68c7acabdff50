"""A shard that was changed after it was indexed is refused with the way out, and then read as it is."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pretrain.data.shard_index import index_places, open_index
from pretrain.data.shards import ShardSet
from pretrain.packing.pack import pack
from shared.errors import DataError


def keep(image: Any, rng: Any) -> Any:
    return image


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packed shard of three classes with an image each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for n, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / "in" / name / "0.png")
    pack(tmp_path / "in", tmp_path / "out")
    return tmp_path / "out" / "train-000000.tar"


def mended(shard: Path) -> bytes:
    """The shard with the label of class 2 changed to 0."""
    content = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        for member in tar:
            if member.name.endswith(".cls") and content[member.offset_data] == ord("2"):
                content[member.offset_data] = ord("0")
    return bytes(content)


@pytest.mark.parametrize("opened_before", [False, True])
def test_mended_labels_are_refused_until_the_index_is_deleted_and_then_seen(shard: Path, opened_before: bool) -> None:
    before = None
    if opened_before:
        before = ShardSet([shard], keep)
        assert sorted(before.labels.tolist()) == [0, 1, 2]
    times, content = shard.stat(), mended(shard)
    with shard.open("r+b") as file:  # in place
        file.write(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"was changed after its index was built; if the shard is correct, delete"):
        ShardSet([shard], keep)
    index_places(shard)[0].unlink()
    after = ShardSet([shard], keep)
    assert sorted(after.labels.tolist()) == [0, 0, 1]
    assert before is None or after.fingerprint != before.fingerprint, "a resumed run must notice"


def test_a_copied_or_touched_shard_is_the_same(shard: Path) -> None:
    os.utime(shard, (1, 1))
    assert len(ShardSet([shard], keep)) == 3


def test_an_index_of_an_earlier_version_is_built_again(shard: Path) -> None:
    place = index_places(shard)[0]
    document = json.loads(place.read_text())
    first = open_index(shard)
    document.pop("headers")
    place.write_text(json.dumps(document | {"class": [0, 0, 0]}))
    again = open_index(shard)
    assert again.sha256 == first.sha256 and again.labels is not None and sorted(again.labels.tolist()) == [0, 1, 2]
    assert "headers" in json.loads(place.read_text())
    place.write_text(json.dumps(document | {"headers": 5}))
    with pytest.raises(DataError, match=r"not a usable shard index .* delete it"):
        open_index(shard)


def test_shards_of_webdatasets_own_writer_are_indexed_and_compared(tmp_path: Path, shard: Path) -> None:
    from webdataset.writer import ShardWriter

    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "JPEG")
    with ShardWriter(f"{tmp_path}/theirs-%04d.tar", maxcount=2, verbose=0) as writer:
        for n in range(3):
            writer.write({"__key__": f"k{n}", "jpg": image.getvalue(), "cls": n, "json": {"n": n}})
    shards = sorted(tmp_path.glob("theirs-*.tar"))
    assert ShardSet(shards, keep).labels.tolist() == ShardSet(shards, keep).labels.tolist() == [0, 1, 2]
