"""No image of a shard is hidden behind a dot, dropped or repeated, from disk or streamed: it is refused by name."""

from __future__ import annotations

import functools
import http.server
import io
import logging
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pretrain.data.shards import ShardSet
from pretrain.data.stream import RemoteShards
from shared.errors import DataError


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(
    params=["disk", pytest.param("stream", marks=pytest.mark.skipif(not shutil.which("curl"), reason="curl"))]
)
def labels(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, int]]]:
    """The labels by key of a shard with members of these names; every class is 1."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def written(names: str) -> Path:
        image = io.BytesIO()
        Image.new("RGB", (4, 4)).save(image, "PNG")
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name in names.split():
                content = b"1" if name.endswith("cls") else image.getvalue()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return tmp_path / "a.tar"

    def from_disk(names: str, labeled: bool = True) -> dict[str, int]:
        data = ShardSet([written(names)], lambda image, rng: image, labeled=labeled)
        return {data.name(n).partition(":")[2]: int(data.labels[n]) for n in range(len(data))}

    def streamed(names: str, labeled: bool = True) -> dict[str, int]:
        written(names)
        url = f"http://127.0.0.1:{server.server_address[1]}/a.tar"
        data = RemoteShards([url], lambda image, rng: image, seed=0, epoch_samples=9, labeled=labeled)
        return {name.rpartition(":")[2]: label for name, _, label in data.samples(url)}

    if request.param == "disk":
        yield from_disk
        return
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield streamed
        server.shutdown()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("a.1.png a.1.cls a.2.png a.2.cls b.png b.cls", r"'a\.1\.cls' in shard .*a\.tar has a dot in its key"),
        ("a.png a.cls a.1.png a.1.cls", r"'a\.1\.cls' in shard"),
        ("a.cls a.1.cls a.png a.1.png", r"'a\.1\.png' in shard"),
        ("a.png a.cls a.1.png b.png b.cls", r"'a\.1\.png' in shard"),
        ("a.png a.cls my.cat.jpg", r"'my\.cat\.jpg' in shard"),
        ("a.png a.cls b.png b.cls c.png c.cls a.front.jpg", r"'a\.front\.jpg' in shard"),
        ("a.png a.cls a.jpg", "two members for key 'a', a duplicate at byte"),
        ("a.png a.cls b.png b.cls a.png a.cls", "two members for key 'a'"),
        ("a.png a.cls a.cls", "two members for key 'a'"),
        ("a.txt", "contains no jpg"),
    ],
)
def test_images_that_would_be_lost_or_read_twice_are_refused_by_name(labels: Any, names: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        labels(names)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("a.png a.1.png b.png", r"'a\.1\.png' in shard .* has a dot in its key"),
        ("a.png b.png b.cls", "'a' in shard .* has no class; add 'a.cls' or remove all"),
    ],
)
def test_shards_without_labels_have_the_same_checks(labels: Any, names: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        labels(names, labeled=False)


def test_dots_of_folders_and_further_members_of_most_samples_are_no_keys(labels: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    names = "d.1/a.png d.1/a.cls d.1/a.seg.png b.png b.cls b.seg.png b.coarse.cls c.png c.cls c.coarse.cls"
    assert labels(f"{names} __x__/d.png __x__/d.cls") == {"d.1/a": 1, "b": 1, "c": 1, "__x__/d": 1}
    assert "ignored 2 members '.seg.png' of shard" in caplog.text


def test_images_of_formats_that_are_not_read_are_said(labels: Any, caplog: Any) -> None:
    assert labels("a.png b.gif c.bmp ._a.png", labeled=False) == {"a": -1}
    assert "ignored 2 images in shard" in caplog.text and "bmp, gif" in caplog.text
