"""A shard whose headers or labels changed is noticed, whatever its size and times say; others are read once."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from shared.feeding import unchanged
from shared.feeding.unchanged import header_digest


def write_tar(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("_", "."))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def mend(path: Path, before: bytes, after: bytes, *, keep_times: bool = True) -> None:
    """Replace bytes in place; the file keeps its size and its times."""
    status, content = path.stat(), path.read_bytes()
    assert content.count(before) == 1 and len(before) == len(after)
    time.sleep(0.02)  # longer than the clock tick of a file system
    with path.open("r+b") as file:
        file.seek(content.index(before))
        file.write(after)
    if keep_times:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards whose headers are read, one entry each time."""
    found: list[Path] = []
    real = unchanged.members

    def members(path: Path, **options: Any) -> Any:
        found.append(path)
        return real(path, **options)

    monkeypatch.setattr(unchanged, "members", members)
    return found


@pytest.mark.parametrize("recent", [2.0, -1.0])  # with and without the wait before a digest is remembered
@pytest.mark.parametrize(("before", "after"), [(b"label 1", b"label 2"), (b"a.cls", b"b.cls")])
def test_a_mended_label_or_name_is_noticed_at_the_same_size_and_time(
    recent: float, before: bytes, after: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "RECENT", recent)
    shard = write_tar(tmp_path / "a.tar", a_jpg=b"image", a_cls=b"label 1")
    first = header_digest(shard, ["cls"])
    assert header_digest(shard, ["cls"]) == first
    if before == b"a.cls":  # the checksum of a header covers its name
        time.sleep(0.02)
        write_tar(shard, a_jpg=b"image", b_cls=b"label 1")
    else:
        mend(shard, before, after)
    assert header_digest(shard, ["cls"]) != first
    assert header_digest(shard, ["json"]) != first


def test_content_that_is_no_label_is_not_read(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", a_jpg=b"image", a_cls=b"label 1")
    first = header_digest(shard, ["cls"])
    mend(shard, b"image", b"other")
    assert header_digest(shard, ["cls"]) == first


def test_headers_are_read_again_only_after_a_change_of_size_or_time(
    tmp_path: Path, walks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = write_tar(tmp_path / "a.tar", a_jpg=b"image", a_cls=b"1")
    header_digest(shard, ["cls"])
    header_digest(shard, ["cls"])
    assert len(walks) == 2, "a file that has just been written is not believed yet"
    monkeypatch.setattr(unchanged, "RECENT", -1.0)
    first = header_digest(shard, ["cls"])
    assert header_digest(shard, ["cls"]) == first and len(walks) == 3
    os.utime(shard)
    assert header_digest(shard, ["cls"]) == first and len(walks) == 4
    (tmp_path / "copy").mkdir()
    copied = Path(shutil.copy2(shard, tmp_path / "copy"))
    for place in tmp_path.glob("*.seen"):
        shutil.copy2(place, tmp_path / "copy")
    assert header_digest(copied, ["cls"]) == first and walks[-1] == copied
    assert header_digest(copied, ["cls"]) == first and len(walks) == 5, "the copy has its own record"


def test_where_nothing_can_be_written_headers_are_read_every_time(
    tmp_path: Path, walks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "RECENT", -1.0)
    monkeypatch.setattr(unchanged, "write_first", lambda places, write: None)
    shard = write_tar(tmp_path / "a.tar", a_jpg=b"image", a_cls=b"1")
    assert header_digest(shard, ["cls"]) == header_digest(shard, ["cls"]) and len(walks) == 2
