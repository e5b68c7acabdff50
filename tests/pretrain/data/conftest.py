"""A folder of shards of two splits, and an empty cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pretrain.data.of_shards import samples, write_tar


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_tar(folder / "train-000000.tar", samples(0, 5))
    write_tar(folder / "train-000001.tar", samples(5, 3))
    write_tar(folder / "val-000000.tar", samples(0, 2))
    return folder
