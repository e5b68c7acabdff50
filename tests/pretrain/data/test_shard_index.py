"""The index of a shard is built from a whole tar only, written once, and refused when it no longer fits its shard."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from pretrain.data.shard_index import build_index, index_places, members, open_index
from pretrain.data.shards import ShardSet, find_shards
from shared.errors import DataError
from tests.pretrain.data.of_shards import keep, samples, write_tar

pytestmark = pytest.mark.usefixtures("cache")


# -- damage -----------------------------------------------------------------------------------------------------------


def refusal_of(path: Path) -> str:
    with pytest.raises(DataError) as refusal:
        ShardSet([path], keep)
    assert path.name in str(refusal.value) and "byte" in str(refusal.value)
    return str(refusal.value)


def test_a_shard_cut_anywhere_is_refused(tmp_path):
    path = write_tar(tmp_path / "whole.tar", samples(0, 4))
    whole, end = path.read_bytes(), max(m.offset_data + 512 * -(-m.size // 512) for m in members(path))
    cut = tmp_path / "cut.tar"
    for size in [*range(0, end + 1024, 256), end + 1, end + 1023]:
        cut.write_bytes(whole[:size])
        refusal_of(cut)
    cut.write_bytes(whole[: end + 1024])  # a tar is whole with its two empty blocks, padding may follow
    assert ShardSet([cut], keep).sizes == [4]


def test_any_flipped_bit_of_any_header_is_refused_or_harmless(tmp_path):
    path = write_tar(tmp_path / "whole.tar", samples(0, 3))
    whole, index, rng = path.read_bytes(), build_index(path), random.Random(0)
    headers, damaged, refused = [m.offset for m in members(path)], tmp_path / "flipped.tar", 0
    for header in headers:
        for _ in range(40):
            data, byte = bytearray(whole), rng.randrange(512)
            data[header + byte] ^= 1 << rng.randrange(8)
            damaged.write_bytes(data)
            try:
                columns = build_index(damaged)
                # the checksum's own padding guards nothing
                assert 148 <= byte < 156 and all(columns[name] == index[name] for name in ("key", "offset", "class"))
            except DataError as error:
                assert "byte" in str(error)
                refused += 1
    assert refused > 0.95 * 40 * len(headers)


def test_the_refusal_names_the_byte_where_it_goes_wrong(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples(0, 3))
    third = list(members(path))[2].offset
    data = bytearray(path.read_bytes())
    data[third] ^= 1
    path.write_bytes(data)
    assert f"damaged at byte {third}:" in refusal_of(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 100, b"\x1f\x8b" + bytes(2000)])
def test_what_is_no_tar_is_refused(content, tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    assert "not an uncompressed tar" in refusal_of(path)


# -- the index --------------------------------------------------------------------------------------------------------


def test_the_index_is_written_once_and_believed_after(folder, monkeypatch):
    first = ShardSet(find_shards(folder, "train"), keep)
    assert (folder / "train-000000.index.json").is_file()
    monkeypatch.setattr("pretrain.data.shard_index.build_index", None)
    second = ShardSet(find_shards(folder, "train"), keep, verify=True)
    assert second.fingerprint == first.fingerprint and second.sizes == first.sizes
    assert np.array_equal(second.labels, first.labels) and second.read(6) == first.read(6)


def test_different_data_has_a_different_fingerprint(folder):
    train = find_shards(folder, "train")
    assert len({ShardSet(shards, keep).fingerprint for shards in (train, train[:1], train[::-1])}) == 3


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(folder, cache, monkeypatch):
    real = Path.write_text

    def write_text(self, *args, **options):
        if folder in self.parents:
            raise PermissionError(13, "read-only")
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    ShardSet(find_shards(folder, "train"), keep)
    assert not list(folder.glob("*.json")) and len(list(cache.rglob("*.index.json"))) == 2
    monkeypatch.setattr("pretrain.data.shard_index.build_index", None)
    assert len(ShardSet(find_shards(folder, "train"), keep)) == 8


def test_a_shard_that_no_longer_fits_its_index_is_refused(folder):
    shard = folder / "val-000000.tar"
    open_index(shard)
    data = shard.read_bytes()
    shard.write_bytes(data + bytes(512))
    with pytest.raises(DataError, match=r"val-000000.tar .* its index says \d+; .*delete"):
        open_index(shard)
    write_tar(shard, samples(3, 2))
    assert shard.stat().st_size == len(data)
    with pytest.raises(DataError, match="changed after its index"):
        open_index(shard)
    changed = bytearray(data)
    changed[-1] = 1
    shard.write_bytes(changed)
    open_index(shard)
    with pytest.raises(DataError, match="sha256"):
        open_index(shard, verify=True)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"offset": [0]},
        {"offset": [0, 10**9]},
        {"size": [-1, 5]},
        {"class": ["a", 1]},
        {"key": None},
        {"head": 5},
    ],
)
def test_an_unusable_index_is_refused_with_the_way_out(change, folder):
    shard = folder / "val-000000.tar"
    open_index(shard)
    place = index_places(shard)[0]
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(DataError, match=r"not a usable shard index .* delete it"):
        open_index(shard)
