"""Annotations mended in a shard are noticed, and odd names in it are said for what they are."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.data.pack import pack
from detection.data.shards import read_shards
from shared.errors import DataError


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one shard of six images with one object each."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for n in range(1, 7):
        Image.new("RGB", (20, 10), (n, 0, 0)).save(tmp_path / "images" / f"{n}.png")
        images.append({"id": n, "file_name": f"{n}.png", "width": 20, "height": 10})
        ring = [1, 1, 6, 1, 6, 5]
        annotations.append({"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 5, 4], "segmentation": [ring]})
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "ring"}]
    (tmp_path / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    pack(tmp_path / "images", tmp_path / "a.json", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("finds", [(), ("masks",)])
def test_a_mended_annotation_is_refused_until_the_index_is_deleted_and_then_seen(shards: Path, finds: tuple) -> None:
    before, shard = read_shards(shards, finds), shards / "000000.tar"
    times, content = shard.stat(), shard.read_bytes()
    mended = b'"category_id":2'.join(content.rsplit(b'"category_id":1', 1))  # far behind the first 4 kB
    with shard.open("r+b") as file:  # in place
        file.write(mended)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"000000\.tar was changed after its index was built; .* delete .*boxes\.npz"):
        read_shards(shards, finds)
    for place in shards.glob("*.npz"):
        place.unlink()
    after = read_shards(shards, finds)
    assert before.category_ids.tolist() == [1] * 6 and after.category_ids.tolist() == [1, 1, 1, 1, 1, 2]
    assert after.sha256 != before.sha256, "a resumed run must notice"


def test_a_touched_shard_is_the_same_and_an_index_of_an_earlier_version_is_built_again(shards: Path) -> None:
    place, first = shards / "000000.boxes.npz", read_shards(shards)
    os.utime(shards / "000000.tar", (1, 1))
    assert read_shards(shards).sha256 == first.sha256
    with np.load(place) as stored:
        columns = {name: stored[name] for name in stored if name != "headers"}
    columns["category_ids"] = columns["category_ids"] + 1
    np.savez(place, **columns)
    assert read_shards(shards).category_ids.tolist() == [1] * 6
    with np.load(place) as stored:
        assert "headers" in stored


def test_a_name_with_a_dot_in_its_key_is_refused_for_that(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    (tmp_path / "categories.json").write_text('[{"id": 1, "name": "disc"}]')
    about = {"image_id": 1, "file_name": "a", "width": 8, "height": 8, "annotations": []}
    for names in (["a.1.png", "a.1.json", "a.2.png", "a.2.json"], ["a.png", "a.json", "a.1.png", "a.1.json"]):
        with tarfile.open(tmp_path / "0.tar", "w") as tar:
            for name in names:
                content = json.dumps(about).encode() if name.endswith("json") else buffer.getvalue()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        with pytest.raises(DataError, match=r"'a\.1\.(png|json)' in shard .*0\.tar has a dot in its key"):
            read_shards(tmp_path)
