"""Tars: whole or refused at a byte, and any member again by its offset."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import DataError
from shared.feeding.tar import OpenFiles, index_places, members, split_name, write_first

PARTS = {"a.jpg": b"one", "a.json": b"{}" * 700, "sub/b.JPG": b"x" * 1536}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name, data in PARTS.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return tmp_path / "s.tar"


def test_every_member_is_read_again_by_its_offset_also_by_a_worker(shard: Path) -> None:
    files = pickle.loads(pickle.dumps(OpenFiles()))  # noqa: S301, our own bytes
    found = {m.name: bytes(files.read(shard, m.offset_data, m.size)) for m in members(shard)}
    assert found == PARTS


def test_a_tar_that_is_cut_anywhere_is_refused_at_a_byte(shard: Path) -> None:
    whole = shard.read_bytes()
    ends = [m.offset_data + -(-m.size // 512) * 512 for m in members(shard)]
    for cut in [*range(0, ends[-1] + 1024, 300), *ends]:
        shard.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"s\.tar is damaged at byte \d+: .*; fetch or pack it again"):
            list(members(shard))


def test_a_file_that_becomes_shorter_is_named(shard: Path) -> None:
    files = OpenFiles()
    files.read(shard, 0, 100)
    shard.write_bytes(b"short")
    with pytest.raises(DataError, match="the shard is shorter than its index says"):
        files.read(shard, 0, 100)
    with pytest.raises(DataError, match="cannot read shard .*nowhere.tar"):
        files.read(shard.with_name("nowhere.tar"), 0, 1)


@given(st.text("ab./", min_size=1, max_size=12))
def test_a_key_and_its_extension_make_up_the_name(name: str) -> None:
    key, extension = split_name(name)
    stem, dot, _ = name.rpartition("/")[2].partition(".")
    assert (f"{key}.{extension}" == name) or not (stem and dot)


def test_an_index_goes_to_the_first_place_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    beside, cached = index_places(tmp_path / "s.tar", ".x.json")
    assert beside == tmp_path / "s.x.json" and cached.is_relative_to(tmp_path / "cache")
    (tmp_path / "file").write_text("")
    write_first([tmp_path / "file" / "no", cached], lambda place: place.write_text("index"))
    assert cached.read_text() == "index" and sorted(p.name for p in cached.parent.iterdir()) == [cached.name]
    write_first([tmp_path / "file" / "no"], lambda place: place.write_text("index"))  # nowhere: walked again next time
